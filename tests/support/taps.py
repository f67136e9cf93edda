"""The files of a server's life without the server: what the control plane makes, and one writer a ring."""

import fcntl
import os
from pathlib import Path
from typing import Any

import numpy as np

from mlops.package import TensorSpec
from mlops.tap import (
    COUNTERS,
    CatalogWriter,
    Record,
    RingFile,
    RingWriter,
    Shape,
    Tensor,
    Version,
    create_page,
    create_ring,
    new_boot,
    open_catalog,
    ring_path,
)
from mlops.tap.layout import DATATYPE_NUMBER
from tests.support.tap import record

FEATURES = 10
#: Holds one row of these.
SLOT_BYTES = 448


def version(number: str = "1", features: int = FEATURES, model: str = "demo") -> Version:
    """A version of a model with one row of features in and one figure out."""
    return Version(
        model=model,
        version=number,
        digest=bytes([int(number) % 256, features % 256]) * 16,
        inputs=(TensorSpec(name="features", datatype="FP32", shape=(-1, features)),),
        outputs=(TensorSpec(name="signal", datatype="FP32", shape=(-1, 1)),),
        feature_names=tuple(f"f{index}" for index in range(features)),
    )


def rows(values: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of FP32, (rows, columns)."""
    return Tensor(DATATYPE_NUMBER["FP32"], values.shape, values.astype("<f4").tobytes())


class TapLife:
    """One life of a server, as its readers see it."""

    def __init__(
        self, folder: Path, *, rings: int = 1, slots: int = 256, slot_bytes: int = SLOT_BYTES, boot: bytes | None = None
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = boot or new_boot()
        self.path = folder / identity.hex()
        self.path.mkdir(mode=0o700)
        self._descriptor = open_catalog(self.path)
        self.catalog = CatalogWriter(self._descriptor)
        for ring in range(rings):
            create_ring(ring_path(self.path, ring), Shape(slot_bytes, slots, 4), identity, ring, rings)
        create_page(self.path / COUNTERS, identity, rings)
        self.writers = [RingWriter(ring_path(self.path, ring)) for ring in range(rings)]

    @property
    def name(self) -> str:
        return self.path.name

    def write(
        self, count: int = 1, *, ring: int = 0, of: Version | None = None, size: int = 1, **fields: Any
    ) -> list[Record]:
        """Writes records of `size` rows; their figures begin with the sequence."""
        of = of or version()
        writer = self.writers[ring]
        written = []
        for _ in range(count):
            sequence = writer.next_sequence
            columns = of.inputs[0].shape[1]
            values = np.arange(size * columns, dtype=np.float32).reshape(size, columns) + np.float32(sequence)
            item = record(
                version=self.catalog.version(of),
                rows=size,
                request_id=f"{self.name[-8:]}-{ring}-{sequence}".encode(),
                routing_key=b"EURUSD",
                entities=[b"EURUSD"] * size,
                inputs=(rows(values),),
                outputs=(rows(values[:, :1] * 2),),
                **fields,
            )
            if writer.write(item):
                written.append(item)
        return written

    def sequences(self) -> int:
        """Sequence numbers that were taken, over all rings."""
        return sum(writer.next_sequence for writer in self.writers)

    def end(self) -> None:
        """Ends it, as a killed server does: its lock goes, its files stay."""
        for writer in self.writers:
            writer.close()
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)


def taken(life: TapLife) -> int:
    """Sequence numbers of a life that has ended."""
    total = 0
    for ring in range(len(life.writers)):
        file = RingFile(ring_path(life.path, ring))
        total += file.next_sequence
        file.close()
    return total
