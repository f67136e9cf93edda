"""What each row of a matrix costs: false alarms on a healthy model, and how long it takes to see one that is not.

The state machine itself is run on simulated windows, the way that the sidecar's would follow one another, with the
intervals that the sidecar computes (that of a Sharpe ratio by Mertens' error unless another one is given, because a
bootstrap of every window takes minutes).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops.alerts.matrix import LevelName, Matrix, Row
from mlops.alerts.policy import RowState, step
from mlops.alerts.rates import rate
from mlops.alerts.reading import Reading
from mlops.outcomes.estimate import Estimate, mean_over_time, with_error
from mlops.statistics.return_figures import mertens_error

Floats = NDArray[np.float64]
Generator = np.random.Generator
#: Minutes of exchange sessions in a year of 252.
_SESSION_MINUTES = 390
_BUCKETS = 256
#: Inputs and outputs: drift monitoring splits its budget over them.
_SIDES = 2


@dataclass(frozen=True, slots=True)
class Healthy:
    """A model that is as it should be, and the day.

    Parameters
    ----------
    ic, names : float, int
        True information coefficient, and names in each cross-section.
    sharpe : float
        Of a year, of the strategy's returns.
    error_rate : float
        Share of requests with an event, for each figure of the server's counters; it varies by key.
    requests : int
        In each window of the server's counters.
    drift_budget_days : float
        Days in which drift monitoring gives at most one false alert.
    """

    ic: float = 0.04
    names: int = 500
    sharpe: float = 1.8
    periods_per_year: int = 252
    error_rate: float = 1e-4
    requests: int = 6000
    drift_budget_days: float = 90.0


@dataclass(frozen=True, slots=True)
class Delay:
    """How long a level takes to see a fault.

    Parameters
    ----------
    fault : str
        What is true from then on.
    days : float, optional
        Median of the exchange sessions until the level is raised; None where it is longer than was looked, 4 years.
    seen_within_year : float
        The share of such faults that raise it within a year.
    """

    fault: str
    days: float | None
    seen_within_year: float


@dataclass(frozen=True, slots=True)
class RowCost:
    """What one level costs.

    Parameters
    ----------
    false_alarms_per_year, days_per_year : float
        How often a healthy model raises it, and for how many exchange sessions of the year it then holds; the latter
        is None where it was not simulated.
    delays : tuple of Delay
        Empty where another calibration says it (the state of drift).
    """

    row: str
    level: LevelName
    false_alarms_per_year: float
    days_per_year: float | None
    delays: tuple[Delay, ...]


def mertens_interval(returns: Floats, periods_per_year: float) -> Estimate:
    """The Sharpe ratio of a year with the interval that Mertens' standard error spans."""
    spread = float(returns.std(ddof=1))
    root = math.sqrt(periods_per_year)
    if spread == 0:
        return Estimate(None, n=len(returns))
    error = mertens_error(returns)
    value = root * float(returns.mean()) / spread
    return with_error(value, None if error is None else root * error, len(returns))


def calibrate_rows(
    matrix: Matrix,
    healthy: Healthy | None = None,
    *,
    years: int = 400,
    faults: int = 200,
    seed: int = 1,
    sharpe: Callable[[Floats, float], Estimate] = mertens_interval,
) -> tuple[RowCost, ...]:
    """The costs of every level whose figure can be simulated: ICs, Sharpe ratios, rates, and the state of drift.

    Parameters
    ----------
    years : int
        Of the healthy model.
    faults : int
        Simulated for each level; each sets in at a random day of a window.
    sharpe : callable
        Returns and periods per year to an estimate.
    """
    healthy = healthy or Healthy()
    return tuple(
        cost for row in matrix.row for cost in _costs(row, healthy, np.random.default_rng(seed), years, faults, sharpe)
    )


def _costs(
    row: Row,
    healthy: Healthy,
    generator: Generator,
    years: int,
    faults: int,
    sharpe: Callable[[Floats, float], Estimate],
) -> Iterator[RowCost]:
    if row.source == "outcome" and row.length is not None:
        series = _Periods(row, healthy, generator, sharpe)
        alarms, days = series.false_alarms(years)
        found = {fault: series.delays(strength, faults) for fault, strength in series.faults.items()}
        for name, _ in row.levels():
            delays = tuple(
                Delay(
                    fault,
                    _median(by_level[name], healthy.periods_per_year * _Periods.YEARS_LOOKED),
                    float(np.mean(by_level[name] <= healthy.periods_per_year)),
                )
                for fault, by_level in found.items()
            )
            yield RowCost(row.name, name, alarms[name] / years, days[name] / years, delays)
    elif row.source == "server":
        for name, level in row.levels():
            yield _rate_cost(row, name, level.windows, healthy, generator)
    elif row.basis == "state":
        for name, level in row.levels():
            # One window in so many false alerts; several in a row as if they were independent.
            each = 365 / healthy.drift_budget_days / _SIDES / healthy.periods_per_year
            yield RowCost(
                row.name,
                name,
                healthy.periods_per_year * each**level.windows,
                None,
                (),
            )


class _Periods:
    """A row on ICs or Sharpe ratios: a simulated model, period by period."""

    YEARS_LOOKED = 4

    def __init__(
        self, row: Row, healthy: Healthy, generator: Generator, sharpe: Callable[[Floats, float], Estimate]
    ) -> None:
        if row.length is None:
            raise ValueError(f"row {row.name!r} has no length")
        self._row, self._length, self._healthy, self._generator = row, row.length, healthy, generator
        self._sharpe = sharpe
        self._is_ic = row.figure in ("ic", "rank_ic")
        truth = healthy.ic if self._is_ic else healthy.sharpe
        #: The signal is gone, or points the other way; by how much is left of it.
        self.faults = {f"{row.figure} 0": 0.0, f"{row.figure} {-truth:g}": -1.0}

    def false_alarms(self, years: int) -> tuple[dict[LevelName, int], dict[LevelName, int]]:
        """How often each level is raised, and for how many periods it holds, in so many healthy years."""
        state = RowState()
        alarms: dict[LevelName, int] = {name: 0 for name, _ in self._row.levels()}
        held = dict(alarms)
        for window in range(years * self._healthy.periods_per_year // self._length):
            for name in held:
                held[name] += self._length * state.latch(name).is_raised
            start = window * self._length
            state, transitions = step(self._row, state, self._reading(start, self._draw(self._length, 1.0)))
            for transition in transitions:
                alarms[transition.level] += transition.change == "raised"
        return alarms, held

    def delays(self, strength: float, faults: int) -> dict[LevelName, Floats]:
        """Periods until each level is raised, once only so much of the signal is left; infinite where it never is."""
        found: dict[LevelName, Floats] = {name: np.full(faults, np.inf) for name, _ in self._row.levels()}
        most = self.YEARS_LOOKED * self._healthy.periods_per_year
        for fault in range(faults):
            state, good = RowState(), int(self._generator.integers(0, self._length))
            series = np.concatenate([self._draw(good, 1.0), self._draw(most + self._length, strength)])
            for start in range(0, most, self._length):
                window = series[start : start + self._length]
                state, transitions = step(self._row, state, self._reading(start, window))
                for transition in transitions:
                    days = found[transition.level]
                    days[fault] = min(days[fault], start + self._length - good)
                if all(np.isfinite(days[fault]) for days in found.values()):
                    break
        return found

    def _draw(self, n: int, strength: float) -> Floats:
        healthy = self._healthy
        if self._is_ic:
            return self._generator.normal(strength * healthy.ic, 1 / math.sqrt(healthy.names), n)
        return self._generator.normal(strength * healthy.sharpe / math.sqrt(healthy.periods_per_year), 1.0, n)

    def _reading(self, start: int, window: Floats) -> Reading:
        if self._is_ic:
            estimate = mean_over_time(window, horizon=1)
        elif self._row.basis == "value":
            # The interval is what takes time, and nobody looks at it.
            estimate = mertens_interval(window, self._healthy.periods_per_year)
        else:
            estimate = self._sharpe(window, self._healthy.periods_per_year)
        value = {"value": estimate.value, "lower": estimate.lower, "upper": estimate.upper}[self._row.basis]
        return Reading("simulated", "1", str(start), start, start + len(window), value)


def _rate_cost(row: Row, level: LevelName, windows: int, healthy: Healthy, generator: Generator) -> RowCost:
    """Windows a minute apart, as if each was drawn anew: a rate that varies by key, keys of very different traffic."""
    enter, _ = row.thresholds(level)
    fault = 2 * enter
    per_year = healthy.periods_per_year * _SESSION_MINUTES
    false = _share_beyond(row, level, healthy.error_rate, healthy.requests, generator)
    seen = _share_beyond(row, level, fault, healthy.requests, generator)
    # Expected windows until so many in a row (Feller, XIII.7), in days of sessions.
    delay = math.inf if seen == 0 else sum(seen**-run for run in range(1, windows + 1))
    return RowCost(
        row.name,
        level,
        per_year * false**windows,
        None,
        (
            Delay(
                f"a rate of {fault:g}",
                delay / _SESSION_MINUTES if math.isfinite(delay) else None,
                float(delay < per_year),
            ),
        ),
    )


def _share_beyond(
    row: Row, level: LevelName, share: float, requests: int, generator: Generator, windows: int = 2000
) -> float:
    beyond = 0
    for _ in range(windows):
        weights = generator.pareto(1.2, _BUCKETS) + 1
        sizes = generator.multinomial(requests, weights / weights.sum())
        chance = np.minimum(share * generator.gamma(2.0, 0.5, _BUCKETS), 1.0)
        found = rate(row.figure, generator.binomial(sizes, chance).astype(np.uint64), sizes.astype(np.uint64))
        value = {"value": found.value, "lower": found.lower, "upper": found.upper}[row.basis]
        beyond += value is not None and row.is_beyond(level, value)
    return beyond / windows


def _median(delays: Floats, most: int) -> float | None:
    middle = float(np.median(delays))
    return middle if middle <= most else None
