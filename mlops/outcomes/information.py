"""Information coefficients: how signals correlate with what was realised, period by period."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlops.outcomes.estimate import Estimate, mean_over_time, over_time
from mlops.statistics.correlation import pearson, spearman
from mlops.statistics.rows import Floats, Integers

#: Fewer names than this make a cross-section's correlation worthless.
LEAST_NAMES = 20

Kind = Literal["cross_sectional", "time_series"]
_CORRELATIONS = {"ic": pearson, "rank_ic": spearman}


@dataclass(frozen=True, eq=False)
class InformationCoefficient:
    """An IC, and the series of shape (periods,) that it is the mean of.

    Of cross-sections the series are the ICs of the periods themselves. One name gives one row a period, and no
    correlation: there the series are the IC plus each period's influence on it.
    """

    estimate: Estimate
    start_ns: Integers
    series: Floats


def information_coefficient(
    metric: Literal["ic", "rank_ic"],
    kind: Kind,
    *,
    time_ns: Integers,
    period: Integers,
    signal: Floats,
    value: Floats,
    horizon: int,
) -> InformationCoefficient:
    """`ic` correlates values (Pearson), `rank_ic` ranks (Spearman).

    Parameters
    ----------
    time_ns, period : numpy.ndarray
        int64 of shape (n,), ascending: event time, and the beginning of its period.
    horizon : int
        Periods until the value is known: so far outcomes overlap.
    """
    if kind == "cross_sectional":
        starts, series = cross_sections(metric, time_ns=time_ns, period=period, signal=signal, value=value)
        return InformationCoefficient(mean_over_time(series, horizon=horizon), starts, series)
    starts, group = np.unique(period, return_inverse=True)
    found = _CORRELATIONS[metric](signal, value)
    if found is None:
        return InformationCoefficient(Estimate(None, n=len(starts)), starts[:0], np.empty(0))
    # Rows of one period move together, so their influences are summed before any variance is taken.
    sums = np.bincount(group, found.influence, minlength=len(starts))
    influence = (sums * (len(starts) / len(signal))).astype(np.float64)
    estimate = over_time(found.value, influence, horizon=horizon, n=len(starts))
    return InformationCoefficient(estimate, starts, found.value + influence)


def cross_sections(
    metric: Literal["ic", "rank_ic"], *, time_ns: Integers, period: Integers, signal: Floats, value: Floats
) -> tuple[Integers, Floats]:
    """The IC of each period: the mean over its event times with at least 20 names on which it is defined.

    Returns
    -------
    tuple
        Beginnings of the periods that have one, and their ICs.
    """
    correlate = _CORRELATIONS[metric]
    _, first, counts = np.unique(time_ns, return_index=True, return_counts=True)
    found: dict[int, list[float]] = {}
    for place in np.flatnonzero(counts >= LEAST_NAMES):
        rows = slice(first[place], first[place] + counts[place])
        correlation = correlate(signal[rows], value[rows])
        if correlation is not None:
            found.setdefault(int(period[first[place]]), []).append(correlation.value)
    return np.array(list(found), np.int64), np.array([np.mean(ics) for ics in found.values()], np.float64)
