"""A prediction log over a tap, and what must be true of one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlops.prediction_log import Batch
from mlops.prediction_log.reading import SEGMENTS, read_all
from mlops.prediction_log.segments import SegmentWriter
from mlops.sidecar.follower import Follower
from tests.support.taps import TapLife, taken


class Log:
    """A log over a tap; `restart` is a process that was killed and another one that began."""

    def __init__(self, tap: Path, folder: Path, segment_bytes: int = 1 << 30, chunk_bytes: int = 8 << 20) -> None:
        self.tap, self.folder = tap, folder
        self._make: Callable[[], Follower] = lambda: Follower(self.tap, self.writer, chunk_bytes=chunk_bytes)
        self._open: Callable[[], SegmentWriter] = lambda: SegmentWriter(folder / SEGMENTS, segment_bytes)
        self.writer = self._open()
        self.follower = self._make()

    def restart(self) -> None:
        self.writer.close()
        self.follower.close()
        self.writer = self._open()
        self.follower = self._make()

    def drain(self) -> list[Batch]:
        found = self.follower.poll()
        while self.follower.has_more:
            found += self.follower.poll()
        return found

    def all(self) -> list[Batch]:
        return list(read_all(self.folder))


def ids(batches: Sequence[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.request_id]


def check_whole(log: Log, lives: Sequence[TapLife]) -> None:
    """Every sequence of every ring is in the log once, or is counted as missing."""
    batches = log.all()
    positions = np.concatenate([batch.position for batch in batches])
    assert sorted(positions.tolist()) == list(range(len(positions))), "positions are one after the other"
    places = [
        (boot, int(ring), int(sequence))
        for batch in batches
        for boot, ring, sequence in zip(batch.boot, batch.ring, batch.sequence, strict=True)
    ]
    assert len(places) == len(set(places)), "no record is in the log twice"
    assert log.writer.totals.records == len(places) == log.writer.position
    assert len(places) + log.writer.totals.missed == sum(taken(life) for life in lives)
