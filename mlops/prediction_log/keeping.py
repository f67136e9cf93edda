"""What the log keeps: closed segments become Parquet, and what is too old or too much goes, the oldest first."""

import contextlib
import os
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import structlog

from mlops.prediction_log import parquet
from mlops.prediction_log.frames import FrameReader
from mlops.prediction_log.index import LogIndex
from mlops.prediction_log.parquet import Part
from mlops.prediction_log.reading import PARQUET, SEGMENTS, read_segment
from mlops.prediction_log.segments import first_position, segment_paths
from tickserve.errors import DamagedLogError

_log = structlog.get_logger()
#: A segment that is damaged keeps its bytes under this ending.
DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True)
class Removed:
    """What went: records, by the bound that they were over."""

    by_age: int = 0
    by_size: int = 0


def compact(folder: Path, index: LogIndex) -> int:
    """Makes Parquet of every segment but the last, and removes them; returns how many. Raises OSError.

    Killed at any point it may be called again: the same segment gives the same files.
    """
    done = 0
    for path in segment_paths(folder / SEGMENTS)[:-1]:
        is_damaged = _is_damaged(path)
        try:
            batches = list(read_segment(path))
        except DamagedLogError as error:
            # It would stop everything that comes after it; its bytes stay for people to look at.
            _log.error("segment_unreadable", segment=path.name, error=error.message)
            batches, is_damaged = [], True
        parquet.write(folder / PARQUET, batches)
        index.keep(first_position(path), batches)
        if is_damaged:
            path.rename(path.with_name(path.name + DAMAGED))
            _log.error("segment_damaged", segment=path.name)
        else:
            path.unlink()
        done += 1
    return done


def trim(folder: Path, *, now: datetime, days: int, max_bytes: int, needed_from: int) -> Removed:
    """Removes partitions older than `days`, and the oldest while all takes more than `max_bytes`; 0 turns either off.

    A file with a record from `needed_from` on stays, whatever the bounds.
    """
    expired: dict[str, int] = {"age": 0, "size": 0}
    total = size_bytes(folder)
    oldest = (now - timedelta(days=days)).date()
    for day, part in _by_age(folder / PARQUET):
        is_old = bool(days) and day < oldest
        if not is_old and (not max_bytes or total <= max_bytes):
            break
        if part.last >= needed_from:
            continue
        records = parquet.count(part.path)
        total -= part.path.stat().st_size
        part.path.unlink()
        _remove_empty(part.path.parent, folder / PARQUET)
        expired["age" if is_old else "size"] += records
    return Removed(expired["age"], expired["size"])


def size_bytes(folder: Path) -> int:
    """What a folder takes on disk."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _by_age(folder: Path) -> list[tuple[date, Part]]:
    found = [(date.fromisoformat(part.path.parts[-4].removeprefix("date=")), part) for part in parquet.parts(folder)]
    return sorted(found, key=lambda each: (each[0], each[1].first))


def _remove_empty(place: Path, root: Path) -> None:
    while place != root:
        try:
            place.rmdir()
        except OSError:
            return
        place = place.parent


def _is_damaged(path: Path) -> bool:
    reader = FrameReader(path)
    try:
        for _ in reader:
            pass
    except DamagedLogError:
        return True
    return bool(reader.damaged) or not reader.is_whole
