"""One ring as the sidecar follows it: what is new in it, as whole records and counts; and how the tail goes on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mlops.prediction_log.scan import Scan, scan
from mlops.prediction_log.segments import Progress, RingRead, Totals
from mlops.tap import Flag, Reading, RingReader, Version

#: No server gives as many in its life: a counter that says so is damaged too.
_MAX_SEQUENCES = 1 << 48


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found: for the log, and for whoever wants the figures."""

    read: RingRead
    scan: Scan
    #: Whether the look was at everything that was published.
    is_all: bool


def unopened(boot: str, ring: int, progress: Progress | None) -> RingRead:
    """That a ring cannot be opened, as one damaged slot; where it goes on stays."""
    nothing = np.empty(0, np.uint8)
    return RingRead(boot, ring, 0, 0, nothing, Totals(damaged=1), progress or Progress(0, 0))


class Names(Protocol):
    """What version numbers stand for, as the catalog says."""

    @property
    def versions(self) -> Mapping[int, Version]:
        """By number, as last read."""

    @property
    def newest_split(self) -> int:
        """The newest generation of any split; -1 for none."""

    def read_catalog(self) -> None:
        """Reads it again, where there is anything new. Raises OSError where the log has no room for it."""


class RingFollower:
    """The consumer of one ring.

    Invariant: the tail is never ahead of what the log holds, and where the log is ahead of the tail (a process was
    killed between the two) the log decides, so nothing is logged twice.

    Parameters
    ----------
    progress : Progress or None
        How far the log has it; None where the log has nothing of it.
    chunk_bytes : int
        About how much is looked at at once.
    """

    def __init__(self, path: Path, boot: str, progress: Progress | None, chunk_bytes: int) -> None:
        self._reader = RingReader(path)
        self._boot = boot
        self._limit = max(self._reader.shape.max_parts, chunk_bytes // self._reader.shape.slot_bytes)
        self._progress = progress
        if progress is not None:
            self._give_back(progress)

    @property
    def ring(self) -> int:
        """Its number within the boot."""
        return int(self._reader.ring)

    @property
    def lag_slots(self) -> int:
        """Slots that are published and not in the log."""
        return self._reader.lag_slots

    def close(self) -> None:
        """Unmaps the ring."""
        self._reader.close()

    def look(self, names: Names) -> Look | None:
        """What is new, or None. Consumes nothing. Raises DamagedTapError where the ring cannot be followed."""
        reader = self._reader
        tail, head = reader.span()
        after = min(head, tail + self._limit)
        # The producer counts a record before it publishes it, so this is not behind the head.
        next_sequence = reader.next_sequence
        if after == tail:
            return None
        expected = self._progress.sequence if self._progress is not None else 0
        slots = reader.slots(tail, after)
        is_first = slots["part"] == 0
        is_known = set(np.unique(slots["version"][is_first]).tolist()) <= names.versions.keys()
        if not is_known or int(slots["split_generation"][is_first].max(initial=0)) > names.newest_split:
            names.read_catalog()
        versions = names.versions
        found = scan(
            slots,
            max_parts=reader.shape.max_parts,
            expected=expected,
            next_sequence=next_sequence,
            versions=versions.keys(),
            is_end=after == head,
        )
        sequences = found.column("sequence")
        if self._progress is None:
            # Nothing is known of a ring that another log was fed from but what it says itself.
            expected = min(reader.expected_sequence, int(sequences[0]) if len(found) else reader.expected_sequence)
        sequence = int(sequences[-1]) + 1 if len(found) else expected
        counted = Totals(
            records=len(found),
            missed=sequence - expected - len(found),
            damaged=found.damaged,
            cut=int(((found.column("flags") & Flag.CUT) != 0).sum()),
        )
        used = {number: versions[number] for number in np.unique(found.column("version")).tolist()}
        progress = Progress(tail + found.length, sequence)
        return Look(self._read(found.good(), counted, progress, used), found, is_all=after == head)

    def damage(self) -> RingRead:
        """That the ring can be followed no more, as one damaged slot; where it goes on stays."""
        return self._read(np.empty(0, self._reader.dtype), Totals(damaged=1), self._reached(), {})

    def rest(self) -> RingRead | None:
        """What never came after the last record, once the producer has ended and everything was looked at."""
        before = self._reached()
        missed = self._reader.next_sequence - before.sequence
        if not 0 < missed < _MAX_SEQUENCES:
            return None
        progress = Progress(before.slot, self._reader.next_sequence)
        return self._read(np.empty(0, self._reader.dtype), Totals(missed=missed), progress, {})

    def consume(self, read: RingRead) -> None:
        """Gives the slots back, once what was read is in the log."""
        self._progress = read.after
        self._give_back(read.after)

    def _reached(self) -> Progress:
        return self._progress or Progress(self._reader.tail, self._reader.expected_sequence)

    def _read(self, slots: object, counted: Totals, after: Progress, versions: Mapping[int, Version]) -> RingRead:
        shape = self._reader.shape
        return RingRead(self._boot, self.ring, shape.slot_bytes, shape.max_parts, slots, counted, after, versions)

    def _give_back(self, to: Progress) -> None:
        tail, head = self._reader.span()
        if tail < to.slot <= head:
            self._reader.consume(Reading(position=to.slot, sequence=to.sequence))
