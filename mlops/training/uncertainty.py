"""Standard errors of figures on time series by the stationary bootstrap."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Statistic = Callable[[NDArray[np.float64]], Sequence[float]]


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
