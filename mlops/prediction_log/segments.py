"""Segments: records as they came out of the rings, appended, on disk before the rings are told.

The format is docs/formats/prediction_log.md.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlops.prediction_log.frames import FILE_HEADER, FrameReader, encode_frame
from mlops.tap import Version
from mlops.tap.catalog import version_entry
from tickserve.errors import DamagedLogError

_SUFFIX = ".seg"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a ring was read: the slot to go on at, and the sequence expected there."""

    slot: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the log began: records in it, sequences missing between them, damaged slots, records that were cut."""

    records: int = 0
    missed: int = 0
    damaged: int = 0
    cut: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.records + other.records,
            self.missed + other.missed,
            self.damaged + other.damaged,
            self.cut + other.cut,
        )


@dataclass(frozen=True, slots=True)
class RingRead:
    """What one look at a ring found: the slots of whole records, and what to count.

    `versions` are those that the records name; `counted` has records, missed, damaged and cut.
    """

    boot: str
    ring: int
    slot_bytes: int
    max_parts: int
    slots: Any
    counted: Totals
    after: Progress
    versions: Mapping[int, Version] = field(default_factory=dict)


@dataclass(slots=True)
class _State:
    """What a segment says of everything before its end."""

    position: int = 0
    totals: Totals = field(default_factory=Totals)
    progress: dict[tuple[str, int], Progress] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    named: set[tuple[str, int]] = field(default_factory=set)
    records: int = 0

    def take(self, head: Mapping[str, Any]) -> None:
        match head["kind"]:
            case "begin":
                self.position = int(head["position"])
                self.totals = Totals(**head["totals"])
                self.progress = {(boot, ring): Progress(slot, seq) for boot, ring, slot, seq in head["progress"]}
                self.ended = set(head["ended"])
            case "version":
                self.named.add((head["boot"], int(head["index"])))
            case "records":
                counted = Totals(**head["counted"])
                self.position = int(head["position"]) + counted.records
                self.totals += counted
                self.records += counted.records
                self.progress[head["boot"], int(head["ring"])] = Progress(int(head["slot"]), int(head["sequence"]))
            case "end":
                self.ended.add(head["boot"])
            case "forget":
                self.forget(head["boots"])

    def forget(self, boots: Iterable[str]) -> None:
        gone = set(boots)
        self.ended -= gone
        self.progress = {key: value for key, value in self.progress.items() if key[0] not in gone}


def segment_paths(folder: Path) -> list[Path]:
    """The segments of a log, in the order of their positions."""
    return sorted(folder.glob(f"[0-9]*{_SUFFIX}"))


def first_position(path: Path) -> int:
    """The position of a segment's first record."""
    return int(path.name.removesuffix(_SUFFIX))


class SegmentWriter:
    """The one writer of a log's segments. Not for several threads.

    Invariant: what a method has returned from is on disk. Where one raises OSError nothing of it counts, and it may
    be called again.

    Parameters
    ----------
    segment_bytes : int
        A segment that has reached this size is closed.
    position : int
        Where a log without any segment begins.
    """

    def __init__(self, folder: Path, segment_bytes: int = 64 << 20, position: int = 0) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._descriptor = -1
        self._end = 0
        self._state = _State(position)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._recover()

    @property
    def position(self) -> int:
        """The position that the next record gets."""
        return self._state.position

    @property
    def totals(self) -> Totals:
        """Everything that was counted, over all lives of all servers and of this process."""
        return self._state.totals

    def progress(self, boot: str, ring: int) -> Progress | None:
        """How far a ring was read, or None where it never was."""
        return self._state.progress.get((boot, ring))

    def has_ended(self, boot: str) -> bool:
        """Whether a boot was read to its end."""
        return boot in self._state.ended

    @property
    def boots(self) -> set[str]:
        """Boots that something is remembered of."""
        return {boot for boot, _ in self._state.progress} | self._state.ended

    def append(self, reads: Sequence[RingRead]) -> list[int]:
        """Writes what was read, all of it or nothing; returns the position of the first record of each.

        Raises OSError where there is no room.
        """
        if self._end >= self._segment_bytes:
            self.rotate()
        state = self._copy()
        pieces: list[bytes | memoryview] = []
        positions = []
        for read in reads:
            for index, version in read.versions.items():
                if (read.boot, index) not in state.named:
                    entry = version_entry(index, version) | {"boot": read.boot}
                    pieces += encode_frame(entry)
                    state.take(entry)
            head = {
                "kind": "records",
                "boot": read.boot,
                "ring": read.ring,
                "slot_bytes": read.slot_bytes,
                "max_parts": read.max_parts,
                "position": state.position,
                "slot": read.after.slot,
                "sequence": read.after.sequence,
                "counted": _as_dict(read.counted),
            }
            positions.append(state.position)
            pieces += encode_frame(head, memoryview(read.slots).cast("B") if len(read.slots) else b"")
            state.take(head)
        self._write(pieces, state)
        return positions

    def end(self, boot: str) -> None:
        """Says that a boot was read to its end."""
        self._append_head({"kind": "end", "boot": boot})

    def forget(self, boots: Iterable[str]) -> None:
        """Says that boots are gone."""
        self._append_head({"kind": "forget", "boots": sorted(boots)})

    def rotate(self) -> bool:
        """Closes the segment and begins another, where there are records in it; says whether."""
        if not self._state.records:
            return False
        self._begin()
        return True

    def close(self) -> None:
        """Lets go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _append_head(self, head: Mapping[str, Any]) -> None:
        state = self._copy()
        state.take(head)
        self._write(encode_frame(head), state)

    def _copy(self) -> _State:
        state = self._state
        return replace(state, progress=dict(state.progress), ended=set(state.ended), named=set(state.named))

    def _write(self, pieces: Sequence[bytes | memoryview], state: _State) -> None:
        try:
            # Where an append failed and the file could not be cut, its frames must not follow those of this one.
            if os.fstat(self._descriptor).st_size > self._end:
                os.ftruncate(self._descriptor, self._end)
            end = _write_all(self._descriptor, pieces, self._end)
            os.fdatasync(self._descriptor)
        except OSError:
            # What is there of it must not be taken for whole after a restart: it was never acknowledged.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end, self._state = end, state

    def _begin(self) -> None:
        """Makes the next segment; it is there in full or not at all. Raises OSError."""
        state = replace(self._copy(), named=set(), records=0)
        head = {
            "kind": "begin",
            "position": state.position,
            "totals": _as_dict(state.totals),
            "progress": [[boot, ring, at.slot, at.sequence] for (boot, ring), at in state.progress.items()],
            "ended": sorted(state.ended),
        }
        path = self.folder / f"{state.position:020d}{_SUFFIX}"
        staged = path.with_suffix(".new")
        descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            end = _write_all(descriptor, [FILE_HEADER, *encode_frame(head)], 0)
            os.fsync(descriptor)
            staged.rename(path)
            _sync(self.folder)
        except OSError:
            os.close(descriptor)
            staged.unlink(missing_ok=True)
            raise
        self.close()
        self._descriptor, self._end, self._state = descriptor, end, state

    def _recover(self) -> None:
        """Takes up the last segment; what a killed process left half written behind its end goes."""
        for staged in self.folder.glob("*.new"):
            staged.unlink()
        paths = segment_paths(self.folder)
        if not paths:
            self._begin()
            return
        state, reader = _State(), FrameReader(paths[-1])
        for frame in reader:
            state.take(frame.head)
        self._state = state
        if reader.damaged:
            # It is not ours to overwrite what may still be read of it.
            if state.position == first_position(paths[-1]):
                raise DamagedLogError(f"{paths[-1]} is damaged and holds no record; move it away", field=str(paths[-1]))
            self._begin()
            return
        self._descriptor = os.open(paths[-1], os.O_RDWR | os.O_CLOEXEC)
        self._end = reader.end
        if not reader.is_whole:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)


def _as_dict(totals: Totals) -> dict[str, int]:
    return {
        "records": totals.records,
        "missed": totals.missed,
        "damaged": totals.damaged,
        "cut": totals.cut,
    }


def _write_all(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
    """Writes pieces one after the other; returns where they end. Raises OSError, also where a write is cut short."""
    for piece in pieces:
        view = memoryview(piece)
        while len(view):
            written = os.pwrite(descriptor, view, offset)
            if not written:
                raise OSError(28, "no room for a segment")
            view, offset = view[written:], offset + written
    return offset


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
