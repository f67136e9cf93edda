"""Consumers: whatever dies when, each record is counted once, in order; and one that fails stops nobody else."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mlops.prediction_log import Batch
from mlops.prediction_log.index import LogIndex
from mlops.prediction_log.keeping import compact
from mlops.prediction_log.outcomes import OutcomeStore, ReportedOutcome, StoredOutcome
from mlops.prediction_log.reading import read_all
from mlops.sidecar.checkpoints import read_checkpoint
from mlops.sidecar.consumers import Feed
from mlops.sidecar.damaged import DamagedFiles
from tests.support.logs import Log
from tests.support.shared_memory import memory_folder
from tests.support.taps import TapLife, version
from tickserve.errors import DamagedLogError


class Counting:
    """Remembers every position of every version, and every outcome."""

    name = "counting"

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {}
        self.outcomes: list[str] = []

    def add(self, batch: Batch) -> None:
        self.seen.setdefault(batch.version, []).extend(map(int, batch.position))

    def add_outcomes(self, outcomes: Sequence[StoredOutcome]) -> None:
        self.outcomes += [each.outcome_id for each in outcomes]

    def checkpoint(self) -> bytes:
        return json.dumps([self.seen, self.outcomes]).encode()

    def restore(self, data: bytes) -> None:
        self.seen, self.outcomes = json.loads(data)


class Failing(Counting):
    name = "failing"

    def add(self, batch: Batch) -> None:
        super().add(batch)
        if "2" in self.seen:
            raise RuntimeError("broken")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with memory_folder() as tap:
        yield Log(tap, tmp_path, segment_bytes=1)


def feed(log: Log, *consumers: Counting, outcomes: OutcomeStore | None = None) -> Feed:
    read = lambda after: read_all(log.folder, after_position=after)  # noqa: E731
    return Feed(log.folder / "checkpoints", consumers, read, log.writer.position, outcomes)


def level(feed: Feed) -> None:
    while not feed.catch_up():
        pass


@pytest.mark.parametrize("saves", [(), (0,), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("is_parquet", [False, True])
def test_a_process_that_is_killed_goes_on_from_its_checkpoint(
    log: Log, saves: tuple[int, ...], is_parquet: bool
) -> None:
    life = TapLife(log.tap, rings=2)
    whole = Counting()
    for number in range(4):
        consumer = Counting()
        fed = feed(log, consumer)
        level(fed)
        for of in ("1", "2", "1"):
            life.write(number + 1, of=version(of), ring=int(of) - 1)
            found = log.drain()
            for batch in found:
                whole.add(batch)
            fed.add(found)
        level(fed)
        assert consumer.seen == whole.seen
        if number in saves:
            fed.save()
        life.write(1)
        for batch in log.drain():
            # Logged, and the process is killed before anybody has seen it.
            whole.add(batch)
        if is_parquet:
            compact(log.folder, LogIndex(log.folder))
        log.restart()
    last = Counting()
    level(feed(log, last))
    assert last.seen == whole.seen
    assert sorted(position for seen in last.seen.values() for position in seen) == list(range(log.writer.position))


def test_a_checkpoint_is_of_whole_frames_alone(log: Log) -> None:
    life, whole = TapLife(log.tap), Counting()
    life.write(1)
    first = feed(log, whole)
    first.add(log.drain())
    first.save()
    life.write(1)
    life.write(2, of=version("2"))
    life.write(1)
    for batch in log.drain():
        whole.add(batch)
    half = Counting()
    fed = feed(log, half)
    assert not fed.catch_up(0.0)
    assert half.seen == {"1": [0, 1, 4]}, "the other version's records lie between these"
    fed.save()
    again = Counting()
    level(feed(log, again))
    assert again.seen == whole.seen
    level(fed)
    fed.save()
    assert read_checkpoint(log.folder / "checkpoints" / "counting.checkpoint")[0] == 4


def test_one_that_fails_keeps_its_checkpoint_and_the_others_go_on(log: Log) -> None:
    life, counting, failing = TapLife(log.tap), Counting(), Failing()
    fed = feed(log, failing, counting)
    for of in ("1", "2", "1"):
        life.write(2, of=version(of))
        fed.add(log.drain())
        fed.save()
    assert fed.failed == {"failing": "RuntimeError: broken"}
    assert counting.seen == {"1": [0, 1, 4, 5], "2": [2, 3]}
    assert read_checkpoint(log.folder / "checkpoints" / "failing.checkpoint")[0] == 1
    assert fed.needed_from == 2, "what it has not seen must stay"
    again = Counting()
    again.name = "failing"
    level(feed(log, again))
    assert again.seen == counting.seen


def test_a_log_that_cannot_be_read_stops_who_needs_it_and_nobody_else(log: Log) -> None:
    life, behind, level_one = TapLife(log.tap), Counting(), Failing()
    fed = feed(log, level_one)
    for _ in range(2):
        life.write(2)
        fed.add(log.drain())
    fed.save()
    compact(log.folder, LogIndex(log.folder))
    (part,) = log.folder.rglob("*.parquet")
    part.write_bytes(b"nothing")
    again = feed(log, behind, Failing())
    level(again)
    assert list(again.failed) == ["counting"]
    assert "no file of the prediction log" in again.failed["counting"]
    life.write(1)
    again.add(log.drain())
    assert behind.seen == {}
    assert again.lags["failing"] == 0


def test_a_parquet_file_that_is_damaged_is_passed_over_and_holds_nothing_back(log: Log) -> None:
    life, damaged = TapLife(log.tap), DamagedFiles()
    for _ in range(4):
        life.write(2)
        log.drain()
    compact(log.folder, LogIndex(log.folder))
    part = sorted(log.folder.rglob("*.parquet"))[1]
    content = part.read_bytes()
    part.write_bytes(content[:-100] + b"x" * 100)

    def read(after: int) -> Iterator[Batch]:
        return read_all(log.folder, after_position=after, on_damaged=damaged.pass_over)

    for _ in range(2):
        # Each of them again in the next life.
        first, second = Counting(), Failing()
        fed = Feed(log.folder / "checkpoints", [first, second], read, log.writer.position)
        level(fed)
        assert fed.failed == {}
        assert first.seen == second.seen == {"1": [0, 1, 4, 5, 6, 7]}
        assert len(damaged) == 1
        assert part.exists(), "people may still look at it"
    fed.save()
    assert fed.needed_from == 8
    with pytest.raises(DamagedLogError, match=part.name):
        list(read_all(log.folder))


def test_a_file_that_cannot_be_read_now_is_not_passed_over(tmp_path: Path) -> None:
    damaged = DamagedFiles()
    with pytest.raises(IsADirectoryError):
        damaged.pass_over(tmp_path, DamagedLogError("it is none", field=""))
    assert len(damaged) == 0


def test_outcomes_that_cannot_be_read_stop_who_needs_them_and_nobody_else(log: Log) -> None:
    class Unreadable:
        last_order = 1

        def read(self, after_order: int) -> Iterator[StoredOutcome]:
            raise sqlite3.DatabaseError("file is not a database")

    life, counting = TapLife(log.tap), Counting()
    read = lambda after: read_all(log.folder, after_position=after)  # noqa: E731
    fed = Feed(log.folder / "checkpoints", [counting], read, log.writer.position, Unreadable())
    life.write(2)
    fed.add(log.drain())
    level(fed)
    assert fed.failed == {"counting": "DatabaseError: file is not a database"}


@pytest.mark.parametrize("damage", [b"", b"TSCHECKP", b"x" * 100])
def test_a_checkpoint_that_is_damaged_means_to_begin_anew(log: Log, damage: bytes) -> None:
    life, counting = TapLife(log.tap), Counting()
    fed = feed(log, counting)
    life.write(5)
    fed.add(log.drain())
    fed.save()
    (log.folder / "checkpoints" / "counting.checkpoint").write_bytes(damage)
    again = Counting()
    level(feed(log, again))
    assert again.seen == counting.seen


def test_outcomes_come_once_in_order_and_after_the_records_before_them(log: Log) -> None:
    store = OutcomeStore(log.folder)
    life = TapLife(log.tap)
    life.write(3)
    log.drain()
    store.add([ReportedOutcome(name, "r", 0, "", "", 0, "1d", 0.0, 1) for name in "ab"])
    first = Counting()
    fed = feed(log, first, outcomes=store)
    level(fed)
    assert (first.seen, first.outcomes) == ({"1": [0, 1, 2]}, ["a", "b"])
    fed.save()
    assert fed.needed_order == 3
    store.add([ReportedOutcome("c", "r", 0, "", "", 0, "1d", 0.0, 1)])
    again = Counting()
    level(feed(log, again, outcomes=store))
    assert again.outcomes == ["a", "b", "c"]
    store.close()
