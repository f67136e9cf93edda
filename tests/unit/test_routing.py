"""Routing: the hash that every implementation must compute, how splits move, and the proof of what was recorded."""

import hashlib
import json

import numpy as np
import pytest

from mlops.routing import (
    MAX_HASH,
    MAX_SEGMENTS,
    Recorded,
    Segment,
    SplitTable,
    following,
    is_sampled,
    key_bucket,
    layout,
    moved,
    prove,
    routing_hash,
    split_table,
    upper_bound,
    whole,
)
from tests.vectors.routing.generate import FILE, vectors

KEYS = 100_000
#: Two-sided: a right split falls outside of it once in ten billion.
SIGMAS = 6.5


def test_hash_is_the_documented_one() -> None:
    assert routing_hash(b"", b"") == int.from_bytes(hashlib.sha256(b"\0").digest()[:8], "big")
    # A vector for other implementations: SHA-256("salt" 0x00 "SPY").
    assert routing_hash(b"salt", b"SPY") == int(hashlib.sha256(b"salt\0SPY").hexdigest()[:16], 16)
    assert 0 <= routing_hash(b"salt", b"QQQ") <= MAX_HASH


def test_salt_and_key_do_not_run_together() -> None:
    assert routing_hash(b"a", b"bc") != routing_hash(b"ab", b"c")


def test_bucket_is_the_byte_after_the_hash() -> None:
    assert key_bucket(b"salt", b"SPY") == hashlib.sha256(b"salt\0SPY").digest()[8]


def test_shared_vectors_are_what_this_code_gives() -> None:
    assert json.loads(FILE.read_text()) == json.loads(json.dumps(vectors()))


def test_a_sample_is_the_fraction_of_the_hashes_under_its_own_salt() -> None:
    ids = [f"request-{number}".encode() for number in range(20_000)]
    for fraction_bp in (0, 100, 2_500, 10_000):
        chosen = sum(is_sampled(b"shadow", each, fraction_bp) for each in ids)
        share = fraction_bp / 10_000
        assert abs(chosen - len(ids) * share) <= SIGMAS * (len(ids) * share * (1 - share)) ** 0.5
    small, large = ({each for each in ids if is_sampled(b"shadow", each, bp)} for bp in (100, 2_500))
    assert small < large
    assert small != {each for each in ids if is_sampled(b"other", each, 100)}


def test_bounds_are_exact_to_the_grid() -> None:
    assert upper_bound(10_000) == MAX_HASH
    assert upper_bound(5_000) == (1 << 63) - 1
    assert upper_bound(1) == (1 << 64) // 10_000 - 1


def test_a_growing_canary_takes_from_the_stable_version_next_to_what_it_has() -> None:
    one = moved(whole("1"), {"2": 100, "1": 9_900})
    assert one == (Segment("2", 100), Segment("1", 10_000))
    half = moved(one, {"2": 5_000, "1": 5_000})
    assert half == (Segment("2", 5_000), Segment("1", 10_000))
    assert moved(half, {"2": 10_000}) == whole("2")


def test_a_third_version_moves_no_key_between_the_first_two() -> None:
    half = moved(whole("1"), {"2": 5_000, "1": 5_000})
    third = moved(half, {"3": 1_000, "2": 4_000, "1": 5_000})
    assert third == (Segment("3", 1_000), Segment("2", 5_000), Segment("1", 10_000))
    # Where it is to take from the version that it is not beside, it gets a second segment.
    assert moved(third, {"3": 2_000, "2": 4_000, "1": 4_000}) == (
        *third[:2],
        Segment("3", 6_000),
        Segment("1", 10_000),
    )


def test_a_split_of_too_many_segments_is_refused() -> None:
    comb = [Segment(str(1 + place % 2), 100 * (place + 1)) for place in range(100)]
    with pytest.raises(ValueError, match=f"at most {MAX_SEGMENTS}"):
        moved(comb, {"1": 5_001, "2": 4_999})


@pytest.mark.parametrize("wanted", [{"1": 9_999}, {"1": 10_000, "2": 0}, {"1": 10_001, "2": -1}, {}])
def test_weights_that_are_none_are_refused(wanted: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="sum to 10000"):
        moved(whole("1"), wanted)


@pytest.mark.parametrize(
    "before", [(), (Segment("1", 9_000),), (Segment("1", 5_000), Segment("1", 10_000)), (Segment("1", 0), *whole("2"))]
)
def test_segments_that_are_no_split_are_refused(before: tuple[Segment, ...]) -> None:
    with pytest.raises(ValueError, match="no split"):
        moved(before, {"1": 10_000})


def test_only_a_layout_with_a_history_is_kept() -> None:
    wanted = {"2": 3_000, "1": 7_000}
    assert following((), wanted) == ()
    assert following(whole("1"), wanted) == ()
    kept = following(whole("2"), wanted)
    assert kept == (Segment("1", 7_000), Segment("2", 10_000))
    assert layout(kept, wanted) == kept
    assert layout((), wanted) == (Segment("2", 3_000), Segment("1", 10_000))
    # Segments of other weights are not this split's.
    assert layout(kept, {"2": 4_000, "1": 6_000}) == (Segment("2", 4_000), Segment("1", 10_000))


@pytest.mark.parametrize("weight_bp", [1, 100, 2_500, 5_000])
def test_keys_fall_as_the_weights_say(weight_bp: int) -> None:
    table = split_table(b"salt", moved(whole("1"), {"2": weight_bp, "1": 10_000 - weight_bp}))
    share = weight_bp / 10_000
    found = sum(table.version(b"key-%d" % number) == "2" for number in range(KEYS))
    assert abs(found - KEYS * share) <= SIGMAS * (KEYS * share * (1 - share)) ** 0.5 + 1


def test_key_buckets_are_even_within_a_share_of_one_in_a_hundred() -> None:
    table = split_table(b"salt", moved(whole("1"), {"2": 100, "1": 9_900}))
    keys = [b"key-%d" % number for number in range(KEYS)]
    buckets = np.bincount([key_bucket(b"salt", key) for key in keys if table.version(key) == "2"], minlength=256)
    # The leading bytes would leave three buckets of 256 for a share of 1%.
    assert np.count_nonzero(buckets) > 200


def recorded(key: bytes, version: str, generation: int = 3, bucket: int | None = None) -> Recorded:
    return Recorded("m", generation, key, key_bucket(b"s", key) if bucket is None else bucket, version)


def test_what_was_recorded_is_proven_or_named() -> None:
    table = split_table(b"s", moved(whole("1"), {"2": 5_000, "1": 5_000}))
    right = [recorded(key, table.version(key)) for key in (b"a", b"b", b"c", b"d")]
    proof = prove({("m", 3): table}, right)
    assert proof.holds
    assert proof.checked == 4
    other = {"1": "2", "2": "1"}
    wrong = recorded(b"a", other[table.version(b"a")])
    odd = recorded(b"b", table.version(b"b"), bucket=(key_bucket(b"s", b"b") + 1) % 256)
    unknown = recorded(b"c", "1", generation=4)
    proof = prove({("m", 3): table}, [*right, wrong, odd, unknown, unknown])
    assert proof.wrong == (wrong, odd)
    assert proof.unknown == {("m", 4): 2}
    assert not proof.holds


def test_nothing_proves_nothing() -> None:
    assert not prove({}, []).holds


@pytest.mark.parametrize(("bounds", "versions"), [((), ()), ((5,), ("1",)), ((MAX_HASH, 3), ("1", "2"))])
def test_a_table_that_is_no_split_is_refused(bounds: tuple[int, ...], versions: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="split"):
        SplitTable(b"", bounds, versions)
