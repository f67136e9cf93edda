"""Random records through random rings, and random damage; `TICKSERVE_CASES` is the number of cases."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.tap import BrokenRule, Finding, Flag, Form, Reading, Record, RingReader, RingWriter, Tensor
from mlops.tap.layout import HEADER_BYTES
from mlops.tap.record import encode_entities
from tests.support.tap import new_ring
from tickserve.errors import DamagedTapError

CASES = int(os.environ.get("TICKSERVE_CASES", "100"))
_U8, _U16, _U32, _U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
_I64 = st.integers(-(1 << 63), (1 << 63) - 1)
_RULE = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TENSORS = st.builds(Tensor, st.integers(1, 13), st.lists(_I64, max_size=3).map(tuple), st.binary(max_size=700))
RECORDS = st.builds(
    Record,
    time_unix_ns=_I64,
    event_time_unix_ns=_I64,
    plan_generation=_U64,
    split_generation=_U64,
    durations_ns=st.tuples(*[_U64] * 6),
    version=_U32,
    rows=_U32,
    status=_U8,
    reason=_U8,
    role=_U8,
    why=_U8,
    key_bucket=_U8,
    flags=_U16.map(lambda flags: flags & ~Flag.CUT.value),
    request_id=st.binary(max_size=64),
    routing_key=st.binary(max_size=64),
    inputs=st.lists(TENSORS, max_size=3).map(tuple),
    outputs=st.lists(TENSORS, max_size=3).map(tuple),
    entities=st.lists(st.binary(max_size=40), max_size=5).map(tuple),
    findings=st.lists(st.builds(Finding, _U8, _U32, _U32, _RULE), max_size=4).map(tuple),
    broken_rules=st.lists(st.builds(BrokenRule, _RULE, _U8, _U64), max_size=4).map(tuple),
    findings_left_out=st.integers(0, 1 << 31),
    trace_id=st.binary(min_size=16, max_size=16),
)


def check(found: Record, written: Record) -> None:
    """The same, but for what was cut and says so."""
    if not found.flags & Flag.CUT:
        assert found == written
        return
    kept: dict[str, Any] = {"flags": found.flags}
    for name in ("inputs", "outputs"):
        tensors = getattr(found, name)
        whole = getattr(written, name)
        for tensor, was in zip(tensors, whole, strict=bool(tensors)):
            assert tensor == was or tensor == was._replace(data=b"", is_cut=True)
        kept[name] = tensors
    for name in ("entities", "findings", "broken_rules"):
        assert getattr(found, name) in ((), getattr(written, name))
        kept[name] = getattr(found, name)
    left_out = written.findings_left_out + len(written.findings) - len(found.findings)
    assert found == written._replace(**kept, findings_left_out=left_out)
    is_less = any(getattr(found, name) != getattr(written, name) for name in kept if name != "flags")
    assert is_less, "the flag is set for a reason"


@settings(max_examples=CASES)
@given(
    written=st.lists(st.tuples(RECORDS, st.booleans()), min_size=1, max_size=20),
    slots=st.integers(4, 30),
    max_parts=st.integers(1, 4),
    slot_bytes=st.sampled_from([320, 384, 512, 1024]),
)
def test_records_come_back_as_they_were_or_are_counted(
    written: list[tuple[Record, bool]], slots: int, max_parts: int, slot_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = new_ring(Path(scratch), slot_bytes=slot_bytes, slots=slots, max_parts=max_parts)
        writer, reader = RingWriter(path), RingReader(path)
        kept, found, missed = {}, [], 0

        def take() -> Reading:
            nonlocal missed
            reading = reader.read()
            assert reading.damaged == 0
            found.extend(reading.records)
            missed += reading.missed
            reader.consume(reading)
            return reading

        for sequence, (record, is_read) in enumerate(written):
            if writer.write(record):
                kept[sequence] = record
            if is_read:
                take()
        last = take()
        assert [sequence for sequence, _ in found] == list(kept)
        for sequence, record in found:
            check(record, kept[sequence])
        assert writer.cut == sum(bool(record.flags & Flag.CUT) for _, record in found)
        assert missed + reader.next_sequence - last.sequence == writer.dropped == len(written) - len(kept)
        reader.close()
        writer.close()


@settings(max_examples=CASES)
@given(records=st.lists(RECORDS, min_size=1, max_size=6), slots=st.integers(2, 4))
def test_a_form_writes_the_bytes_that_the_record_would_be(records: list[Record], slots: int) -> None:
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        paths = [new_ring(Path(folder), slot_bytes=8192, slots=slots, max_parts=1) for folder in (first, second)]
        by_record, by_form = (RingWriter(path) for path in paths)
        for drawn in records:
            record = drawn._replace(
                rows=1, status=0, reason=0, findings=(), broken_rules=(), findings_left_out=0, trace_id=bytes(16)
            )
            blank = [
                [tensor._replace(data=bytes(len(tensor.data))) for tensor in tensors]
                for tensors in (record.inputs, record.outputs)
            ]
            form = Form(
                plan_generation=record.plan_generation,
                split_generation=record.split_generation,
                version=record.version,
                role=record.role,
                inputs=blank[0],
                outputs=blank[1],
            )
            assert form.payload_bytes <= by_form.room
            is_written = by_form.write_usual(
                form,
                record.time_unix_ns,
                record.event_time_unix_ns,
                record.durations_ns[0],
                record.durations_ns[1:],
                record.why,
                record.key_bucket,
                record.flags,
                record.request_id,
                record.routing_key,
                [np.frombuffer(tensor.data, np.uint8) for tensor in (*record.inputs, *record.outputs)],
                encode_entities(record.entities),
                len(record.entities),
            )
            assert by_record.write(record) == is_written
        by_record.close()
        by_form.close()
        # From the producer's words on: before them a ring says who made it, and when.
        assert paths[0].read_bytes()[128:] == paths[1].read_bytes()[128:]


@settings(max_examples=CASES)
@given(
    written=st.lists(RECORDS, min_size=1, max_size=8),
    damage=st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=12)), min_size=1, max_size=12),
    words=st.lists(st.tuples(st.sampled_from([16, 17, 18, 32, 33]), _U64), max_size=2),
)
def test_no_damage_stops_a_reader(
    written: list[Record], damage: list[tuple[int, bytes]], words: list[tuple[int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = new_ring(Path(scratch), slots=16)
        writer = RingWriter(path)
        for record in written:
            writer.write(record)
        writer.close()
        data = bytearray(path.read_bytes())
        for at, junk in damage:
            start = HEADER_BYTES + at % (len(data) - HEADER_BYTES - len(junk))
            data[start : start + len(junk)] = junk
        for word, value in words:
            data[8 * word : 8 * word + 8] = value.to_bytes(8, "little")
        path.write_bytes(data)
        reader = RingReader(path)
        try:
            reading = reader.read()
        except DamagedTapError:
            assert words, "the head and the tail were in order"
        else:
            tail, head = reader.span()
            assert len(reading.records) + reading.damaged <= head - tail
            assert reading.position == head, "it comes to the end"
        reader.close()
