"""Rings: slots between one producer and one consumer, neither of which waits for the other; and the consumer."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlops.tap import layout
from mlops.tap.files import Mapped, allocate
from mlops.tap.layout import (
    CONSUMER_PID,
    CUT,
    DROPPED,
    FIXED,
    HEAD,
    HEADER_BYTES,
    NEXT_SEQUENCE,
    PART,
    PAYLOAD_AT,
    RING_HEADER,
    TAIL,
    TAIL_SEQUENCE,
)
from mlops.tap.record import Damage, Record, decode

_MAX_U32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Shape:
    """How a ring is cut into slots."""

    slot_bytes: int
    slots: int
    max_parts: int

    @property
    def file_bytes(self) -> int:
        return HEADER_BYTES + self.slots * self.slot_bytes


def ring_shape(ring_bytes: int, slot_bytes: int) -> Shape:
    """The shape of a ring in a file of at most `ring_bytes`; one record may take 64 KiB or a quarter of it."""
    slots = max(8, (ring_bytes - HEADER_BYTES) // slot_bytes)
    return Shape(slot_bytes, slots, max(1, min((64 << 10) // slot_bytes, slots // 4)))


def create_ring(path: Path, shape: Shape, boot: bytes, ring: int, rings: int) -> None:
    """Makes an empty ring; all of its memory is there when this returns. Raises OSError."""
    header = RING_HEADER.pack(
        layout.RING_MAGIC,
        layout.FORMAT,
        HEADER_BYTES,
        boot,
        ring,
        rings,
        shape.slot_bytes,
        shape.max_parts,
        shape.slots,
        os.getpid(),
        time.time_ns(),
    )
    allocate(path, shape.file_bytes, header)


class RingFile(Mapped):
    """A ring that is mapped. Raises DamagedTapError where the file is none, OSError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, layout.RING_MAGIC, RING_HEADER)

    @property
    def written(self) -> int:
        """Records written since the beginning."""
        return self._words[NEXT_SEQUENCE] - self._words[DROPPED]

    @property
    def dropped(self) -> int:
        """Records that found no room."""
        return self._words[DROPPED]

    @property
    def cut(self) -> int:
        """Records that were cut."""
        return self._words[CUT]

    @property
    def next_sequence(self) -> int:
        """The sequence of the next record."""
        return self._words[NEXT_SEQUENCE]

    @property
    def lag_slots(self) -> int:
        """Slots that are published and not consumed."""
        return self._words[HEAD] - self._words[TAIL]

    @property
    def tail(self) -> int:
        """The slot number that the consumer goes on at."""
        return self._words[TAIL]

    @property
    def expected_sequence(self) -> int:
        """The sequence that the consumer expects at the tail."""
        return self._words[TAIL_SEQUENCE]

    def _read_header(self, fields: list[Any]) -> None:
        self.ring, self.rings, slot_bytes, max_parts, slots, self.pid, _ = fields
        self.shape = Shape(slot_bytes, slots, max_parts)
        is_aligned = slot_bytes % layout.SLOT_ALIGNMENT == 0 and slot_bytes > PAYLOAD_AT
        is_bounded = 1 <= max_parts <= min(slots, 0xFFFF)
        if not is_aligned or not is_bounded or len(self._map) != self.shape.file_bytes:
            raise self._damaged(f"it has {len(self._map)} bytes, not those of {self.shape}")


@dataclass(slots=True)
class Reading:
    """What one look at a ring gave: records with their sequences, in order, and what is missing between them."""

    records: list[tuple[int, Record]] = field(default_factory=list)
    #: Records that the producer dropped, by the gaps.
    missed: int = 0
    #: Slots that were no part of a record.
    damaged: int = 0
    #: Where to go on: the slot, and the sequence expected there.
    position: int = 0
    sequence: int = 0


class RingReader(RingFile):
    """The one consumer of a ring; `read` looks, `consume` gives the slots back."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.dtype = layout.slot_dtype(self.shape.slot_bytes)
        self._slots: Any = np.frombuffer(self._map, self.dtype, self.shape.slots, HEADER_BYTES)
        self._words[CONSUMER_PID] = os.getpid()

    def close(self) -> None:
        """Unmaps the file. What `slots` gave stays: it is a copy."""
        self._slots = None
        super().close()

    def span(self) -> tuple[int, int]:
        """The slot numbers from tail to head. Raises DamagedTapError where they cannot be."""
        tail, head = self._words[TAIL], self._words[HEAD]
        if not 0 <= head - tail <= self.shape.slots:
            raise self._damaged(f"head {head} and tail {tail} are not within its {self.shape.slots} slots")
        return tail, head

    def slots(self, first: int, after: int) -> Any:
        """A copy of these slots as one structured array (`layout.slot_dtype`)."""
        begin, end = first % self.shape.slots, first % self.shape.slots + after - first
        if end <= self.shape.slots:
            return self._slots[begin:end].copy()
        return np.concatenate((self._slots[begin:], self._slots[: end - self.shape.slots]))

    def read(self, limit: int = 65_536) -> Reading:
        """The records of about `limit` slots from the tail on, whole ones. Consumes nothing. Raises DamagedTapError."""
        tail, head = self.span()
        after = min(head, tail + max(limit, self.shape.max_parts))
        reading = Reading(position=tail, sequence=self._words[TAIL_SEQUENCE])
        sequences = self._words[NEXT_SEQUENCE]
        slots = self.slots(tail, after)
        at = 0
        while at < len(slots):
            parts = int(slots["parts"][at])
            if after < head and 0 < parts <= self.shape.max_parts and at + parts > len(slots):
                # Goes on beyond what was looked at.
                break
            try:
                sequence, record = self._record(slots[at : at + parts])
                if sequence >= sequences or (sequence < reading.sequence and reading.records):
                    raise Damage("a sequence that it cannot have")
            except Damage:
                reading.damaged += 1
                at += 1
                continue
            # A consumer that was killed between the two stores left a sequence that is ahead: the record knows better.
            reading.missed += max(0, sequence - reading.sequence)
            reading.sequence = sequence + 1
            reading.records.append((sequence, record))
            at += parts
        reading.position = tail + at
        return reading

    def consume(self, reading: Reading) -> None:
        """Gives back what was read, once it is stored."""
        self._words[TAIL_SEQUENCE] = reading.sequence
        self._words[TAIL] = reading.position

    def _record(self, chain: Any) -> tuple[int, Record]:
        if not len(chain):
            raise Damage("no slot")
        data = chain.tobytes()
        fields = FIXED.unpack_from(data)
        sequence, part, parts, size = fields[:4]
        slot_bytes = self.shape.slot_bytes
        if part != 0 or parts != len(chain) or parts > self.shape.max_parts:
            raise Damage("no first slot")
        if size > layout.capacity(slot_bytes, parts) or layout.parts_for(size, slot_bytes) != parts:
            raise Damage("a size that its slots do not have")
        pieces = [data[PAYLOAD_AT:slot_bytes]]
        for number in range(1, parts):
            start = number * slot_bytes
            if PART.unpack_from(data, start) != (sequence, number, parts, size):
                raise Damage("a slot of another record")
            pieces.append(data[start + PART.size : start + slot_bytes])
        return sequence, decode(fields, b"".join(pieces)[:size])


def records(reader: RingReader) -> Iterator[tuple[int, Record]]:
    """Reads and consumes everything that is published."""
    while reader.lag_slots:
        reading = reader.read()
        yield from reading.records
        reader.consume(reading)
