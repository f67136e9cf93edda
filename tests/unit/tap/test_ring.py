"""Rings: order, gaps, chains, the end of the file, damage, and processes that are killed."""

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlops.tap import Record, RingFile, RingReader, RingWriter, Shape, create_ring, layout, records
from mlops.tap.layout import Flag
from tests.support.tap import BOOT, floats, new_ring, record
from tickserve.errors import DamagedTapError


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[tuple[RingWriter, RingReader]]:
    """Both ends of a ring of eight slots."""
    path = new_ring(tmp_path)
    writer, reader = RingWriter(path), RingReader(path)
    yield writer, reader
    reader.close()
    writer.close()


Ring = tuple[RingWriter, RingReader]
CHAIN = record(inputs=(floats(*range(40)),))


def numbered(number: int) -> Record:
    return record(time_unix_ns=number)


def test_a_full_ring_drops_counts_and_leaves_a_gap(ring: Ring) -> None:
    writer, reader = ring
    written = [writer.write(numbered(number)) for number in range(10)]
    assert written == [True] * 8 + [False] * 2
    first = reader.read()
    assert [each.time_unix_ns for _, each in first.records] == list(range(8))
    assert (first.missed, writer.dropped, writer.written, writer.next_sequence) == (0, 2, 8, 10)
    reader.consume(first)
    assert writer.write(numbered(10))
    second = reader.read()
    assert [(sequence, each.time_unix_ns) for sequence, each in second.records] == [(10, 10)]
    assert second.missed == 2


def test_a_chain_needs_all_of_its_slots(ring: Ring) -> None:
    writer, reader = ring
    assert all(writer.write(numbered(number)) for number in range(7))
    assert not writer.write(CHAIN)
    assert writer.write(numbered(7))
    assert [sequence for sequence, _ in reader.read().records] == [0, 1, 2, 3, 4, 5, 6, 8]


def test_a_chain_goes_on_at_the_beginning_of_the_file(ring: Ring) -> None:
    writer, reader = ring
    for number in range(7):
        writer.write(numbered(number))
    reader.consume(reader.read())
    assert writer.write(CHAIN)
    assert reader.read().records == [(7, CHAIN)]


def test_a_look_ends_between_two_records(tmp_path: Path) -> None:
    path = new_ring(tmp_path, slots=64)
    writer, reader = RingWriter(path), RingReader(path)
    for _ in range(20):
        writer.write(CHAIN)
    seen: list[int] = []
    while (reading := reader.read(limit=5)).records:
        assert len(reading.records) == 2, "five slots hold two chains of two"
        seen += [sequence for sequence, _ in reading.records]
        reader.consume(reading)
    assert seen == list(range(20))


def test_nothing_is_consumed_by_looking(ring: Ring) -> None:
    writer, reader = ring
    writer.write(numbered(1))
    assert reader.read() == reader.read()
    assert reader.lag_slots == 1


def test_slots_are_one_structured_array(ring: Ring) -> None:
    writer, reader = ring
    for number in range(3):
        writer.write(numbered(number)._replace(inputs=(floats(number, 2.0),), request_id=b"id"))
    slots = reader.slots(*reader.span())
    assert slots["time_unix_ns"].tolist() == [0, 1, 2]
    assert slots["request_id"].tolist() == [b"id"] * 3
    # One input of one row with two features: behind its head and its shape.
    features = np.ascontiguousarray(slots["payload"][:, 24:32]).view("<f4")
    assert features.tolist() == [[0.0, 2.0], [1.0, 2.0], [2.0, 2.0]]


def test_a_reader_that_comes_again_goes_on_where_it_was(tmp_path: Path) -> None:
    path = new_ring(tmp_path)
    writer, reader = RingWriter(path), RingReader(path)
    for number in range(9):
        writer.write(numbered(number))
    reader.consume(reader.read())
    reader.close()
    writer.write(numbered(9))
    again = RingReader(path).read()
    assert [sequence for sequence, _ in again.records] == [9]
    assert again.missed == 1


def test_a_sequence_ahead_of_the_tail_is_no_gap(ring: Ring) -> None:
    # What a consumer leaves that was killed between its two stores.
    writer, reader = ring
    for number in range(3):
        writer.write(numbered(number))
    reader._words[layout.TAIL_SEQUENCE] = 3
    reading = reader.read()
    assert ([sequence for sequence, _ in reading.records], reading.missed, reading.damaged) == ([0, 1, 2], 0, 0)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (8, struct.pack("<H", 1)),
        (10, struct.pack("<H", 0)),
        (10, struct.pack("<H", 4)),
        (10, struct.pack("<H", 65535)),
        (12, struct.pack("<I", 1 << 31)),
        (0, struct.pack("<Q", 1 << 63)),
        (109, b"\xff"),
        (114, struct.pack("<H", 65535)),
        (118, struct.pack("<H", 9)),
        (124, struct.pack("<I", 1 << 31)),
        (132, struct.pack("<I", 4_000_000_000)),
        (304, struct.pack("<I", 4_000_000_000)),
        (308, b"\xc8"),
    ],
)
def test_a_damaged_slot_costs_its_record_only(ring: Ring, tmp_path: Path, offset: int, value: bytes) -> None:
    writer, reader = ring
    written = [numbered(number)._replace(inputs=(floats(1.0),)) for number in range(4)]
    for each in written:
        writer.write(each)
    with open(reader.path, "r+b") as file:
        file.seek(layout.HEADER_BYTES + 384 + offset)
        file.write(value)
    reading = reader.read()
    assert [each for _, each in reading.records] == [written[0], *written[2:]]
    assert (reading.damaged, reading.missed, reading.position) == (1, 1, 4)


def test_a_chain_with_a_slot_of_another_record_is_damage(ring: Ring) -> None:
    writer, reader = ring
    for each in (CHAIN, numbered(1)):
        writer.write(each)
    with open(reader.path, "r+b") as file:
        file.seek(layout.HEADER_BYTES + 384)
        file.write(b"\x09")
    reading = reader.read()
    assert ([sequence for sequence, _ in reading.records], reading.damaged) == ([1], 2)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"X"), (8, b"\2"), (12, b"\0\0"), (40, b"\0\0"), (40, b"\x81"), (44, b"\0\0\0\0"), (44, b"\xff"), (48, b"\7")],
)
def test_a_header_that_contradicts_the_file_is_refused(tmp_path: Path, offset: int, value: bytes) -> None:
    path = new_ring(tmp_path)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(value)
    with pytest.raises(DamagedTapError):
        RingReader(path)


@pytest.mark.parametrize("size", [0, 100, layout.HEADER_BYTES, layout.HEADER_BYTES + 384])
def test_a_short_file_is_refused(tmp_path: Path, size: int) -> None:
    path = new_ring(tmp_path)
    os.truncate(path, size)
    with pytest.raises(DamagedTapError):
        RingFile(path)


@pytest.mark.parametrize(("head", "tail"), [(9, 0), (0, 1), (1 << 63, 0)])
def test_a_head_and_a_tail_that_cannot_be_are_refused(ring: Ring, head: int, tail: int) -> None:
    _, reader = ring
    reader._words[layout.HEAD], reader._words[layout.TAIL] = head, tail
    with pytest.raises(DamagedTapError):
        reader.read()


def test_a_tail_beyond_the_head_makes_the_writer_drop(ring: Ring) -> None:
    writer, reader = ring
    for number in range(8):
        writer.write(numbered(number))
    reader._words[layout.TAIL] = 100
    assert not any(writer.write(numbered(number)) for number in range(8, 12))


def test_the_flag_says_that_a_record_was_cut(ring: Ring) -> None:
    writer, reader = ring
    writer.write(record(inputs=(floats(*range(1000)),), outputs=(floats(5.0),)))
    ((_, found),) = reader.read().records
    assert found.flags & Flag.CUT
    assert (found.inputs[0].shape, found.inputs[0].is_cut, found.inputs[0].data) == ((1, 1000), True, b"")
    assert found.outputs == (floats(5.0),)
    assert writer.cut == 1


PRODUCER = """
import sys
from pathlib import Path
from mlops.tap import RingWriter
from tests.support.tap import floats, record
writer = RingWriter(Path(sys.argv[1]))
number = 0
while number != int(sys.argv[2]):
    width = 1 + number % 90
    values = [number + index for index in range(width)]
    written = writer.write(record(time_unix_ns=number, inputs=(floats(*values),), outputs=(floats(*values),)))
    number += written or sys.argv[3] == "drop"
    if number == 300:
        print("going", flush=True)
"""

CONSUMER = """
import sys
from pathlib import Path
from mlops.tap import RingReader
reader, last = RingReader(Path(sys.argv[1])), -1
with open(sys.argv[2], "a", buffering=1) as out:
    while True:
        reading = reader.read(limit=64)
        if reading.records:
            out.write("".join(f"{sequence}\\n" for sequence, _ in reading.records))
            reader.consume(reading)
            if reading.sequence > 300 and last <= 300:
                print("going", flush=True)
            last = reading.sequence
"""


def started(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def check_whole(found: list[tuple[int, Record]]) -> None:
    """Each record is as its number says, from the first byte to the last."""
    for _, each in found:
        number = each.time_unix_ns
        values = [number + index for index in range(1 + number % 90)]
        assert each == record(time_unix_ns=number, inputs=(floats(*values),), outputs=(floats(*values),))


def test_a_reader_beside_a_writer_sees_whole_records_in_order(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    create_ring(path, Shape(384, 64, 8), BOOT, 0, 1)
    reader, found, missed = RingReader(path), [], 0
    with started(PRODUCER, path, 20_000, "drop") as producer:
        while producer.poll() is None or reader.lag_slots:
            reading = reader.read(limit=32)
            assert reading.damaged == 0
            found += reading.records
            missed += reading.missed
            reader.consume(reading)
    assert producer.returncode == 0
    check_whole(found)
    assert [sequence for sequence, _ in found] == [each.time_unix_ns for _, each in found]
    missed += reader.next_sequence - reader.read().sequence
    assert (len(found) + missed, missed) == (20_000, reader.dropped)


def test_a_producer_killed_at_any_time_leaves_a_readable_ring(tmp_path: Path) -> None:
    for attempt in range(5):
        path = tmp_path / f"ring-{attempt}"
        create_ring(path, Shape(384, 64, 8), BOOT, 0, 1)
        reader, found = RingReader(path), []
        with started(PRODUCER, path, -1, "wait") as producer:
            while len(found) < 300 + 100 * attempt:
                found += records(reader)
            producer.send_signal(signal.SIGKILL)
        found += records(reader)
        check_whole(found)
        assert [sequence for sequence, _ in found] == sorted({sequence for sequence, _ in found})
        assert reader.lag_slots == 0
        reader.close()


def test_a_consumer_killed_at_any_time_loses_nothing(tmp_path: Path) -> None:
    path, out = tmp_path / "ring", tmp_path / "out"
    create_ring(path, Shape(384, 64, 8), BOOT, 0, 1)
    with started(PRODUCER, path, 6000, "wait") as producer:
        for _ in range(4):
            with started(CONSUMER, path, out) as consumer:
                assert consumer.stdout is not None
                consumer.stdout.readline()
                consumer.send_signal(signal.SIGKILL)
            assert producer.poll() is None, "it is at it still"
        reader = RingReader(path)
        rest: list[tuple[int, Record]] = []
        while producer.poll() is None or reader.lag_slots:
            rest += records(reader)
    check_whole(rest)
    # What was read twice has the same sequence; a line that was cut off had not been consumed.
    lines = out.read_text().splitlines(keepends=True)
    before = {int(line) for line in lines if line.endswith("\n")}
    dropped = reader.dropped
    assert len(before | {sequence for sequence, _ in rest}) == reader.next_sequence - dropped
