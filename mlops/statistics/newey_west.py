"""The standard error of the mean of a serially dependent series."""

import numpy as np

from mlops.statistics.rows import Floats


def newey_west_error(values: Floats, lags: int | None = None) -> float | None:
    """Standard error of the mean of a serially dependent series.

    Bartlett weights, lags as `automatic_lags` unless given. W. K. Newey and K. D. West, "A Simple, Positive
    Semi-definite, Heteroskedasticity and Autocorrelation Consistent Covariance Matrix", Econometrica 55, 1987.

    Parameters
    ----------
    values : numpy.ndarray
        float64 of shape (n,).

    Returns
    -------
    float or None
        None where the series has no variance to estimate from: fewer than two values, or all equal.
    """
    n = len(values)
    if n < 2 or np.ptp(values) == 0:
        return None
    if lags is None:
        lags = automatic_lags(n)
    centred = values - values.mean()
    variance = float(np.einsum("i,i->", centred, centred))
    for lag in range(1, min(lags, n - 1) + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(np.einsum("i,i->", centred[lag:], centred[:-lag]))
    return float(np.sqrt(variance) / n)


def automatic_lags(n: int) -> int:
    """floor(4 (n/100)^(2/9)), the rule for the Bartlett kernel.

    W. K. Newey and K. D. West, "Automatic Lag Selection in Covariance Matrix Estimation", Review of Economic Studies
    61, 1994.
    """
    return int(4 * (n / 100) ** (2 / 9))


def dependence_lags(values: Floats, *, overlap: int = 1) -> int:
    """Lags that fit how dependent the series is, and values that overlap by `overlap` - 1 periods.

    The most of three, up to half the series: the automatic rule; D. W. K. Andrews' plug-in for an AR(1)
    ("Heteroskedasticity and Autocorrelation Consistent Covariance Matrix Estimation", Econometrica 59, 1991), which a
    fixed rule falls short of where dependence is strong; and three overlaps, because Bartlett weights leave out a third
    of the variance of overlapping sums when they end with the overlap.
    """
    n = len(values)
    if n < 2 or np.ptp(values) == 0:
        return 0
    centred = values - values.mean()
    persistence = abs(float(np.einsum("i,i->", centred[1:], centred[:-1]) / np.einsum("i,i->", centred, centred)))
    persistence = min(persistence, 0.97)
    weight = 4 * persistence**2 / ((1 - persistence) ** 2 * (1 + persistence) ** 2)
    plug_in = int(np.ceil(1.1447 * (weight * n) ** (1 / 3)))
    overlapping = 3 * overlap - 1 if overlap > 1 else 0
    return min(max(automatic_lags(n), plug_in, overlapping), n // 2)


def critical_value(lags: int, n: int) -> float:
    """How many Newey-West errors an estimate lies from the truth with 2.5% on either side.

    The normal 1.96 forgets that the error is estimated too, the less precisely the more lags it has: N. M. Kiefer and
    T. J. Vogelsang, "A New Asymptotic Theory for Heteroskedasticity-Autocorrelation Robust Tests", Econometric Theory
    21, 2005 (Bartlett kernel).
    """
    b = (lags + 1) / n
    return float(1.96 + 2.9694 * b + 0.416 * b**2 - 0.5324 * b**3)
