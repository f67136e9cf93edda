"""What rows take from windows of drift, figures of outcomes and rates of a server: for each row a reading, or none."""

import math
from collections.abc import Callable, Iterable

from mlops.alerts.matrix import ROLLING, Row
from mlops.alerts.rates import Rate
from mlops.alerts.reading import Reading
from mlops.drift import WindowResult
from mlops.drift.result import Figure
from mlops.outcomes import OutcomeFigure

#: The share of a window's periods that must have a figure.
FILLED = 0.9
_STATES = {"ok": 0.0, "warning": 1.0, "critical": 2.0}


def drift_reading(row: Row, result: WindowResult) -> Reading | None:
    """The worst column of a window; None where the row is not about drift.

    Columns that are insufficient say nothing; where all are, so does the window.
    """
    if row.source not in ("drift_input", "drift_output"):
        return None
    side = row.source.removeprefix("drift_")
    columns = [
        figure
        for figure in result.figures
        if figure.side == side
        and figure.statistic == row.figure
        and (not row.columns or figure.column in row.columns)
        and figure.state != "insufficient"
    ]
    by = _state if row.basis == "state" else _value
    told = [figure for figure in columns if figure.value is not None]
    worst = _worst(row, told, by)
    # Windows by count are cut by position; event times of two may meet.
    start, end = result.start_ns, result.end_ns
    if result.kind == "count":
        start, end = result.first_position, result.last_position + 1
    return Reading(
        model=result.model,
        version=result.version,
        window=f"{result.kind}:{start}-{end}",
        start=start,
        end=end,
        value=None if worst is None else by(worst),
        evidence="" if worst is None else _drift_evidence(worst, told),
    )


def outcome_reading(row: Row, figure: OutcomeFigure) -> Reading | None:
    """A figure's bound or estimate; None where the row is about another one."""
    if row.source != "outcome" or figure.figure != figure_name(row):
        return None
    if row.horizon and figure.horizon != row.horizon:
        return None
    value = {"value": figure.value, "lower": figure.lower, "upper": figure.upper}[row.basis]
    # A period without a figure, such as one with too few names, does not make the others worthless.
    is_short = row.length is not None and figure.n < FILLED * row.length
    if is_short or figure.state != "ok" or value is None or not math.isfinite(value):
        value = None
    return Reading(
        model=figure.model,
        version=figure.version,
        window=f"{figure.horizon}:{figure.start_ns}-{figure.end_ns}",
        start=figure.start_ns,
        end=figure.end_ns + 1,
        value=value,
        horizon=figure.horizon,
        evidence=_evidence(figure.figure, figure.value, figure.lower, figure.upper, figure.n, figure.horizon),
    )


def rate_reading(row: Row, rate: Rate, *, model: str, version: str, start_ns: int, end_ns: int) -> Reading | None:
    """A rate's bound or estimate; None where the row is about another one."""
    if row.source != "server" or rate.figure != row.figure:
        return None
    return Reading(
        model=model,
        version=version,
        window=f"{start_ns}-{end_ns}",
        start=start_ns,
        end=end_ns,
        value={"value": rate.value, "lower": rate.lower, "upper": rate.upper}[row.basis],
        evidence=_evidence(rate.figure, rate.value, rate.lower, rate.upper, rate.n, f"{rate.buckets} key buckets"),
    )


def figure_name(row: Row) -> str:
    """The name that outcome figures have for what an outcome row looks at."""
    return f"{row.figure}_{row.length}" if row.figure in ROLLING else row.figure


def _worst(row: Row, figures: Iterable[Figure], by: Callable[[Figure], float]) -> Figure | None:
    sign = 1.0 if row.direction == "above" else -1.0
    # Of equals the one that lies farthest beyond its null: the same every time, and the one to look at first.
    return max(figures, key=lambda found: (sign * by(found), found.value or 0.0, found.column), default=None)


def _state(figure: Figure) -> float:
    return _STATES[figure.state]


def _value(figure: Figure) -> float:
    return figure.value if figure.value is not None else math.nan


def _drift_evidence(worst: Figure, told: list[Figure]) -> str:
    beyond = sum(figure.state in ("warning", "critical") for figure in told)
    null = "" if worst.null_q99 is None else f", null 99% {worst.null_q99:.4g}"
    p = "" if worst.p is None else f", p {worst.p:.2g}"
    return (
        f"{worst.statistic} of {worst.side} {worst.column} {_value(worst):.4g}{null}{p}, {worst.n} rows, "
        f"{worst.state}; {beyond} of {len(told)} columns beyond"
    )


def _evidence(name: str, value: float | None, lower: float | None, upper: float | None, n: int, of: str) -> str:
    if value is None:
        return f"{name} undefined"
    bounds = "" if lower is None or upper is None else f" ({lower:.4g} to {upper:.4g})"
    return f"{name} {value:.4g}{bounds}, n {n}, {of}"
