"""Figures of a strategy's period returns: of the sample, and of any resample of its periods."""

from collections.abc import Callable

import numpy as np

from mlops.statistics.resampled import RowFigure, Weighted, dot, ratio, weighted
from mlops.statistics.rows import Floats


def return_figure(metric: str, returns: Floats, periods_per_year: float) -> RowFigure | None:
    """The figure of a metric of period returns; None for a metric that is none.

    Parameters
    ----------
    metric : str
        `sharpe`, `sortino`, `max_drawdown`, `total_return`, `profit_factor` or `positive_share`.
    returns : numpy.ndarray
        float64 of shape (periods,): simple returns, oldest first.
    """
    match metric:
        case "sharpe":
            return weighted(_sharpe(returns, periods_per_year), returns)
        case "sortino":
            return weighted(_sortino(returns, periods_per_year), returns)
        case "profit_factor":
            return weighted(_profit_factor(returns), returns)
        case "positive_share":
            share = (returns > 0).astype(np.float64)
            return weighted(lambda weights: dot(weights, share) / weights.sum(axis=1), returns)
        case "max_drawdown":
            return _in_order(drawdown, returns)
        case "total_return":
            return _in_order(total_return, returns)
        case _:
            return None


def drawdown(returns: Floats) -> Floats:
    """Largest fall of compounded capital below its highest so far, over the last axis, as a positive share.

    The first peak is 1, the capital before the first return.
    """
    capital = np.cumprod(1 + returns, axis=-1)
    peaks = np.maximum(np.maximum.accumulate(capital, axis=-1), 1.0)
    return np.asarray((1 - capital / peaks).max(axis=-1))


def total_return(returns: Floats) -> Floats:
    """Compounded return over the last axis."""
    return np.asarray(np.prod(1 + returns, axis=-1) - 1)


def lo_error(sharpe: float, n: int) -> float:
    """Standard error of a period's Sharpe ratio where returns are independent and normal: sqrt((1 + s^2 / 2) / n).

    A. W. Lo, "The Statistics of Sharpe Ratios", Financial Analysts Journal 58, 2002.
    """
    return float(np.sqrt((1 + sharpe**2 / 2) / n))


def mertens_error(returns: Floats) -> float | None:
    """Standard error of a period's Sharpe ratio for independent returns that need not be normal; None without variance.

    E. Mertens, "Comments on Variance of the IID Estimator in Lo (2002)", 2002: the variance is
    (1 + s^2 / 2 - skewness s + (kurtosis - 3) s^2 / 4) / n.
    """
    n = len(returns)
    if n < 2 or np.ptp(returns) == 0:
        return None
    z = (returns - returns.mean()) / returns.std()
    s = float(returns.mean() / returns.std(ddof=1))
    variance = 1 + s**2 / 2 - float((z**3).mean()) * s + (float((z**4).mean()) - 3) * s**2 / 4
    return float(np.sqrt(max(variance, 0.0) / n)) or None


def _sharpe(returns: Floats, periods_per_year: float) -> Weighted:
    """Mean over standard deviation of the period returns, a year."""
    centre = returns.mean()
    centred = returns - centre

    def of(weights: Floats) -> Floats:
        n = weights.sum(axis=1)
        mean = dot(weights, centred) / n
        variance = ratio(dot(weights, centred**2) - n * mean**2, n - 1)
        # A constant series leaves rounding, not variance.
        is_defined = variance > 1e-24 * centre**2
        return np.asarray(
            ratio(mean + centre, np.sqrt(np.where(is_defined, variance, 0.0))) * np.sqrt(periods_per_year)
        )

    return of


def _sortino(returns: Floats, periods_per_year: float) -> Weighted:
    """Mean over the downside deviation of all periods, gains counting as 0 in it, a year.

    F. A. Sortino and L. N. Price, "Performance Measurement in a Downside Risk Framework", Journal of Investing 3, 1994.
    """
    losses = np.minimum(returns, 0.0) ** 2

    def of(weights: Floats) -> Floats:
        n = weights.sum(axis=1)
        downside = np.sqrt(dot(weights, losses) / n)
        return np.asarray(ratio(dot(weights, returns) / n, downside) * np.sqrt(periods_per_year))

    return of


def _profit_factor(returns: Floats) -> Weighted:
    """What the gaining periods earned over what the losing ones lost; undefined where none lost."""
    gains, losses = np.maximum(returns, 0.0), np.maximum(-returns, 0.0)
    return lambda weights: ratio(dot(weights, gains), dot(weights, losses))


def _in_order(of: Callable[[Floats], Floats], returns: Floats) -> RowFigure:
    return RowFigure(lambda places: of(returns[places]), returns)
