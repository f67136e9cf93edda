"""Random records through a ring and the columns of the log, held to the reader that takes them one by one."""

import os
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.prediction_log.scan import Scan, scan
from mlops.tap import Record, RingReader, RingWriter
from mlops.tap.layout import DATATYPE_NUMBER, HEADER_BYTES
from tests.property.test_tap import RECORDS
from tests.support.tap import new_ring

CASES = int(os.environ.get("TICKSERVE_CASES", "100"))


def look(reader: RingReader, versions: set[int], limit: int = 1 << 20) -> Scan:
    tail, head = reader.span()
    after = min(head, tail + max(limit, reader.shape.max_parts))
    return scan(
        reader.slots(tail, after),
        max_parts=reader.shape.max_parts,
        expected=0,
        next_sequence=reader.next_sequence,
        versions=versions,
        is_end=after == head,
    )


def check(found: Scan, index: int, record: Record) -> None:
    assert found.ids("request_id")[index] == record.request_id
    assert found.ids("routing_key")[index] == record.routing_key
    (group,) = [group for group in found.groups if index in group.records]
    payload = group.payload[np.searchsorted(group.records, index)]
    for placed, written in ((group.inputs, record.inputs), (group.outputs, record.outputs)):
        assert len(placed) == len(written)
        for tensor, was in zip(placed, written, strict=True):
            data = payload[tensor.offset : tensor.offset + tensor.size].tobytes()
            assert (DATATYPE_NUMBER[tensor.datatype], tensor.shape, data, tensor.is_cut) == was
    texts = found.texts.get(index)
    if texts is not None:
        assert texts == record
    else:
        entity = dict(zip(found.entity[0].tolist(), found.entity[1], strict=True))
        assert ([entity[index]] if index in entity else []) == list(record.entities)
        assert len(record.findings) + len(record.broken_rules) == 0


@settings(max_examples=CASES)
@given(written=st.lists(RECORDS, min_size=1, max_size=25), limit=st.integers(1, 30), twice=st.integers(0, 24))
def test_columns_are_those_of_the_records(written: list[Record], limit: int, twice: int) -> None:
    # Records with one shape lie in one group.
    written.insert(0, written[twice % len(written)])
    with tempfile.TemporaryDirectory() as folder:
        path = new_ring(Path(folder), slots=128)
        writer, reader = RingWriter(path), RingReader(path)
        for record in written:
            writer.write(record)
        while reader.lag_slots:
            reference = reader.read(limit)
            versions = {record.version for record in written}
            found = look(reader, versions, limit)
            assert found.column("sequence").tolist() == [sequence for sequence, _ in reference.records]
            assert found.damaged == reference.damaged == 0
            for index, (_, record) in enumerate(reference.records):
                check(found, index, record)
            again = scan(found.good(), max_parts=4, expected=0, next_sequence=1 << 63, versions=versions, is_end=True)
            assert again.column("sequence").tolist() == found.column("sequence").tolist()
            reader.consume(reference)
        reader.close()
        writer.close()


@settings(max_examples=CASES)
@given(
    written=st.lists(RECORDS, min_size=1, max_size=20),
    damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_damage_is_counted_and_never_believed(written: list[Record], damage: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = new_ring(Path(folder), slots=128)
        writer = RingWriter(path)
        for record in written:
            writer.write(record)
        count = writer.next_sequence - writer.dropped
        used = RingReader(path).lag_slots * 384
        with open(path, "r+b") as file:
            for at, byte in damage:
                file.seek(HEADER_BYTES + at % used)
                file.write(bytes([byte]))
        reader = RingReader(path)
        found = look(reader, {record.version for record in written})
        sequences = found.column("sequence").astype(np.int64)
        assert (np.diff(sequences) > 0).all()
        assert sequences.max(initial=0) < reader.next_sequence
        slots = int(found.column("parts").astype(np.int64).sum())
        assert slots + found.damaged == found.length
        assert len(found) <= count
        assert len(found.good()) == slots
        covered = np.sort(np.concatenate([group.records for group in found.groups] or [np.empty(0, int)]))
        assert covered.tolist() == list(range(len(found)))
