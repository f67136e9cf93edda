"""Drift of one version, from the records of the log in their order.

Everything that is said is a pure function of the baseline and the records: how the log was cut into batches, and where
a restart came between, changes no bit of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlops.drift.columns import Array, Columns, Integers, sides_of
from mlops.drift.counts import WindowCounts
from mlops.drift.defaults import default_spec
from mlops.drift.judge import Judge
from mlops.drift.result import Swap, WindowResult
from mlops.drift.spec import DriftSpec
from mlops.drift.windows import Clock, clock_of
from mlops.package import Baseline, Manifest
from mlops.tap import Why
from tickserve.errors import DataError

#: Closed windows, and swaps, that an onset is looked for among.
REMEMBERED_WINDOWS = 4
REMEMBERED_SWAPS = 64
#: Requests whose mix is the market's. Pinned and smoke traffic is somebody's choice; a fallback answers what another
#: version failed at.
_COUNTED = (Why.SPLIT, Why.SHADOW)
_NEVER = np.iinfo(np.int64).min


class Records(Protocol):
    """What is read of a batch of the log (`mlops.prediction_log.Batch`)."""

    @property
    def version(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def position(self) -> Integers: ...
    @property
    def time_ns(self) -> Integers: ...
    @property
    def event_time_ns(self) -> Integers: ...
    @property
    def why(self) -> NDArray[np.uint8]: ...
    @property
    def plan_generation(self) -> NDArray[np.uint64]: ...
    @property
    def inputs(self) -> Mapping[str, Array]: ...
    @property
    def outputs(self) -> Mapping[str, Array]: ...
    @property
    def input_records(self) -> Integers: ...
    @property
    def output_records(self) -> Integers: ...
    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def missed(self) -> Integers: ...


@dataclass(eq=False)
class Progress:
    """What a monitor knows between two batches; `mlops.drift.state` writes it down.

    Parameters
    ----------
    watermark_ns : int
        Latest event time of a record; windows that ended `lateness_s` before it are closed.
    tie_ns, tie_sub_block : int
        Event time and sub-block of the last record of a count window: records of one time are never parted.
    missed : int
        What had gone missing of the log up to the last record; -1 before the first.
    """

    version: str
    last_position: int
    watermark_ns: int
    late: int
    outside: int
    tie_ns: int
    tie_sub_block: int
    generation: int
    swaps: list[Swap]
    open: list[WindowCounts]
    closed: list[WindowCounts]
    missed: int

    @staticmethod
    def none() -> "Progress":
        """Before the first record."""
        return Progress("", -1, _NEVER, 0, 0, _NEVER, 0, -1, [], [], [], -1)


class DriftMonitor:
    """Counts the records of one version and judges each window that closes.

    Parameters
    ----------
    manifest, baseline
        Of the version's package.
    spec : DriftSpec, optional
        By default `default_spec`.
    is_dated : bool
        False where records have no times and their order is all that is known.

    Notes
    -----
    The event time of a record is what the client said, but never later than its answer, so that a wrong clock cannot
    close windows before their time; where it said nothing, the time of the answer. Counted are requests that the split
    chose this version for, and shadow copies; refused ones too, as far as their inputs were recorded.
    """

    def __init__(
        self, manifest: Manifest, baseline: Baseline, spec: DriftSpec | None = None, *, is_dated: bool = True
    ) -> None:
        self.spec = spec or default_spec(manifest, baseline)
        self.digest = manifest.digest
        self.sides = sides_of(baseline)
        self.progress = Progress.none()
        self._clock = clock_of(self.spec)
        self._judge = Judge(manifest, baseline, self.spec, self.sides, self._clock, is_dated=is_dated)

    def add(self, batch: Records) -> list[WindowResult]:
        """Counts the records behind those that were counted before; the windows that they closed, in order.

        Raises
        ------
        DataError
            Where the batch is of another package, or its tensors are not those of the baseline.
        """
        if batch.digest != self.digest:
            raise DataError(f"a batch of package {batch.digest[:12]}, expected {self.digest[:12]}", field="digest")
        known = self.progress
        if not len(batch.position) or int(batch.position[-1]) <= known.last_position:
            return []
        known.version = batch.version
        records = _Rows.of(batch, self.sides, known.last_position, known.missed)
        known.last_position, known.missed = int(batch.position[-1]), int(batch.missed[-1])
        self._note_swaps(batch, records)
        return self._add_counted(records) if self._clock is None else self._add_timed(records, self._clock)

    def close(self) -> list[WindowResult]:
        """Closes what is open because no more records will come; these windows may be incomplete."""
        results = [self._close(window, -1) for window in sorted(self.progress.open, key=lambda each: each.start_ns)]
        return [each for each in results if each.records]

    def _add_timed(self, records: "_Rows", clock: Clock) -> list[WindowResult]:
        known, lateness = self.progress, int(self.spec.lateness_s * 1e9)
        places = clock.place(records.times)
        is_inside = (places.sub_block >= 0) & records.is_counted
        moves = np.where(records.is_counted, records.times, _NEVER)
        # Before the first record, then after each.
        watermark = np.maximum.accumulate(np.append(known.watermark_ns, moves))
        closed_before = np.maximum(watermark, _NEVER + lateness) - lateness
        is_late = is_inside & (places.end <= closed_before[:-1])
        is_inside &= ~is_late
        is_outside = records.is_counted & (places.sub_block < 0)
        opened = np.array([window.end_ns for window in known.open], np.int64)
        ends = np.unique(np.append(places.end[is_inside], opened))
        closers = np.searchsorted(closed_before[1:], ends, side="left")
        results: list[WindowResult] = []
        start = 0
        for cut in [*np.unique(closers[closers < len(records.times)]).tolist(), len(records.times)]:
            piece = np.zeros(len(records.times), bool)
            piece[start:cut] = True
            known.late += int((is_late & piece).sum())
            known.outside += int((is_outside & piece).sum())
            for window_start in np.unique(places.start[is_inside & piece]).tolist():
                chosen = is_inside & piece & (places.start == window_start)
                end = int(places.end[int(chosen.argmax())])
                records.count(self._window(window_start, end), chosen, places.sub_block)
            if cut < len(records.times):
                due = [window for window in known.open if window.end_ns <= closed_before[cut + 1]]
                closer = int(records.positions[cut])
                results += [self._close(each, closer) for each in sorted(due, key=lambda each: each.start_ns)]
            start = cut
        known.watermark_ns = int(watermark[-1])
        return results

    def _add_counted(self, records: "_Rows") -> list[WindowResult]:
        known = self.progress
        chosen = np.flatnonzero(records.is_counted)
        times, rows = records.times[chosen], records.rows[chosen]
        total = np.cumsum(rows)
        results: list[WindowResult] = []
        start = 0
        while start < len(chosen):
            window = known.open[0] if known.open else self._window(0, 0)
            before = int(total[start - 1]) if start else 0
            # The record with which the window is full, if it is here.
            last = int(np.searchsorted(total, self.spec.rows - window.rows + before, side="left"))
            end = min(last + 1, len(chosen))
            piece = slice(start, end)
            offset = window.rows - before
            sub_block = (total[piece] - rows[piece] + offset) * self.spec.sub_blocks // self.spec.rows
            sub_block = self._untorn(times[piece], np.minimum(sub_block, self.spec.sub_blocks - 1))
            mask, places = np.zeros(len(records.times), bool), np.zeros(len(records.times), np.int64)
            mask[chosen[piece]] = True
            places[chosen[piece]] = sub_block
            records.count(window, mask, places)
            known.tie_ns, known.tie_sub_block = int(times[end - 1]), int(sub_block[-1])
            if last < len(chosen):
                results.append(self._close(window, int(records.positions[chosen[last]])))
                known.tie_ns = _NEVER
            start = end
        return results

    def _untorn(self, times: Integers, sub_block: Integers) -> Integers:
        """Gives records of one time, next to each other, the sub-block of the first of them."""
        known = self.progress
        is_new = np.append(times[:1] != known.tie_ns, times[1:] != times[:-1])
        first = np.maximum.accumulate(np.where(is_new, np.arange(len(times)), -1))
        return np.asarray(np.where(first < 0, known.tie_sub_block, sub_block[np.maximum(first, 0)]))

    def _window(self, start_ns: int, end_ns: int) -> WindowCounts:
        for window in self.progress.open:
            if window.start_ns == start_ns:
                return window
        self.progress.open.append(WindowCounts.empty(start_ns, end_ns, self.sides, self.spec.sub_blocks))
        return self.progress.open[-1]

    def _close(self, window: WindowCounts, closed_position: int) -> WindowResult:
        known = self.progress
        result = self._judge.result(
            window, known.closed, known.swaps, known.version, closed_position, (known.late, known.outside)
        )
        known.late = known.outside = 0
        known.open.remove(window)
        known.closed = [*known.closed, window][-REMEMBERED_WINDOWS:]
        return result

    def _note_swaps(self, batch: Records, records: "_Rows") -> None:
        known = self.progress
        generations = np.append(known.generation, batch.plan_generation[records.is_new].astype(np.int64))
        for number in np.flatnonzero(generations[1:] > np.maximum.accumulate(generations)[:-1]).tolist():
            swap = Swap(int(generations[number + 1]), int(records.times[number]), int(records.positions[number]))
            # The first generation that is seen is no swap.
            if known.generation >= 0:
                known.swaps = [*known.swaps, swap][-REMEMBERED_SWAPS:]
            known.generation = swap.generation


@dataclass(eq=False)
class _Rows:
    """The new records of a batch, and their rows side by side."""

    is_new: NDArray[np.bool_]
    positions: Integers
    times: Integers
    is_counted: NDArray[np.bool_]
    rows: Integers
    #: What had gone missing of the log up to the record before each, and up to it: (2, records).
    missed: Integers
    sides: tuple[tuple[Columns, dict[str, Array], Integers], ...]

    @staticmethod
    def of(batch: Records, sides: tuple[Columns, ...], last_position: int, missed: int) -> "_Rows":
        is_new = batch.position > last_position
        answered, said = batch.time_ns[is_new], batch.event_time_ns[is_new]
        times = np.where(said > 0, np.where(answered > 0, np.minimum(said, answered), said), answered)
        place = np.cumsum(is_new) - 1
        has_rows = np.zeros(int(is_new.sum()), bool)
        found = []
        rows = np.zeros(len(has_rows), np.int64)
        for columns in sides:
            tensors = batch.inputs if columns.side == "input" else batch.outputs
            owners = batch.input_records if columns.side == "input" else batch.output_records
            if not len(owners):
                continue
            stepped = columns.newest_steps(tensors, batch.shapes)
            if not is_new.all():
                kept = is_new[owners]
                stepped = {name: array[kept] for name, array in stepped.items()}
                owners = owners[kept]
            owners = place[owners]
            has_rows[owners] = True
            if columns.side == "input":
                rows = np.bincount(owners, minlength=len(rows)).astype(np.int64)
            found.append((columns, stepped, owners))
        is_counted = np.isin(batch.why[is_new], _COUNTED) & has_rows
        up_to = batch.missed[is_new]
        # What was dropped before the first record that is seen is of no window.
        before = np.append(up_to[:1] if missed < 0 else missed, up_to[:-1])
        gaps = np.stack([before, up_to])
        return _Rows(is_new, batch.position[is_new], times, is_counted, rows, gaps, tuple(found))

    def count(self, window: WindowCounts, chosen: NDArray[np.bool_], sub_block: Integers) -> None:
        """Adds the chosen records to a window."""
        number = {"input": 0, "output": 1}
        for columns, tensors, owners in self.sides:
            kept = chosen[owners]
            if not kept.all():
                tensors = {name: array[kept] for name, array in tensors.items()}
                owners = owners[kept]
            window.sides[number[columns.side]].count(columns, tensors, sub_block[owners])
        window.note(
            self.positions[chosen],
            self.times[chosen],
            sub_block[chosen],
            int(self.rows[chosen].sum()),
            self.missed[:, chosen],
        )
