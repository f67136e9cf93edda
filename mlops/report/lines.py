"""Lines over time for plots: rolling ICs and Sharpe ratios with their intervals, and capital."""

from collections.abc import Iterator

import numpy as np

from mlops.outcomes.estimate import over_time, with_error
from mlops.outcomes.figures import View
from mlops.outcomes.information import InformationCoefficient, information_coefficient
from mlops.report.facts import Point
from mlops.statistics.return_figures import lo_error
from mlops.statistics.rows import Floats, Integers


def rolling_ic(view: View, length: int) -> Iterator[Point]:
    """The IC of ranks over the latest periods, as it stood at the end of each."""
    starts = np.unique(view.period)
    kind = view.spec.kind
    if kind == "cross_sectional":
        found = _ic(view)
        for end in range(length, len(found.series) + 1):
            series = found.series[end - length : end]
            estimate = over_time(float(series.mean()), series, horizon=view.horizon, n=length)
            yield Point(int(found.start_ns[end - 1]), estimate.value, estimate.lower, estimate.upper)
        return
    for end in range(length, len(starts) + 1):
        chosen = (view.period >= starts[end - length]) & (view.period <= starts[end - 1])
        estimate = _ic(view.take(chosen)).estimate
        yield Point(int(starts[end - 1]), estimate.value, estimate.lower, estimate.upper)


def rolling_sharpe(start_ns: Integers, returns: Floats, per_year: float, length: int) -> Iterator[Point]:
    """The Sharpe ratio over the latest periods with the interval that Lo's error gives."""
    scale = per_year**0.5
    for end in range(length, len(returns) + 1):
        latest = returns[end - length : end]
        if np.ptp(latest) == 0:
            yield Point(int(start_ns[end - 1]), None, None, None)
            continue
        ratio = float(latest.mean() / latest.std(ddof=1))
        estimate = with_error(ratio * scale, lo_error(ratio, length) * scale, length)
        yield Point(int(start_ns[end - 1]), estimate.value, estimate.lower, estimate.upper)


def capital(start_ns: Integers, returns: Floats) -> Iterator[Point]:
    """What a capital of 1 became."""
    for start, value in zip(start_ns, np.cumprod(1 + returns), strict=True):
        yield Point(int(start), float(value), None, None)


def _ic(view: View) -> InformationCoefficient:
    return information_coefficient(
        "rank_ic",
        view.spec.kind,
        time_ns=view.rows.time_ns,
        period=view.period,
        signal=view.rows.signal,
        value=view.rows.value,
        horizon=view.horizon,
    )
