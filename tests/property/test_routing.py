"""Splits that move: every key stays where it may, weights are exact, and the segments stay few."""

from collections.abc import Mapping
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mlops.routing import (
    MAX_HASH,
    WHOLE_BP,
    Segment,
    fits,
    following,
    layout,
    moved,
    routing_hash,
    split_table,
    upper_bound,
    whole,
)
from mlops.routing.segments import weights

NAMES = [str(number) for number in range(1, 6)]


@st.composite
def splits(draw: st.DrawFn) -> dict[str, int]:
    """Weights of one to five versions."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    cuts = draw(
        st.lists(st.integers(1, WHOLE_BP - 1), min_size=len(names) - 1, max_size=len(names) - 1, unique=True).map(
            sorted
        )
    )
    bounds = [0, *cuts, WHOLE_BP]
    return {name: after - before for name, (before, after) in zip(names, pairwise(bounds), strict=True)}


HISTORIES = st.lists(splits(), min_size=1, max_size=8)


def played(history: list[dict[str, int]]) -> list[tuple[Segment, ...]]:
    """The segments after each of the splits."""
    found = [whole(next(iter(history[0])))]
    for wanted in history:
        found.append(moved(found[-1], wanted))
    return found


def owners(segments: tuple[Segment, ...]) -> list[str]:
    """The version of each 1/10,000 of the hashes."""
    found: list[str] = []
    for segment in segments:
        found += [segment.version] * (segment.upto_bp - len(found))
    return found


@given(HISTORIES)
def test_weights_are_exact_whatever_came_before(history: list[dict[str, int]]) -> None:
    for segments, wanted in zip(played(history)[1:], history, strict=True):
        assert fits(segments, wanted)
        hashes: dict[str, int] = {}
        below = -1
        for segment in segments:
            bound = upper_bound(segment.upto_bp)
            hashes[segment.version] = hashes.get(segment.version, 0) + bound - below
            below = bound
        assert below == MAX_HASH
        for version, weight in wanted.items():
            # To less than one hash a segment: the grid's points are rounded down.
            assert abs(hashes[version] * WHOLE_BP - weight * (MAX_HASH + 1)) < WHOLE_BP * len(segments)


@given(HISTORIES)
def test_a_key_moves_only_from_a_version_that_shrinks_to_one_that_grows(history: list[dict[str, int]]) -> None:
    for before, after in pairwise(played(history)):
        had, has = weights(before), weights(after)
        moves = [(old, new) for old, new in zip(owners(before), owners(after), strict=True) if old != new]
        for old, new in set(moves):
            assert has.get(old, 0) < had[old]
            assert has[new] > had.get(new, 0)
        assert len(moves) == sum(max(0, has[version] - had.get(version, 0)) for version in has)


@given(HISTORIES)
def test_each_change_adds_few_segments(history: list[dict[str, int]]) -> None:
    for before, after in pairwise(played(history)):
        assert len(after) <= len(before) + len(weights(before).keys() | weights(after).keys()) - 1


@given(st.lists(st.integers(1, WHOLE_BP - 1), max_size=20))
def test_two_versions_have_one_segment_each_for_ever(shares: list[int]) -> None:
    segments = whole("1")
    for share in shares:
        segments = moved(segments, {"2": share, "1": WHOLE_BP - share})
        assert len(segments) == 2


@given(st.lists(st.integers(1, WHOLE_BP - 1), min_size=2, max_size=10, unique=True).map(sorted), st.binary(max_size=20))
def test_the_canarys_keys_stay_while_it_grows(shares: list[int], salt: bytes) -> None:
    keys = [b"%d" % number for number in range(200)]
    segments, had = whole("1"), set[bytes]()
    for share in shares:
        segments = moved(segments, {"2": share, "1": WHOLE_BP - share})
        table = split_table(salt, segments)
        has = {key for key in keys if table.version(key) == "2"}
        assert had <= has
        had = has


@given(HISTORIES)
def test_what_is_kept_gives_the_same_segments_again(history: list[dict[str, int]]) -> None:
    """A registry keeps `following`, a server reads `layout`: both go on from there as if nothing were left out."""
    kept: tuple[Segment, ...] = ()
    last: Mapping[str, int] | None = None
    for wanted in history:
        found = moved(layout(kept, last), wanted) if last is not None else layout((), wanted)
        kept = following(layout(kept, last) if last is not None else (), wanted)
        last = wanted
        assert layout(kept, wanted) == found


@given(splits(), st.binary(max_size=64), st.binary(max_size=64))
def test_a_key_is_in_the_segment_that_holds_its_hash(wanted: dict[str, int], salt: bytes, key: bytes) -> None:
    segments = layout((), wanted)
    table, place = split_table(salt, segments), routing_hash(salt, key)
    first = next(segment for segment in segments if place <= upper_bound(segment.upto_bp))
    assert table.version(key) == first.version
