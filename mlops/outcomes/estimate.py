"""An estimate with its interval, and the two ways that intervals come about here."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from mlops.statistics.bootstrap import block_length, bootstrap_interval
from mlops.statistics.newey_west import critical_value, dependence_lags, newey_west_error
from mlops.statistics.resampled import RowFigure
from mlops.statistics.rows import Floats

#: On each side of an interval.
LEVEL = 0.025
REPETITIONS = 1000
#: Of fewer periods there is nothing to make blocks of, nor a variance over time worth the name.
LEAST_PERIODS = 20
#: Outcomes that overlap are about as many independent ones as they have lengths.
LEAST_STRETCHES = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval and standard error, of n periods or rows; what is undefined is None."""

    value: float | None
    lower: float | None = None
    upper: float | None = None
    standard_error: float | None = None
    n: int = 0


def with_error(value: float, error: float | None, n: int) -> Estimate:
    """The interval that a formula's standard error spans, with Student's t of n - 1 degrees of freedom."""
    if error is None or n < LEAST_PERIODS:
        return Estimate(value, standard_error=error, n=n)
    from scipy.special import stdtrit

    reach = float(stdtrit(n - 1, 1 - LEVEL)) * error
    return Estimate(value, value - reach, value + reach, error, n)


def over_time(value: float, influence: Floats, *, horizon: int, n: int) -> Estimate:
    """A value with the Newey-West error of the influence that each period has on it.

    Parameters
    ----------
    influence : numpy.ndarray
        float64 of shape (periods,), oldest first: the value is off by about the mean of it.
    horizon : int
        Periods until an outcome is known: so far neighbours overlap, and no interval is given for fewer than ten such
        stretches.
    """
    periods = len(influence)
    lags = dependence_lags(influence, overlap=horizon)
    error = newey_west_error(influence, lags)
    if error is None or periods < max(LEAST_PERIODS, LEAST_STRETCHES * horizon):
        return Estimate(value, standard_error=error, n=n)
    reach = critical_value(lags, periods) * error
    return Estimate(value, value - reach, value + reach, error, n)


def mean_over_time(series: Floats, *, horizon: int) -> Estimate:
    """The mean of a series of periods."""
    if len(series) == 0:
        return Estimate(None)
    return over_time(float(series.mean()), series, horizon=horizon, n=len(series))


def bootstrapped(figure: RowFigure | None, *, n: int, horizon: int, rows: int = 0) -> Estimate:
    """The interval by the stationary bootstrap over periods, in blocks no shorter than an outcome.

    The seed is drawn from the figure's own series: the same rows always give the same interval.
    """
    if figure is None or not math.isfinite(value := figure.value):
        return Estimate(None, n=n)
    periods = len(figure.series)
    if periods < max(LEAST_PERIODS, LEAST_STRETCHES * horizon) or np.ptp(figure.series) == 0:
        return Estimate(value, n=n)
    interval = bootstrap_interval(
        figure.resampled,
        periods,
        length=max(block_length([figure.series]), horizon),
        level=LEVEL,
        repetitions=REPETITIONS,
        seed=_seed(figure.series),
        rows=rows,
    )
    # A figure that many resamples leave undefined has no interval to speak of.
    if interval.undefined > LEVEL or not math.isfinite(interval.error):
        return Estimate(value, n=n)
    return Estimate(value, interval.low, interval.high, interval.error or None, n)


def _seed(series: Floats) -> int:
    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(series, "<f8").tobytes()).digest()[:8], "big")
