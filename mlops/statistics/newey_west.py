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
