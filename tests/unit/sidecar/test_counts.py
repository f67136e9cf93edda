"""Counting: what servers count is in the registry once, in windows whose shares were so, whatever happens."""

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import delete, update

from mlops.registry import schema
from mlops.rollout.sums import read_reporters
from mlops.rollout.sums.values import MIXED_SHARE
from mlops.sidecar.counts.pending import MAX_WINDOWS
from mlops.tap import BlockCounts, PageReader
from mlops.tap.layout import ERRORS, FAILURES, OUTPUT_VIOLATIONS, OVER_EDGE, RUN_OVER_EDGE
from tests.support.counting import SECOND, START_NS, WINDOW_NS, Counting, CountingLife
from tests.support.shared_memory import memory_folder
from tickserve.errors import UnreachableError


@pytest.fixture
def tap() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def life(tap: Path) -> CountingLife:
    return CountingLife(tap, began_ns=START_NS)


@pytest.fixture
def counting(tap: Path, life: CountingLife, tmp_path: Path) -> Counting:
    made = Counting(tap, tmp_path)
    made.step()
    return made


def requests(counting: Counting) -> int:
    return sum(int(row.counts.requests.sum()) for row in counting.rows())


def test_aligned_windows_hold_what_was_counted_in_them(life: CountingLife, counting: Counting) -> None:
    life.count(1, times=3)
    life.count(2, 2, bucket=9, columns=[ERRORS, FAILURES, OUTPUT_VIOLATIONS], times=2)
    counting.step(9.9)
    assert counting.rows() == [], "a window that is not over is not written"
    counting.step(0.2)
    life.count(1, bucket=7, columns=[OVER_EDGE])
    counting.step(10.0)
    assert counting.whole() == [(0, 1, 1, 9_000, 3), (0, 2, 2, 1_000, 2), (10, 1, 1, 9_000, 1)]
    by_key = {(row.start_ns, row.version): row.counts for row in counting.rows()}
    canary = by_key[START_NS, 2]
    assert [int(canary.failures[9]), int(canary.violations[9]), int(canary.answers[9])] == [2, 2, 0]
    assert int(by_key[START_NS + WINDOW_NS, 1].slow[7]) == 1
    with counting.database.read() as connection:
        [reporter] = read_reporters(connection, "demo")
    assert (reporter.server, reporter.complete_to_ns, reporter.window_ns) == (
        "alpha",
        START_NS + 20 * SECOND,
        WINDOW_NS,
    )


def test_shadows_and_what_they_are_compared_with_go_by_processor_time(life: CountingLife, counting: Counting) -> None:
    shadow, compared = life.identity(3, 3), life.identity(1, 6)
    life.place(shadow, compared)
    life.count(3, 3, columns=[RUN_OVER_EDGE])
    life.count(1, 6, columns=[OVER_EDGE])
    counting.step(10.0)
    found = {(row.version, row.role): int(row.counts.slow.sum()) for row in counting.rows()}
    assert found == {(3, 3): 1, (1, 6): 0}


def test_a_share_that_changes_makes_its_window_a_mix_and_the_next_if_it_began_just_then(
    life: CountingLife, counting: Counting
) -> None:
    life.count(1)
    counting.step(10.0)
    life.split(2_000)
    life.count(1)
    counting.step(10.0)
    life.count(2, 2)
    counting.step(9.5)
    life.split(5_000)
    life.count(2, 2)
    counting.step(0.5)
    life.count(2, 2)
    counting.step(10.0)
    life.count(2, 2)
    counting.step(10.0)
    assert counting.whole() == [(0, 1, 1, 9_000, 1), (40, 2, 2, 5_000, 1)]
    mixed = [(row.start_ns - START_NS) // SECOND for row in counting.rows() if row.share_bp == MIXED_SHARE]
    assert sorted(mixed) == [10, 20, 30], "the one that began less than a second after the split is one too"


def test_a_share_that_went_and_came_back_is_seen(life: CountingLife, counting: Counting) -> None:
    life.count(1)
    counting.step(10.0)
    life.split(2_000)
    life.split(1_000)
    life.count(1)
    counting.step(10.0)
    assert [share for *_, share, _ in counting.whole()] == [9_000]


def test_windows_are_as_long_as_an_open_rollout_wants_them(life: CountingLife, counting: Counting) -> None:
    life.count(1)
    counting.step(10.0)
    counting.lengths = {"demo": 2 * SECOND}
    counting.step(0.5)
    for _ in range(3):
        life.count(1)
        counting.step(2.0)
    counting.lengths = {}
    counting.step(0.1)
    life.count(1)
    counting.step(10.0)
    found = sorted((row.start_ns - START_NS, row.window_ns, row.share_bp) for row in counting.rows())
    assert [(start // SECOND, length // SECOND, share) for start, length, share in found] == [
        (0, 10, 9_000),
        (10, 2, 9_000),
        (12, 2, 9_000),
        (14, 2, 9_000),
        (16, 4, 9_000),
    ]


@pytest.mark.parametrize("when", ["before it is written", "when it was written and nobody knows"])
def test_a_sidecar_killed_between_two_steps_loses_and_repeats_nothing(
    life: CountingLife, counting: Counting, when: str
) -> None:
    life.count(1, times=2)
    counting.step(10.0)
    life.count(1, times=3)
    counting.look(10.0)
    if when != "before it is written":
        counting.writer.step()
    counting.begin()
    counting.look()
    life.count(1, times=4)
    counting.step(10.0)
    counting.step(10.0)
    assert requests(counting) == 9
    assert counting.whole()[0] == (0, 1, 1, 9_000, 2)


def test_a_commit_that_seemed_to_fail_is_written_again_over_itself(life: CountingLife, counting: Counting) -> None:
    def cut() -> None:
        raise UnreachableError("the connection was cut after the commit")

    life.count(1, times=2)
    counting.after_write = cut
    counting.step(10.0)
    assert counting.writer.error
    for _ in range(MAX_WINDOWS + 20):
        life.count(1)
        counting.step(10.0)
    counting.after_write = lambda: None
    counting.step()
    counting.step()
    assert not counting.writer.error
    assert requests(counting) == MAX_WINDOWS + 22
    assert counting.whole()[0] == (0, 1, 1, 9_000, 2)


def test_what_was_tried_and_not_committed_is_not_lost_for_what_came_since(
    life: CountingLife, counting: Counting
) -> None:
    def refused() -> None:
        raise UnreachableError("nothing was committed")

    life.count(1, times=2)
    counting.before_write = refused
    counting.step(10.0)
    life.count(1, times=3)
    counting.step(10.0)
    counting.before_write = lambda: None
    counting.step()
    counting.step()
    assert [each[-1] for each in counting.whole()] == [2, 3]


def test_a_split_that_comes_in_the_midst_of_a_look_is_seen(
    life: CountingLife, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.count(1)
    counting.step(10.0)
    snapshot = PageReader.snapshot

    def late(page: PageReader) -> list[BlockCounts]:
        life.split(5_000)
        life.count(2, 2)
        return snapshot(page)

    with monkeypatch.context() as patched:
        patched.setattr(PageReader, "snapshot", late)
        counting.step(10.0)
    assert counting.whole() == [(0, 1, 1, 9_000, 1)]
    assert requests(counting) == 2


def test_while_the_registry_is_away_windows_wait_and_beyond_a_bound_become_one(
    life: CountingLife, counting: Counting
) -> None:
    counting.is_away = True
    for _ in range(50):
        life.count(1)
        counting.step(10.0)
    assert counting.writer.pending("demo") == 50
    counting.is_away = False
    counting.step()
    assert [each[0] for each in counting.whole()] == list(range(0, 500, 10)), "minutes lose not even their windows"
    counting.is_away = True
    for _ in range(3 * MAX_WINDOWS):
        life.count(1)
        counting.step(10.0)
    assert counting.writer.pending("demo") <= 2 * MAX_WINDOWS
    counting.is_away = False
    counting.step()
    counting.step()
    assert requests(counting) == 50 + 3 * MAX_WINDOWS
    assert any(row.share_bp == MIXED_SHARE for row in counting.rows())


def test_a_sidecar_that_began_while_the_registry_was_away_counts_from_where_it_was(
    life: CountingLife, counting: Counting
) -> None:
    life.count(1, times=2)
    counting.step(10.0)
    counting.is_away = True
    life.count(1, times=3)
    counting.begin()
    for _ in range(5):
        counting.step(10.0)
    assert requests(counting) == 2
    counting.is_away = False
    counting.writer.step()
    counting.step(10.0)
    assert requests(counting) == 5
    gap = next(row for row in counting.rows() if row.share_bp == MIXED_SHARE)
    assert (gap.start_ns, gap.end_ns) == (START_NS + 10 * SECOND, START_NS + 70 * SECOND)


def test_a_server_that_begins_anew_in_a_window_is_counted_to_its_end_and_from_its_beginning(
    tap: Path, life: CountingLife, counting: Counting
) -> None:
    life.count(1, times=2)
    counting.step(4.0)
    life.count(1, times=3)
    life.end()
    counting.step(1.0)
    second = CountingLife(tap, began_ns=START_NS + 5 * SECOND)
    second.count(1, times=4)
    assert not counting.consumer.is_through(life.path)
    counting.look(5.0)
    assert not counting.consumer.is_through(life.path), "not before it is written"
    counting.step()
    assert counting.consumer.is_through(life.path)
    assert not counting.consumer.is_through(second.path)
    assert counting.whole() == [(0, 1, 1, 9_000, 4), (0, 1, 1, 9_000, 5)]
    with counting.database.read() as connection:
        assert [each.has_ended for each in read_reporters(connection, "demo")] == [True, False]
    counting.begin()
    counting.step(10.0)
    assert counting.consumer.is_through(life.path)
    assert requests(counting) == 9, "a boot that was counted to its end is not counted again"


def test_a_server_that_ended_while_no_sidecar_was_there_is_counted(
    tap: Path, life: CountingLife, counting: Counting
) -> None:
    life.count(1, times=2)
    life.end()
    counting.unix_ns += 100 * SECOND
    counting.begin()
    counting.step()
    assert requests(counting) == 2
    assert counting.consumer.is_through(life.path)


@pytest.mark.parametrize("jump_s", [-3600.0, -15.0, -1.5, 1.5, 15.0, 3600.0])
def test_a_clock_that_jumps_makes_no_whole_window(life: CountingLife, counting: Counting, jump_s: float) -> None:
    life.count(1)
    counting.step(10.0)
    counting.step(5.0)
    life.count(1, times=2)
    counting.unix_ns += round(jump_s * SECOND)
    for _ in range(400 if jump_s < 0 else 3):
        counting.step(10.0)
    assert requests(counting) == 3
    assert {each[-1] for each in counting.whole()} == {1}, "what was counted over the jump is of no share"
    starts = sorted((row.start_ns, row.end_ns) for row in counting.rows())
    assert all(before[1] <= after[0] for before, after in pairwise(starts))


def test_blocks_that_change_hands_keep_what_is_whose(life: CountingLife, counting: Counting) -> None:
    life.count(2, 2, times=5)
    counting.step(10.0)
    for number in range(3, 70):
        # Each takes a block, and leaves the plan again.
        identity = life.identity(number, 2)
        life.place(identity)
        life.count(number, 2, times=number)
        counting.step(10.0)
        life.place()
        life.now_s += 100.0
    found: dict[int, int] = {}
    for row in counting.rows():
        found[row.version] = found.get(row.version, 0) + int(row.counts.requests.sum())
    assert found == {2: 5} | {number: number for number in range(3, 70)}


def test_a_second_sidecar_of_one_name_writes_nothing_and_says_so(
    tap: Path, life: CountingLife, counting: Counting, tmp_path: Path
) -> None:
    life.count(1)
    counting.step(10.0)
    other = Counting(tap, tmp_path, writer="other")
    other.unix_ns = counting.unix_ns
    other.step(10.0)
    assert "another sidecar counts as 'here'" in other.writer.error
    assert requests(counting) == 1
    assert metric(other, "tickserve_counts_written") == 0
    counting.step(10.0)
    assert not counting.writer.error, "whoever was first goes on"


def test_a_damaged_page_is_said_and_the_others_are_counted(tap: Path, life: CountingLife, counting: Counting) -> None:
    other = CountingLife(tap, began_ns=START_NS + 1)
    (other.path / "counters").write_bytes(b"nothing")
    life.count(1)
    counting.step(10.0)
    assert requests(counting) == 1
    assert metric(counting, "tickserve_counts_damaged_pages") == 1


def test_a_damaged_state_is_said_and_counts_go_on_once_it_is_gone(life: CountingLife, counting: Counting) -> None:
    life.count(1)
    counting.step(10.0)
    counting.database.write(lambda connection: connection.execute(update(schema.reporters).values(state=b"\1x")))
    counting.begin()
    counting.step(10.0)
    assert "the row of reporters with reporter=here" in counting.writer.error
    assert "delete it" in counting.writer.error
    counting.database.write(lambda connection: connection.execute(delete(schema.reporters)))
    counting.writer.step()
    counting.step(10.0)
    assert not counting.writer.error
    assert {row.share_bp for row in counting.rows()} == {MIXED_SHARE}, "what may be there twice is of no share"
    assert requests(counting) == 1


def test_without_a_registry_nothing_waits_and_counting_begins_once_there_is_one(
    tap: Path, life: CountingLife, counting: Counting
) -> None:
    life.count(1, times=3)
    counting.has_registry = False
    counting.begin()
    counting.step(30.0)
    assert counting.rows() == []
    assert counting.consumer.is_through(life.path), "nobody waits for a registry that was never made"
    assert not counting.writer.error
    counting.has_registry = True
    counting.step(10.0)
    counting.step(10.0)
    assert requests(counting) == 3
    assert not counting.consumer.is_through(life.path)


def test_what_no_step_expects_ends_counting_where_it_is_seen(life: CountingLife, counting: Counting) -> None:
    def broken() -> None:
        raise RuntimeError("nobody thought of it")

    counting.after_write = broken
    life.count(1)
    counting.look(10.0)
    counting.writer.start()
    counting.writer.stop()
    with pytest.raises(RuntimeError, match="nobody thought of it"):
        counting.consumer.tick()


def metric(counting: Counting, name: str) -> float:
    return next(each.samples[0].value for each in counting.consumer.collect() if each.name == name)


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_everything_is_counted_once_and_no_share_is_wrong(
    tap: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    lives = [CountingLife(tap, began_ns=START_NS)]
    counting = Counting(tap, tmp_path)
    #: By boot, the share under which a bucket was counted: each split has a bucket of its own.
    shares: dict[tuple[str, int], int] = {}
    counted = 0

    def fails() -> None:
        if chance.random() < 0.3:
            raise UnreachableError("cut after the commit")

    counting.after_write = counting.before_write = fails
    for _ in range(150):
        life = lives[-1]
        match chance.randrange(12):
            case 0 | 1 | 2 | 3:
                times = chance.randrange(1, 4)
                number, role = chance.choice([(1, 1), (2, 2)])
                life.count(number, role, bucket=life.generation % 256, times=times)
                shares[life.name, life.generation % 256] = life.share_bp
                counted += times
            case 4 | 5:
                counting.step(chance.choice([0.1, 3.0, 10.0]))
            case 6:
                counting.look(chance.choice([0.1, 10.0]))
            case 7:
                counting.step(chance.choice([25.0, 60.0]))
            case 8:
                counting.look()
                life.split(chance.choice([500, 1_000, 2_000]))
                counting.look(chance.choice([0.1, 2.0]))
            case 9:
                counting.is_away = not counting.is_away
            case 10:
                counting.begin()
                counting.writer.step()
            case 11:
                if chance.random() < 0.5:
                    life.end()
                    lives.append(CountingLife(tap, began_ns=counting.unix_ns))
                else:
                    counting.unix_ns += chance.choice([-15, -2, 2, 30]) * SECOND
    counting.after_write = counting.before_write = lambda: None
    counting.is_away = False
    counting.writer.step()
    for _ in range(20):
        counting.step(10.0)
    rows = counting.rows()
    assert sum(int(row.counts.requests.sum()) for row in rows) == counted
    for row in rows:
        if row.share_bp == MIXED_SHARE:
            continue
        for bucket in np.flatnonzero(row.counts.requests).tolist():
            of_canary = shares[row.boot, bucket]
            assert row.share_bp == (of_canary if row.version == 2 else 10_000 - of_canary), row
