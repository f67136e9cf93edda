"""From the counts of a closed window to what is said about it."""

from collections.abc import Sequence

import numpy as np

from mlops.drift import null, onset
from mlops.drift.columns import Columns
from mlops.drift.counts import WindowCounts
from mlops.drift.covariance import correlation_rows
from mlops.drift.decide import WindowFacts, decide, figures_of, window_level
from mlops.drift.result import Decision, Figure, Onset, Side, Swap, WindowResult, worst
from mlops.drift.spec import DAY_NS, DriftSpec, is_intraday
from mlops.drift.windows import Clock
from mlops.package import Baseline, Manifest


class Judge:
    """Judges windows of one package by one specification; keeps nothing between them."""

    def __init__(
        self,
        manifest: Manifest,
        baseline: Baseline,
        spec: DriftSpec,
        sides: tuple[Columns, ...],
        clock: Clock | None,
        *,
        is_dated: bool,
    ) -> None:
        self._manifest, self._spec, self._sides, self._clock = manifest, spec, sides, clock
        self._is_dated, self._is_intraday = is_dated, is_intraday(manifest, baseline)
        self._digest = manifest.digest

    def result(
        self,
        window: WindowCounts,
        before: Sequence[WindowCounts],
        swaps: Sequence[Swap],
        version: str,
        closed_position: int,
        late_and_outside: tuple[int, int],
    ) -> WindowResult:
        """Figures, decisions and onsets of a window; `before` are the windows before it, oldest first."""
        level = window_level(self._spec, self._days(window), len(self._sides))
        figures: list[Figure] = []
        decisions: list[Decision] = []
        onsets: list[Onset] = []
        for number, columns in enumerate(self._sides):
            expected = self._expected_rows(columns, window)
            assessments = [
                (column.name, null.assess(column, counts, expected))
                for column, counts in zip(columns.columns, window.sides[number].columns, strict=True)
            ]
            made = decide(columns.side, assessments, self._facts(columns, window, number), self._spec, level)
            decisions += made
            for place, ((name, assessment), decision) in enumerate(zip(assessments, made, strict=True)):
                figures += figures_of(columns.side, name, assessment, decision.state)
                if decision.state in ("warning", "critical"):
                    onsets.append(_onset(columns, number, place, [*before, window], swaps))
        is_count = self._spec.kind == "count"
        return WindowResult(
            model=self._manifest.name,
            version=version,
            digest=self._digest,
            kind=self._spec.kind,
            start_ns=window.first_ns if is_count else window.start_ns,
            end_ns=window.last_ns if is_count else window.end_ns,
            first_ns=window.first_ns,
            last_ns=window.last_ns,
            first_position=window.first_position,
            last_position=window.last_position,
            closed_position=closed_position,
            records=window.records,
            rows=window.rows,
            late=late_and_outside[0],
            outside=late_and_outside[1],
            state=worst([decision.state for decision in decisions]),
            figures=tuple(figures),
            decisions=tuple(decisions),
            onsets=tuple(onsets),
            dropped=window.dropped,
        )

    def _days(self, window: WindowCounts) -> float:
        """How much of the budget's time a window takes; without times, as much as one window may."""
        if not self._is_dated:
            return self._spec.budget_days
        return (window.last_ns - window.first_ns) / DAY_NS if self._clock is None else self._clock.days

    def _expected_rows(self, columns: Columns, window: WindowCounts) -> float | None:
        if not self._is_dated or columns.span_ns <= 0:
            return None
        if self._clock is None:
            return columns.rows * (window.last_ns - window.first_ns) / columns.span_ns
        return columns.rows * self._clock.share(columns.first_ns, columns.last_ns) or None

    def _facts(self, columns: Columns, window: WindowCounts, number: int) -> WindowFacts:
        counted = window.sides[number].columns[0].cells.sum(axis=1) if columns.columns else np.zeros(0)
        length = DAY_NS * self._days(window)
        return WindowFacts(
            is_ordered=columns.reference.order == "time",
            sub_blocks=int((counted > 0).sum()),
            expected_rows=self._expected_rows(columns, window),
            is_part_of_day=self._is_dated and self._is_intraday and self._spec.kind != "session" and length < DAY_NS,
            dropped_share=window.dropped_share,
        )


def _onset(columns: Columns, side: int, place: int, windows: Sequence[WindowCounts], swaps: Sequence[Swap]) -> Onset:
    column = columns.columns[place]
    cells = np.concatenate([window.sides[side].columns[place].cells for window in windows])
    first, last = (np.concatenate([getattr(window, name) for window in windows]) for name in ("first", "last"))
    has_rows = cells.sum(axis=1) > 0
    cells, first, last = cells[has_rows], first[has_rows], last[has_rows]
    # Rows that count as one in the slowest direction: a shift moves values as a whole, and that is where it lies.
    found = onset.change_point(column.reference, cells, 2 * correlation_rows(column))
    # A sub-block that the change lies in may be taken for one before it or after it.
    low = int(first[found.low - 1]) if found.low else None
    time, high = int(first[found.best]), int(last[found.high])
    nearest = min(swaps, key=lambda swap: abs(swap.time_ns - time), default=None)
    is_inside = nearest is not None and (low is None or low <= nearest.time_ns) and nearest.time_ns <= high
    kind: Side = columns.side
    return Onset(kind, column.name, time, low, high, nearest, is_inside)
