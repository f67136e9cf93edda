"""Reading the log back: segments and Parquet files as batches in the order of their positions."""

from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

import numpy as np

from mlops.prediction_log import parquet
from mlops.prediction_log.batch import Batch
from mlops.prediction_log.decode import batches
from mlops.prediction_log.frames import Frame, FrameReader
from mlops.prediction_log.parquet import DAY_NS, OnDamaged, raise_damaged
from mlops.prediction_log.scan import scan
from mlops.prediction_log.segments import first_position, segment_paths
from mlops.tap import Version, slot_dtype
from mlops.tap.catalog import version_of
from tickserve.errors import DamagedLogError

#: Folders of a log.
SEGMENTS = "segments"
PARQUET = "parquet"


def read_log(
    folder: Path,
    model: str,
    version: str | None = None,
    *,
    after_position: int = -1,
    until_ns: int | None = None,
    on_damaged: OnDamaged = raise_damaged,
) -> Iterator[Batch]:
    """The records of a model, or of one version of it, from segments and Parquet, in position order by version.

    Parameters
    ----------
    folder : Path
        Of the log.
    after_position : int
        Records behind this position alone.
    until_ns : int, optional
        Records that were answered before this time alone.
    on_damaged : callable, optional
        Is given the path of a file that is no file of the log, and the error. Where it returns, the file is passed
        over.

    Raises
    ------
    DamagedLogError
        Where a file is no file of the log. Damaged places within a segment are left out; their positions are missing.
    """
    for batch in read_all(folder, after_position=after_position, model=model, version=version, on_damaged=on_damaged):
        chosen = batch if until_ns is None else batch.take(batch.time_ns < until_ns)
        if len(chosen):
            yield chosen


def read_all(
    folder: Path,
    *,
    after_position: int = -1,
    model: str | None = None,
    version: str | None = None,
    day: date | None = None,
    on_damaged: OnDamaged = raise_damaged,
) -> Iterator[Batch]:
    """The records of all models, or of some, of all days, or of one (UTC); of each version in position order.

    While it reads, a segment may become Parquet: what was read counts by position, and nothing comes twice.
    """
    done = after_position
    while True:
        segments = segment_paths(folder / SEGMENTS)
        # Where a segment is still there, what was made of it may not be whole.
        begin = first_position(segments[0]) if segments else None
        groups = parquet.groups(folder / PARQUET, before=begin, after=done, model=model, version=version, day=day)
        try:
            for group in groups:
                yield from _behind(parquet.read_group(group, on_damaged), done, None)
                done = max(done, group.last)
            for number, path in enumerate(segments):
                is_behind = number + 1 < len(segments) and first_position(segments[number + 1]) - 1 <= done
                if is_behind:
                    continue
                last = done
                for batch in read_segment(path, on_damaged):
                    last = max(last, int(batch.position[-1]))
                    is_wanted = model in (None, batch.model) and version in (None, batch.version)
                    if is_wanted:
                        yield from _behind([batch], done, day)
                done = last
            return
        except FileNotFoundError:
            # It became Parquet, or its time was over, while this read what lies before it.
            continue


def read_segment(path: Path, on_damaged: OnDamaged = raise_damaged) -> Iterator[Batch]:
    """The records of one segment. Raises DamagedLogError, OSError.

    Where `on_damaged` returns, what lies behind the damage is passed over.
    """
    try:
        yield from _segment(path)
    except DamagedLogError as error:
        on_damaged(path, error)


def _segment(path: Path) -> Iterator[Batch]:
    versions: dict[str, dict[int, Version]] = {}
    missed = 0
    reader = FrameReader(path)
    for frame in reader:
        head = frame.head
        if head["kind"] == "begin":
            missed = int(head["totals"]["missed"])
        elif head["kind"] == "version":
            versions.setdefault(head["boot"], {})[int(head["index"])] = version_of(head)
        elif head["kind"] == "records":
            missed += int(head["counted"]["missed"])
            if not head["counted"]["records"]:
                continue
            try:
                yield from _of_frame(path, frame, versions.get(head["boot"], {}), missed)
            except DamagedLogError:
                # What its versions are called may have been in a place that is damaged.
                if not reader.damaged:
                    raise


def _of_frame(path: Path, frame: Frame, versions: dict[int, Version], missed: int) -> list[Batch]:
    head = frame.head
    dtype = slot_dtype(int(head["slot_bytes"]))
    found = scan(
        np.frombuffer(frame.body, dtype),
        max_parts=int(head["max_parts"]),
        expected=0,
        next_sequence=1 << 63,
        versions=versions.keys(),
        is_end=True,
    )
    if len(found) != head["counted"]["records"]:
        raise DamagedLogError(
            f"{path}: the frame at position {head['position']} says {head['counted']['records']} records and has "
            f"{len(found)}",
            field=str(path),
        )
    return batches(found, versions, head["boot"], int(head["ring"]), int(head["position"]), missed)


def _behind(found: Iterable[Batch], after: int, day: date | None) -> Iterator[Batch]:
    for batch in found:
        chosen = batch.position > after
        if day is not None:
            chosen &= batch.time_ns // DAY_NS == (day - date(1970, 1, 1)).days
        if chosen.all():
            yield batch
        elif chosen.any():
            yield batch.take(chosen)
