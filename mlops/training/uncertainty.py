"""Standard errors of figures on time series: long-run variance and the stationary bootstrap."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Statistic = Callable[[NDArray[np.float64]], Sequence[float]]


def newey_west_error(values: NDArray[np.float64], lags: int | None = None) -> float | None:
    """Standard error of the mean of a serially dependent series.

    Bartlett weights, lags floor(4 (n/100)^(2/9)) unless given. W. K. Newey and K. D. West, "A Simple, Positive
    Semi-definite, Heteroskedasticity and Autocorrelation Consistent Covariance Matrix", Econometrica 55, 1987; the lag
    rule is that of their "Automatic Lag Selection in Covariance Matrix Estimation", 1994, for the Bartlett kernel.

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
        lags = int(4 * (n / 100) ** (2 / 9))
    centred = values - values.mean()
    variance = float(centred @ centred)
    for lag in range(1, min(lags, n - 1) + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag])
    return float(np.sqrt(variance) / n)


def bootstrap_errors(
    values: NDArray[np.float64], statistic: Statistic, *, repetitions: int = 300, seed: int = 0
) -> NDArray[np.float64]:
    """Standard errors of statistics of a serially dependent series, by the stationary bootstrap.

    Blocks have a geometric length of mean n^(1/3) and wrap around. D. N. Politis and J. P. Romano, "The Stationary
    Bootstrap", Journal of the American Statistical Association 89, 1994. The errors themselves are good to about
    1 / sqrt(2 * repetitions).

    Parameters
    ----------
    values : numpy.ndarray
        float64 of shape (n,).
    statistic : callable
        Takes a resampled series of shape (n,) and gives k figures.

    Returns
    -------
    numpy.ndarray
        float64 of shape (k,).
    """
    n = len(values)
    generator = np.random.Generator(np.random.PCG64(seed))
    places = np.arange(n)
    figures = []
    for _ in range(repetitions):
        origins = generator.integers(n, size=n)
        is_start = generator.random(n) < n ** (-1 / 3)
        is_start[0] = True
        start = np.maximum.accumulate(np.where(is_start, places, 0))
        figures.append(statistic(values[(origins[start] + places - start) % n]))
    return np.asarray(np.std(figures, axis=0, ddof=1))
