"""A producer of records that costs next to nothing: whole pieces of slots at a time, in a ring like a server's."""

import fcntl
import os
import time
from pathlib import Path

import numpy as np

from mlops.package import TensorSpec
from mlops.tap import (
    COUNTERS,
    CatalogWriter,
    Record,
    RingReader,
    RingWriter,
    Tensor,
    Version,
    create_page,
    create_ring,
    new_boot,
    open_catalog,
    ring_path,
    ring_shape,
)
from mlops.tap.layout import DATATYPE_NUMBER, HEAD, HEADER_BYTES, NEXT_SEQUENCE, TAIL

FEATURES = 10
SLOT_BYTES = 448
_SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "AUDUSD")


class BulkProducer:
    """One life of a server with one ring, written by whole pieces. `piece` records of ten random features a piece."""

    def __init__(
        self, folder: Path, *, ring_bytes: int, piece: int, model: str = "demo", digest: bytes = bytes(32)
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        boot = new_boot()
        self.path = folder / boot.hex()
        self.path.mkdir(mode=0o700)
        self._descriptor = open_catalog(self.path)
        shape = ring_shape(ring_bytes, SLOT_BYTES)
        create_ring(ring_path(self.path, 0), shape, boot, 0, 1)
        create_page(self.path / COUNTERS, boot, 1)
        version = Version(
            model,
            "1",
            digest,
            (TensorSpec(name="features", datatype="FP32", shape=(-1, FEATURES)),),
            (TensorSpec(name="signal", datatype="FP32", shape=(-1, 1)),),
            tuple(f"f{number}" for number in range(FEATURES)),
        )
        number = CatalogWriter(self._descriptor).version(version)
        self._writer = RingWriter(ring_path(self.path, 0))
        self._slots = shape.slots
        self.piece = min(piece, shape.slots // 2)
        self._template = _template(self.path, number, self.piece)

    @property
    def produced(self) -> int:
        """Records so far."""
        return int(self._writer.next_sequence)

    @property
    def room(self) -> int:
        """Slots that are free."""
        words = self._writer._words
        return self._slots - (words[HEAD] - words[TAIL])

    def produce(self) -> None:
        """Writes one piece; there must be room for it."""
        words, slots = self._writer._words, self._template
        head, sequence, now = words[HEAD], words[NEXT_SEQUENCE], time.time_ns()
        slots["sequence"] = np.arange(sequence, sequence + self.piece)
        slots["time_unix_ns"] = now
        slots["event_time_unix_ns"] = now + np.arange(self.piece)
        data = slots.view(np.uint8).reshape(self.piece, SLOT_BYTES)
        begin = head % self._slots
        first = min(self.piece, self._slots - begin)
        target = np.frombuffer(self._writer._map, np.uint8, self._slots * SLOT_BYTES, HEADER_BYTES)
        target = target.reshape(self._slots, SLOT_BYTES)
        target[begin : begin + first] = data[:first]
        target[: self.piece - first] = data[first:]
        words[NEXT_SEQUENCE] = sequence + self.piece
        words[HEAD] = head + self.piece

    def end(self) -> None:
        """Ends this life, as a server does."""
        self._writer.close()
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)


def _template(folder: Path, version: int, count: int) -> np.ndarray:
    """Slots as the real writer makes them, with other figures in each."""
    path = folder / "template"
    create_ring(path, ring_shape(count * SLOT_BYTES + HEADER_BYTES, SLOT_BYTES), bytes(16), 0, 1)
    writer, random = RingWriter(path), np.random.default_rng(0)
    figures = random.standard_normal((count, FEATURES)).astype("<f4")
    number = DATATYPE_NUMBER["FP32"]
    for index in range(count):
        symbol = _SYMBOLS[index % len(_SYMBOLS)].encode()
        data = figures[index].tobytes()
        writer.write(
            Record(
                1, 1, 1, 1, (1000, 200, 300, 4000, 300, 200), version, 1, 0, 0, 1, 1, index % 256, 7,
                f"request-{index:028d}".encode(), symbol,
                (Tensor(number, (1, FEATURES), data),), (Tensor(number, (1, 1), data[:4]),), (symbol,),
            )
        )  # fmt: skip
    reader = RingReader(path)
    slots: np.ndarray = reader.slots(*reader.span())
    reader.close()
    writer.close()
    path.unlink()
    assert len(slots) == count
    return slots
