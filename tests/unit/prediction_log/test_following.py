"""From rings to the log: nothing twice, nothing lost but what is counted, whoever dies when."""

from pathlib import Path

import numpy as np
import pytest

from mlops.prediction_log.batch import Batch
from mlops.prediction_log.index import LogIndex
from mlops.prediction_log.keeping import compact
from mlops.prediction_log.reading import SEGMENTS, read_log
from mlops.prediction_log.segments import SegmentWriter
from mlops.sidecar.follower import Follower
from mlops.tap import PageReader, is_alive, layout, tidy
from mlops.tap.layout import HEADER_BYTES
from tests.support.logs import Log, check_whole, ids
from tests.support.taps import SLOT_BYTES, TapLife, version


def test_what_was_written_is_in_the_log_with_its_figures(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap, rings=2)
    written = life.write(3) + life.write(2, ring=1) + life.write(1, size=5)
    live = log.drain()
    back = log.all()
    assert sorted(ids(live)) == sorted(ids(back)) == sorted(item.request_id.decode() for item in written)
    for batches in (live, back):
        for batch in batches:
            figures = batch.inputs["features"]
            assert figures.shape == (batch.rows.sum(), 10)
            owner = batch.sequence[batch.input_records].astype(np.float32)
            first = figures[np.flatnonzero(np.diff(batch.input_records, prepend=-1))]
            assert (first[:, 0] == batch.sequence).all()
            assert (figures[:, 0] >= owner).all()
            assert (batch.outputs["signal"] == figures[:, :1] * 2).all()
            assert batch.entities[0][0] == "EURUSD"
            assert [len(names) for names in batch.entities] == batch.rows.tolist()
    assert life.writers[0].lag_slots == life.writers[1].lag_slots == 0


def test_drops_are_counted_and_at_the_end_of_a_life_too(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap, slots=8)
    life.write(20)
    log.drain()
    life.write(20)
    life.end()
    assert log.writer.totals.missed == 0, "a gap is known once something comes after it"
    log.drain()
    assert log.writer.totals.missed == 24
    check_whole(log, [life])
    assert log.follower.boots == 0
    assert tidy(tap) == [life.path], "the server may remove what was read to its end"


def test_each_record_says_what_had_gone_missing_before_it_live_and_later(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap, rings=2, slots=8)
    live = []
    for count, of in ((10, "1"), (3, "2"), (9, "1"), (2, "2")):
        life.write(count, of=version(of))
        life.write(1, ring=1, of=version(of))
        live += log.drain()
    log.writer.rotate()

    def told(batches: list[Batch]) -> dict[int, int]:
        return {
            int(position): int(missed)
            for batch in batches
            for position, missed in zip(batch.position, batch.missed, strict=True)
        }

    found = told(live)
    assert [found[position] for position in sorted(found)] == [0] * 9 + [2] * 3 + [2] * 10 + [3] * 3
    assert told(log.all()) == found
    compact(tmp_path, LogIndex(tmp_path))
    assert told(log.all()) == found


def test_several_lives_are_read_each_to_its_end(tap: Path, tmp_path: Path) -> None:
    lives = [TapLife(tap, rings=2) for _ in range(3)]
    for number, life in enumerate(lives):
        life.write(5 + number)
        life.write(2, ring=1)
    lives[0].end()
    log = Log(tap, tmp_path)
    log.drain()
    assert not is_alive(lives[0].path)
    page = PageReader(lives[0].path / "counters")
    assert page.is_final
    page.close()
    lives[1].write(3)
    lives[1].end()
    log.drain()
    check_whole(log, lives)


def test_the_counters_of_a_server_that_ended_stay_for_those_that_look_now_and_then(tap: Path, tmp_path: Path) -> None:
    life, now = TapLife(tap), [0.0]
    writer = SegmentWriter(tmp_path / SEGMENTS)
    life.write(2)
    life.end()

    def polled() -> bool:
        follower.poll()
        page = PageReader(life.path / "counters")
        is_final = page.is_final
        page.close()
        return is_final

    follower = Follower(tap, writer, final_after_s=60.0, clock=lambda: now[0])
    assert not polled()
    now[0] = 59.0
    assert not polled()
    assert tidy(tap) == []
    follower = Follower(tap, writer, final_after_s=60.0, clock=lambda: now[0])
    assert not polled(), "another sidecar waits anew"
    now[0] = 119.0
    assert polled()
    assert tidy(tap) == [life.path]


@pytest.mark.parametrize("chunk_bytes", [1, 3 * SLOT_BYTES, 8 << 20])
def test_a_sidecar_killed_before_the_tail_went_on_takes_nothing_twice(
    tap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    log, life = Log(tap, tmp_path, chunk_bytes=chunk_bytes), TapLife(tap, rings=2)
    life.write(5)
    log.drain()
    life.write(7)
    life.write(3, ring=1)
    with monkeypatch.context() as patch:
        patch.setattr("mlops.tap.RingReader.consume", lambda *_: None)
        log.follower.poll()
    assert life.writers[0].lag_slots == 7
    log.restart()
    assert log.drain() == [] or chunk_bytes < 8 << 20
    life.write(2)
    log.drain()
    life.end()
    log.drain()
    check_whole(log, [life])
    assert (log.writer.totals.missed, log.writer.totals.damaged) == (0, 0)


@pytest.mark.parametrize("cut", [1, 20, 400, 1500])
def test_a_frame_that_was_half_written_is_read_again_from_the_ring(
    tap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap)
    life.write(5)
    log.drain()
    life.write(4)
    with monkeypatch.context() as patch:
        patch.setattr("mlops.tap.RingReader.consume", lambda *_: None)
        log.follower.poll()
    (segment,) = (tmp_path / SEGMENTS).iterdir()
    with open(segment, "r+b") as file:
        file.truncate(segment.stat().st_size - cut)
    log.restart()
    assert len(ids(log.drain())) == 4
    life.end()
    log.drain()
    check_whole(log, [life])


def test_a_full_disk_leaves_the_records_in_the_ring_until_there_is_room(
    tap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap, slots=16)
    life.write(3)
    log.drain()

    def full(descriptor: int, *_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", full)
        life.write(20)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                log.follower.poll()
        assert life.writers[0].lag_slots == 16
    assert len(ids(log.drain())) == 16
    life.end()
    log.drain()
    assert log.writer.totals.missed == 4
    check_whole(log, [life])


def test_slots_that_were_written_over_are_counted_and_their_records_missed(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap)
    life.write(10)
    with open(life.path / "ring-0", "r+b") as file:
        for slot, offset in ((2, 8), (5, 0)):
            file.seek(HEADER_BYTES + slot * SLOT_BYTES + offset)
            file.write(b"\xff\xff\xff")
    log.drain()
    assert log.writer.totals.damaged == 2
    life.write(2)
    life.end()
    log.drain()
    assert log.writer.totals.records == 10
    assert log.writer.totals.missed == 2
    check_whole(log, [life])


def test_a_ring_whose_header_cannot_be_is_counted_and_the_others_go_on(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap, rings=2)
    life.write(3)
    life.write(2, ring=1)
    with open(life.path / "ring-0", "r+b") as file:
        file.seek(8 * layout.HEAD)
        file.write(b"\xff" * 8)
    assert len(ids(log.drain())) == 2
    assert log.writer.totals.damaged == 1, "an alert looks at it"
    life.write(2, ring=1)
    assert len(ids(log.drain())) == 2
    life.end()
    log.drain()
    assert log.writer.totals.missed == 3
    assert log.writer.totals.damaged == 1
    check_whole(log, [life])


@pytest.mark.parametrize("size", [None, 0, 5000])
def test_a_ring_that_cannot_be_opened_is_counted_and_its_boot_is_not_said_to_be_read(
    tap: Path, tmp_path: Path, size: int | None
) -> None:
    life = TapLife(tap, rings=2)
    life.write(3)
    life.write(2, ring=1)
    ring = life.path / "ring-0"
    content = ring.read_bytes()
    ring.write_bytes(b"x" * 8 + content[8:] if size is None else content[:size])
    life.end()
    log = Log(tap, tmp_path)
    assert len(ids(log.drain())) == 2, "the other ring is read"
    for _ in range(3):
        log.drain()
    assert log.writer.totals.damaged == 1, "an alert looks at it"
    assert log.follower.boots == 0
    assert not log.writer.has_ended(life.name)
    page = PageReader(life.path / "counters")
    assert not page.is_final
    page.close()
    assert tidy(tap) == [], "the server keeps what nobody has read"
    # Somebody has mended it.
    ring.write_bytes(content)
    log.restart()
    assert len(ids(log.drain())) == 3
    assert log.writer.has_ended(life.name)
    check_whole(log, [life])
    assert tidy(tap) == [life.path]


def test_a_disk_that_is_full_when_a_ring_cannot_be_opened_counts_it_once_there_is_room(
    tap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = TapLife(tap, rings=2)
    life.write(2, ring=1)
    (life.path / "ring-0").write_bytes(b"no ring")
    log = Log(tap, tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                log.follower.poll()
    assert len(ids(log.drain())) == 2
    assert log.writer.totals.damaged == 1
    life.end()


def test_a_version_that_came_later_is_named_and_one_that_the_catalog_lacks_is_damage(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap)
    life.write(1)
    log.drain()
    life.write(1, of=version("2", features=4))
    (batch,) = log.drain()
    assert (batch.version, batch.inputs["features"].shape) == ("2", (1, 4))
    with open(life.path / "ring-0", "r+b") as file:
        file.seek(HEADER_BYTES + 2 * SLOT_BYTES + 96)
        life.write(2)
        file.write(b"\x09")
    (batch,) = log.drain()
    assert len(batch) == 1
    assert log.writer.totals.damaged == 1


def test_schemas_that_change_between_versions_come_back_from_parquet_as_they_were(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path, segment_bytes=1), TapLife(tap)
    for number, features in (("1", 10), ("2", 4), ("1", 10)):
        life.write(3, of=version(number, features))
        log.drain()
    before = log.all()
    assert compact(tmp_path, LogIndex(tmp_path)) == 2
    after = log.all()
    assert ids(after) == ids(before)
    widths = [batch.inputs["features"].shape[1] for batch in read_log(tmp_path, "demo", "2")]
    assert widths == [4]
    check = list(read_log(tmp_path, "demo", "1"))
    assert [int(position) for batch in check for position in batch.position] == [0, 1, 2, 6, 7, 8]


def test_counters_of_a_boot_that_was_read_stay_while_somebody_needs_them(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap)
    is_needed = [True]
    follower = Follower(tap, log.writer, may_finish=lambda boot: not is_needed[0])
    life.write(2)
    life.end()
    for _ in range(3):
        follower.poll()
    page = PageReader(life.path / "counters")
    assert follower.boots == 0
    assert not page.is_final
    is_needed[0] = False
    follower.poll()
    assert page.is_final
    page.close()
