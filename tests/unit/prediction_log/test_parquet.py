"""The log as Parquet: the same bits, the same files from the same segment, in one order; and what of it goes."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from mlops.package import TensorSpec
from mlops.prediction_log import Batch, frames, parquet
from mlops.prediction_log.index import LogIndex
from mlops.prediction_log.keeping import compact, size_bytes, trim
from mlops.prediction_log.reading import PARQUET, SEGMENTS, read_all, read_log
from mlops.prediction_log.segments import segment_paths
from mlops.tap import BrokenRule, Finding, Tensor, Version
from mlops.tap.layout import DATATYPE_NUMBER
from tests.support.logs import Log, ids
from tests.support.tap import record
from tests.support.taps import TapLife, version
from tickserve.errors import DamagedLogError

DAY = 86_400 * 10**9
NOON = 20_000 * DAY + DAY // 2


def same(left: Batch, right: Batch) -> None:
    """Every column has the same bits."""
    for item in dataclasses.fields(Batch):
        one, other = getattr(left, item.name), getattr(right, item.name)
        if item.name in ("inputs", "outputs"):
            assert list(one) == list(other)
            for name in one:
                assert one[name].dtype == other[name].dtype
                assert one[name].tolist() == other[name].tolist() or one[name].tobytes() == other[name].tobytes()
                if one[name].dtype.kind != "O":
                    assert one[name].tobytes() == other[name].tobytes()
        elif isinstance(one, np.ndarray):
            assert one.tolist() == other.tolist(), item.name
        elif item.name == "entities":
            assert list(one) == list(other)
        else:
            assert one == other, item.name


def every_kind(tap: Path, tmp_path: Path) -> Batch:
    """Records with tensors of every datatype, NaN of several bits, findings, cut ones and refused ones."""
    specs = []
    tensors = []
    for name, dtype in (
        ("BOOL", "?"), ("UINT8", "u1"), ("UINT16", "<u2"), ("UINT32", "<u4"), ("UINT64", "<u8"), ("INT8", "i1"),
        ("INT16", "<i2"), ("INT32", "<i4"), ("INT64", "<i8"), ("FP16", "<f2"), ("FP32", "<f4"), ("FP64", "<f8"),
    ):  # fmt: skip
        values = np.array([[0, 1, 1]]).astype(dtype)
        if name == "FP32":
            values = np.array([[0x7FC00001, 0xFFC00002, 0x80000000]], "<u4").view("<f4")
        specs.append(TensorSpec(name=name, datatype=name, shape=(-1, 3)))
        tensors.append(Tensor(DATATYPE_NUMBER[name], (1, 3), values.tobytes()))
    specs.append(TensorSpec(name="BYTES", datatype="BYTES", shape=(-1, 2)))
    tensors.append(Tensor(DATATYPE_NUMBER["BYTES"], (1, 2), b"\x02\0\0\0ab\0\0\0\0"))
    life = TapLife(tap, slot_bytes=1024)
    of = Version("odd/name", "1", bytes(32), tuple(specs), tuple(specs[:1]), ())
    number = life.catalog.version(of)
    usual: dict[str, Any] = {"version": number, "inputs": tensors, "outputs": tensors[:1], "time_unix_ns": NOON}
    writer = life.writers[0]
    writer.write(record(**usual, event_time_unix_ns=5, entities=[b"EUR\0", b"\xff"]))
    writer.write(record(**usual, findings=[Finding(1, 0, 2, "bounds:x")], broken_rules=[BrokenRule("bounds:x", 2, 1)]))
    writer.write(record(version=number, rows=0, status=3, flags=0, request_id=b"", time_unix_ns=NOON))
    writer.write(record(**(usual | {"inputs": [*tensors[:-1], tensors[-1]._replace(data=b"", is_cut=True)]})))
    log = Log(tap, tmp_path)
    (batch,) = log.drain()
    log.writer.close()
    return batch


def test_every_bit_comes_back(tap: Path, tmp_path: Path) -> None:
    batch = every_kind(tap, tmp_path / "log")
    assert batch.input_records.tolist() == [0, 1]
    assert batch.output_records.tolist() == [0, 1, 3]
    (path,) = parquet.write(tmp_path / "out", [batch])
    same(parquet.read(path), batch)
    (segment,) = read_log(tmp_path / "log", "odd/name")
    same(segment, batch)


def test_one_line_of_duckdb_reads_it(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path, segment_bytes=1), TapLife(tap)
    life.write(3, time_unix_ns=NOON)
    log.drain()
    life.write(1, of=version("2"), time_unix_ns=NOON)
    log.drain()
    life.write(1)
    log.drain()
    compact(tmp_path, LogIndex(tmp_path))
    files = f"read_parquet('{tmp_path}/parquet/**/*.parquet', hive_partitioning=true)"
    found = duckdb.sql(
        f"SELECT model, version, count(*), avg(out_signal[1]) FROM {files} WHERE date = '2024-10-04' GROUP BY ALL "  # noqa: S608
        "ORDER BY ALL"
    ).fetchall()
    assert [(model, int(number), count, mean) for model, number, count, mean in found] == [
        ("demo", 1, 3, 2.0),
        ("demo", 2, 1, 6.0),
    ]


def test_a_segment_that_was_made_parquet_halfway_gives_the_same_files_again(
    tap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, life = Log(tap, tmp_path, segment_bytes=1), TapLife(tap)
    for number in ("1", "2", "3"):
        life.write(2, of=version(number))
    log.drain()
    life.write(1)
    log.drain()
    before = ids(log.all())
    with monkeypatch.context() as patch:
        patch.setattr(LogIndex, "keep", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            compact(tmp_path, LogIndex(tmp_path))
    written = {path: path.read_bytes() for path in (tmp_path / PARQUET).rglob("*.parquet")}
    assert len(written) == 3
    next(iter(written)).unlink()
    assert ids(log.all()) == before, "a segment that is still there counts, and its files do not"
    assert compact(tmp_path, LogIndex(tmp_path)) == 1
    assert {path: path.read_bytes() for path in (tmp_path / PARQUET).rglob("*.parquet")} == written
    assert sorted(ids(log.all())) == sorted(before)


def test_a_reader_loses_and_repeats_nothing_while_segments_become_parquet(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path, segment_bytes=1), TapLife(tap)
    for number in ("1", "2", "1", "2"):
        life.write(2, of=version(number))
        log.drain()
    for stop in range(4):
        reader = read_all(tmp_path)
        found = [next(reader) for _ in range(stop)]
        compact(tmp_path, LogIndex(tmp_path))
        life.write(2)
        log.drain()
        found += reader
        positions = [int(position) for batch in found for position in batch.position]
        assert len(positions) == len(set(positions))
        assert set(range(8)) <= set(positions)


def test_a_frame_that_is_being_written_is_no_damage(tap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap)
    for _ in range(3):
        life.write(1)
        log.drain()
    (segment,) = segment_paths(tmp_path / SEGMENTS)
    whole = [frame.end for frame in frames.FrameReader(segment)]
    late = {whole[2]}
    read = frames._next

    def half_written(file: Any, at: int) -> Any:
        if at in late:
            late.discard(at)
            return None
        return read(file, at)

    monkeypatch.setattr(frames, "_next", half_written)
    reader = frames.FrameReader(segment)
    assert [frame.end for frame in reader] == whole
    assert reader.damaged == 0
    assert not late


def test_a_clock_that_is_set_back_keeps_the_order_of_the_log(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path, segment_bytes=1), TapLife(tap)
    for step in (0, DAY, 0, DAY, -DAY):
        life.write(1, time_unix_ns=NOON + step)
    log.drain()
    life.write(1, time_unix_ns=NOON)
    log.drain()
    compact(tmp_path, LogIndex(tmp_path))
    assert {part.path.parts[-4] for part in parquet.parts(tmp_path / PARQUET)} == {
        "date=2024-10-03",
        "date=2024-10-04",
        "date=2024-10-05",
    }
    found = [int(position) for batch in read_log(tmp_path, "demo") for position in batch.position]
    assert found == list(range(6))
    day = datetime(2024, 10, 5, tzinfo=UTC).date()
    assert [int(position) for batch in read_all(tmp_path, day=day) for position in batch.position] == [1, 3]
    until = [len(batch) for batch in read_log(tmp_path, "demo", until_ns=NOON + 1, after_position=0)]
    assert sum(until) == 3


def test_old_partitions_and_the_oldest_of_too_many_go_but_none_that_is_needed(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path, segment_bytes=1), TapLife(tap)
    for day in range(4):
        life.write(3, time_unix_ns=NOON + day * DAY)
        log.drain()
    life.write(1)
    log.drain()
    compact(tmp_path, LogIndex(tmp_path))
    now = datetime(2024, 10, 7, 12, tzinfo=UTC)
    kept = {"now": now, "max_bytes": 0, "needed_from": 1 << 62}
    assert trim(tmp_path, **kept, days=0).by_age == 0
    needed = trim(tmp_path, **(kept | {"needed_from": 2}), days=2)
    assert needed.by_age == 0, "a record from position 2 on is needed"
    assert trim(tmp_path, **kept, days=2).by_age == 3
    assert next(iter(read_log(tmp_path, "demo"))).position[0] == 3
    bound = size_bytes(tmp_path) - 1
    assert trim(tmp_path, **(kept | {"max_bytes": bound}), days=0).by_size == 3
    assert not (tmp_path / PARQUET / "date=2024-10-05").exists()
    assert size_bytes(tmp_path) <= bound


def test_a_damaged_segment_keeps_its_bytes_and_the_rest_of_it_is_read(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path), TapLife(tap)
    for _ in range(3):
        life.write(2)
        log.drain()
    log.writer.rotate()
    life.write(1)
    log.drain()
    segment = segment_paths(tmp_path / SEGMENTS)[0]
    content = bytearray(segment.read_bytes())
    content[content.index(b'"position":2') + 400] ^= 1
    segment.write_bytes(content)
    positions = [int(position) for batch in log.all() for position in batch.position]
    assert positions == [0, 1, 4, 5, 6]
    compact(tmp_path, LogIndex(tmp_path))
    assert segment.with_name(segment.name + ".damaged").read_bytes() == bytes(content)
    assert [int(position) for batch in log.all() for position in batch.position] == positions


def test_a_segment_that_is_none_is_put_aside_and_those_behind_it_become_parquet(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path, segment_bytes=1), TapLife(tap)
    for _ in range(3):
        life.write(2)
        log.drain()
    segment = segment_paths(tmp_path / SEGMENTS)[0]
    segment.write_bytes(b"no segment")
    with pytest.raises(DamagedLogError, match="no segment of format 1"):
        log.all()
    assert compact(tmp_path, LogIndex(tmp_path)) == 2
    assert [int(position) for batch in log.all() for position in batch.position] == [2, 3, 4, 5]
    assert segment.with_name(segment.name + ".damaged").read_bytes() == b"no segment"


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    place = tmp_path / PARQUET / "date=2024-10-04" / "model=demo" / "version=1"
    place.mkdir(parents=True)
    (place / "part-0-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedLogError, match="no file of the prediction log"):
        list(read_all(tmp_path))


def test_a_file_of_another_format_is_refused(tap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = every_kind(tap, tmp_path / "log")
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "FORMAT", 2)
        (path,) = parquet.write(tmp_path / "out", [batch])
    assert b"tickserve.prediction_log" in pq.read_schema(path).metadata
    with pytest.raises(DamagedLogError, match="format 2, this program reads format 1"):
        parquet.read(path)
