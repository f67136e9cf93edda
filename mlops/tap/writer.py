"""The producer's side of a ring: any record from its fields, and the usual one by its form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mlops.tap import layout
from mlops.tap.form import ONE_PART, USUAL, Form
from mlops.tap.layout import (
    CUT,
    DROPPED,
    FIXED,
    HEAD,
    HEADER_BYTES,
    NEXT_SEQUENCE,
    PART,
    PAYLOAD_AT,
    TAIL,
    Flag,
)
from mlops.tap.record import Record, encode
from mlops.tap.ring import RingFile

_MAX_U32 = (1 << 32) - 1


class RingWriter(RingFile):
    """The one producer of a ring. Not for several threads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        shape = self.shape
        self._slot_bytes, self._slots = shape.slot_bytes, shape.slots
        #: For the payload of a record that takes one slot.
        self.room = shape.slot_bytes - PAYLOAD_AT
        self._capacity = layout.capacity(shape.slot_bytes, shape.max_parts)
        self._head = self._words[HEAD]
        self._sequence = self._words[NEXT_SEQUENCE]
        self._tail = self._words[TAIL]

    def write(self, record: Record) -> bool:
        """Writes a record, or drops it and counts that where there is no room; says which."""
        body = encode(record, self._capacity)
        data, inputs, outputs, entities, findings, broken, left_out, *places, is_cut = body
        size = len(data)
        parts = 1 if size <= self.room else layout.parts_for(size, self._slot_bytes)
        sequence, words, head = self._sequence, self._words, self._head
        self._sequence = sequence + 1
        if head + parts - self._tail > self._slots and not self._has_room(parts):
            return self._drop(sequence)
        (
            time_unix_ns,
            event_time,
            plan_generation,
            split_generation,
            durations,
            version,
            rows,
            status,
            reason,
            role,
            why,
            key_bucket,
            flags,
            request_id,
            routing_key,
        ) = record[:15]
        if is_cut:
            flags |= Flag.CUT
            words[CUT] += 1
        offset = HEADER_BYTES + head % self._slots * self._slot_bytes
        FIXED.pack_into(
            self._map,
            offset,
            sequence,
            0,
            parts,
            size,
            time_unix_ns,
            event_time,
            plan_generation,
            split_generation,
            *durations,
            version,
            rows if rows <= _MAX_U32 else _MAX_U32,
            status,
            reason,
            role,
            why,
            key_bucket,
            len(request_id),
            len(routing_key),
            flags,
            inputs,
            outputs,
            findings,
            broken,
            entities,
            left_out if left_out <= _MAX_U32 else _MAX_U32,
            *places,
            record.trace_id,
            request_id,
            routing_key,
        )
        if parts == 1:
            start = offset + PAYLOAD_AT
            self._map[start : start + size] = data
        else:
            self._write_chain(offset, sequence, parts, data)
        return self._publish(sequence, head + parts)

    def write_usual(
        self,
        form: Form,
        time_unix_ns: int,
        event_time_unix_ns: int,
        wait_ns: int,
        durations: Sequence[int],
        why: int,
        key_bucket: int,
        flags: int,
        request_id: bytes,
        routing_key: bytes,
        figures: Sequence[NDArray[Any]],
        entities: bytes,
        entity_count: int,
    ) -> bool:
        """The same for a record of this form, in less time; its payload may take `room` bytes.

        `figures` are the data of inputs and outputs, of the form's sizes; `entities` are as `encode_entities` has them.
        """
        sequence, head = self._sequence, self._head
        self._sequence = sequence + 1
        if head + 1 - self._tail > self._slots and not self._has_room(1):
            return self._drop(sequence)
        pieces: list[Any] = form.pieces.copy()
        pieces[1::2] = figures
        payload = b"".join(pieces) + entities
        size = len(payload)
        decode, validate_input, run, validate_output, encoding = durations
        offset = HEADER_BYTES + head % self._slots * self._slot_bytes
        USUAL.pack_into(
            self._map,
            offset,
            sequence,
            ONE_PART,
            size,
            time_unix_ns,
            event_time_unix_ns,
            form.generations,
            wait_ns,
            decode,
            validate_input,
            run,
            validate_output,
            encoding,
            form.version_and_rows,
            form.role,
            why,
            key_bucket,
            len(request_id),
            len(routing_key),
            flags,
            form.numbers,
            entity_count,
            form.places,
            size,
            size,
            request_id,
            routing_key,
        )
        start = offset + PAYLOAD_AT
        self._map[start : start + size] = payload
        return self._publish(sequence, head + 1)

    def _publish(self, sequence: int, head: int) -> bool:
        words = self._words
        words[NEXT_SEQUENCE] = sequence + 1
        self._head = head
        # Last of all. On x86-64 another process sees the stores in this order. Where it might not, it may find a slot
        # that is not yet the record's, which counts as damage and is never taken for a record.
        words[HEAD] = head
        return True

    def _drop(self, sequence: int) -> bool:
        self._words[DROPPED] += 1
        self._words[NEXT_SEQUENCE] = sequence + 1
        return False

    def _has_room(self, parts: int) -> bool:
        """Whether there is room now that the tail is looked at again."""
        after, tail = self._head + parts, self._words[TAIL]
        if not 0 <= after - tail <= self._slots:
            return False
        self._tail = tail
        return True

    def _offset(self, position: int) -> int:
        return HEADER_BYTES + position % self._slots * self._slot_bytes

    def _write_chain(self, offset: int, sequence: int, parts: int, data: bytes) -> None:
        self._map[offset + PAYLOAD_AT : offset + self._slot_bytes] = data[: self.room]
        at, room = self.room, self._slot_bytes - PART.size
        for part in range(1, parts):
            offset = self._offset(self._head + part)
            PART.pack_into(self._map, offset, sequence, part, parts, len(data))
            piece = data[at : at + room]
            start = offset + PART.size
            self._map[start : start + len(piece)] = piece
            at += room
