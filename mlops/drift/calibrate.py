"""Thresholds for a wanted budget of false alarms, from the package's own blocks, and what they cost in delay.

Windows without drift, and with a shift of stated size, are drawn from the covariance that the baseline's blocks have.
All columns of a side are drawn together from the same blocks, so that columns that move together do so here.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlops.drift import figures
from mlops.drift.columns import Column, Columns, Integers, sides_of
from mlops.drift.covariance import correlation_rows, deviations, inflation, shrunk
from mlops.drift.decide import window_level
from mlops.drift.figures import SMOOTHING, Floats
from mlops.drift.result import Side
from mlops.drift.spec import DAY_NS, DriftSpec, Thresholds
from mlops.drift.tail import Tail
from mlops.drift.windows import clock_of
from mlops.package import Baseline
from tickserve.errors import DataError

DRAWS = 4000
#: Shifts of all values that delays are told for, in standard deviations of the reference.
SHIFTS = (0.25, 0.5, 1.0, 2.0)
YEAR_DAYS = 365.25
#: A threshold is exceeded no more often than this without drift. Nearer to the null's 95% quantile, which differs from
#: window to window, windows would be insufficient by chance.
_TAIL = 0.01
#: A critical threshold is passed this many times as rarely as the warning.
_CRITICAL = 10


@dataclass(frozen=True, slots=True)
class Delay:
    """How soon a shift of `shift_sd` is found: the share of windows that alarm, and days to the first that does."""

    shift_sd: float
    power: float
    days: float | None


@dataclass(frozen=True, slots=True)
class ColumnCalibration:
    """Thresholds of one column.

    Parameters
    ----------
    insufficient : str
        Why the column cannot be decided with such windows; empty where it can.
    null_q95 : float
        Of PSI, for such a window without drift.
    runs, runs_beyond : int
        Runs of whole blocks of the baseline, as long as the window as near as may be, each against all others, and
        how many of them have a PSI beyond the warning threshold: the reference was not still either.
    """

    side: Side
    column: str
    insufficient: str
    correlation_rows: float
    null_q95: float
    warning: float
    critical: float
    delays: tuple[Delay, ...]
    runs: int
    runs_beyond: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds of all columns, and how often a model that does not drift would be alarmed.

    Parameters
    ----------
    window_rows, window_days : float
        Rows of the reference, and days, in a window.
    level : float
        Of one window and side.
    false_alarms_per_year, false_criticals_per_year : float
        Of the whole rule, in the drawn windows; a year has `windows_per_year`.
    budget_per_year : float
        What the specification allows.
    """

    window_rows: float
    window_days: float
    windows_per_year: float
    level: float
    false_alarms_per_year: float
    false_criticals_per_year: float
    budget_per_year: float
    columns: tuple[ColumnCalibration, ...]

    def thresholds(self) -> dict[str, Thresholds]:
        """For `DriftSpec.column_thresholds`; where an input and an output share a name, the higher ones."""
        found: dict[str, Thresholds] = {}
        for each in self.columns:
            known = found.get(each.column)
            if known is None or known.warning < each.warning:
                found[each.column] = Thresholds(each.warning, each.critical)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def calibrate(baseline: Baseline, spec: DriftSpec, *, shifts: Sequence[float] = SHIFTS) -> Calibration:
    """Thresholds for the windows and the budget of a specification.

    Thresholds are the larger of the specification's own and what the budget needs.

    Raises
    ------
    DataError
        Where the order of the baseline's inputs is unknown, or no exchange session lies in their period.
    """
    ordered = [columns for columns in sides_of(baseline) if columns.reference.order == "time" and columns.span_ns > 0]
    sides = [columns for columns in ordered if _window(spec, columns)[1] > 0]
    if not ordered or ordered[0].side != "input":
        raise DataError("the baseline's order is unknown, so no threshold has a level; build it with times")
    if not sides or sides[0].side != "input":
        raise DataError("the baseline's period holds no such window, so nothing says how far one strays")
    days, rows = _window(spec, sides[0])
    level = window_level(spec, days, len(sides_of(baseline)))
    found = [_Side(columns, _window(spec, columns)[1], level, spec) for columns in sides]
    # Inputs and outputs are tested apart; either may alarm.
    alarms, criticals = (1 - math.prod(1 - rates[kind] for rates in (s.rates() for s in found)) for kind in (0, 1))
    return Calibration(
        window_rows=rows,
        window_days=days,
        windows_per_year=YEAR_DAYS / days,
        level=level,
        false_alarms_per_year=alarms * YEAR_DAYS / days,
        false_criticals_per_year=criticals * YEAR_DAYS / days,
        budget_per_year=YEAR_DAYS / spec.budget_days,
        columns=tuple(each for side in found for each in side.columns(shifts, days)),
    )


class _Side:
    """The drawn windows of one side."""

    def __init__(self, columns: Columns, rows: float, level: float, spec: DriftSpec) -> None:
        self._rows, self._level = rows, level
        self._columns = [
            _Drawn(column, rows, _generator(columns), len(columns.reference.blocks)) for column in columns.columns
        ]
        self._tested = [drawn for drawn in self._columns if not drawn.insufficient]
        share = self._share()
        self._thresholds = {
            drawn.column.name: (
                max(spec.thresholds_of(drawn.column.name).warning, drawn.quantile(share)),
                max(spec.thresholds_of(drawn.column.name).critical, drawn.quantile(share / _CRITICAL)),
            )
            for drawn in self._columns
        }

    def _share(self) -> float:
        """The tail of each column in which any of them lies in `level` of the windows."""
        if not self._tested:
            return min(_TAIL, self._level / max(len(self._columns), 1))
        smallest = np.min([drawn.tails(drawn.still) for drawn in self._tested], axis=0)
        # Never below Bonferroni's, which the draws are too few to fall short of.
        return min(_TAIL, max(self._level / len(self._tested), float(np.quantile(smallest, self._level))))

    def rates(self) -> tuple[float, float]:
        """Shares of windows without drift in which any column is a warning or worse, and critical."""
        if not self._tested:
            return 0.0, 0.0
        tails = np.array([drawn.tails(drawn.still) for drawn in self._tested])
        ordered = np.sort(tails, axis=0)
        steps = self._level * np.arange(1, len(tails) + 1)[:, None] / len(tails)
        passing = np.where(ordered <= steps, ordered, 0.0).max(axis=0)
        significant = tails <= passing
        beyond = [
            np.array([drawn.still > self._thresholds[drawn.column.name][kind] for drawn in self._tested])
            for kind in (0, 1)
        ]
        return float((significant & beyond[0]).any(axis=0).mean()), float((significant & beyond[1]).any(axis=0).mean())

    def columns(self, shifts: Sequence[float], days: float) -> list[ColumnCalibration]:
        """What is told of each column."""
        return [self._told(drawn, shifts, days) for drawn in self._columns]

    def _told(self, drawn: "_Drawn", shifts: Sequence[float], days: float) -> ColumnCalibration:
        column = drawn.column
        warning, critical = self._thresholds[column.name]
        delays = []
        for shift in shifts if column.is_numeric and column.deviation > 0 and not drawn.insufficient else ():
            moved = drawn.shifted(shift * column.deviation)
            # Alone among the columns of its side it must pass the first step of Benjamini and Hochberg.
            alone = self._level / max(len(self._tested), 1)
            power = float(((moved > warning) & (drawn.tails(moved) <= alone)).mean())
            delays.append(Delay(shift, power, days / power if power > 1 / DRAWS else None))
        runs = _runs(column, self._rows)
        return ColumnCalibration(
            side=column.side,
            column=column.name,
            insufficient=drawn.insufficient,
            correlation_rows=drawn.correlation,
            null_q95=drawn.quantile(0.05),
            warning=warning,
            critical=critical,
            delays=tuple(delays),
            runs=len(runs),
            runs_beyond=sum(value > warning for value in runs),
        )


class _Drawn:
    """PSI of one column in drawn windows without drift, and the chi-square that its tail is scaled to."""

    def __init__(self, column: Column, rows: float, generator: np.random.Generator, blocks: int) -> None:
        self.column, self._rows = column, rows
        self.correlation = correlation_rows(column)
        self.insufficient = (
            f"correlation time of {self.correlation:.1f} rows of the reference, more than a twentieth of the window "
            f"({rows:.0f})"
            if self.correlation > rows / 20
            else ""
        )
        self._occupied = column.reference > 0
        self._n = float(column.reference.sum())
        self._shares = column.reference / self._n
        slow = inflation(column.blocks, self._shares)
        shares = self._shares[self._occupied]
        vectors = deviations(column.blocks)[:, self._occupied]
        seen = float(((vectors**2).sum(axis=0) / shares).sum())
        independent = float((1 - shares).sum())
        wanted = independent * slow / self._n, independent * slow / rows
        vectors = shrunk(vectors, shares)
        self._strays = [
            np.zeros((DRAWS, column.cells)),
            np.zeros((DRAWS, column.cells)),
        ]
        for strays, factors, want in zip(self._strays, _factors(generator, blocks, len(vectors)), wanted, strict=True):
            scaled = vectors * math.sqrt(want / seen) if seen > 0 else vectors
            strays[:, self._occupied] = np.einsum("dg,gk->dk", factors, scaled, optimize=False)
        self.still = self._psi(self._shares)
        self._tail = Tail.of(self.still)

    def tails(self, values: Floats) -> Floats:
        """How probable each of these values, or more, is without drift."""
        return self._tail.beyond(values)

    def quantile(self, tail: float) -> float:
        """The value that is exceeded with probability `tail` without drift."""
        return self._tail.quantile(tail)

    def shifted(self, distance: float) -> Floats:
        """PSI of drawn windows whose values all moved by `distance`, even within each bin of the reference."""
        edges = self.column.edges.astype(np.float64)
        low, high = edges[:-1] + distance, edges[1:] + distance
        bounds = np.concatenate([[-np.inf], edges, [np.inf]])
        below = np.clip((bounds[:, None] - low) / (high - low), 0.0, 1.0)
        parts = np.diff(below, axis=0)
        moved = np.zeros(self.column.cells)
        moved[:-1] = parts @ self._shares[1:-2]
        # What lies in open bins has no width to move within.
        moved[0] += self._shares[0]
        moved[-2] += self._shares[-2]
        moved[-1] = self._shares[-1]
        return self._psi(moved)

    def _psi(self, shares: Floats) -> Floats:
        occupied = self._occupied | (shares > 0)
        sides = []
        for strays, centre, rows in zip(self._strays, (self._shares, shares), (self._n, self._rows), strict=True):
            strayed = np.maximum((centre + strays)[:, occupied], 0.0)
            smoothed = strayed / strayed.sum(axis=1, keepdims=True) * rows + SMOOTHING
            sides.append(smoothed / smoothed.sum(axis=1, keepdims=True))
        return figures.psi_of(*sides)


def _window(spec: DriftSpec, columns: Columns) -> tuple[float, float]:
    """Days of a window, and the rows that the reference has in as long a stretch."""
    clock = clock_of(spec)
    if clock is None:
        return spec.rows * columns.span_ns / columns.rows / DAY_NS, float(spec.rows)
    return clock.days, columns.rows * clock.share(columns.first_ns, columns.last_ns)


def _runs(column: Column, rows: float) -> list[float]:
    """PSI of each run of blocks about as long as the window against the rest of the reference."""
    blocks: Integers = column.blocks
    length = max(1, round(rows / (float(column.reference.sum()) / len(blocks))))
    found = []
    for start in range(0, len(blocks) - length + 1, length):
        run = blocks[start : start + length].sum(axis=0)
        value = figures.psi(column.reference - run, run)
        if value is not None:
            found.append(value)
    return found


def _factors(generator: np.random.Generator, blocks: int, vectors: int) -> Iterator[Floats]:
    """Twice: factors of the blocks, the same for all columns, and of the column's own vectors beyond them."""
    shared = [generator.standard_normal((DRAWS, blocks)) for _ in range(2)]
    for factors in shared:
        yield np.concatenate([factors, generator.standard_normal((DRAWS, max(0, vectors - blocks)))], axis=1)


def _generator(columns: Columns) -> np.random.Generator:
    """The same for all columns of a side, so that they stray together."""
    digest = hashlib.sha256(b"".join(column.content for column in columns.columns)).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
