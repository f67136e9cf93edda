"""Correlations over time, each with the influence of every row on it, from which a standard error follows.

The influence function of a statistic says what one more row like this would move it by, times the number of rows; its
mean over the sample is 0, and the long-run variance of it is that of the statistic. So dependence over time is
treated as in the mean of any series.
"""

from dataclasses import dataclass

import numpy as np

from mlops.statistics.ranks import grades, mean_above
from mlops.statistics.rows import Floats


@dataclass(frozen=True, eq=False)
class Correlation:
    """A correlation, and float64 of shape (n,): the influence of each row on it."""

    value: float
    influence: Floats


def pearson(x: Floats, y: Floats) -> Correlation | None:
    """The correlation of values; None with fewer than three rows, or where either is constant or not finite.

    The influence of a row of standardised values (a, b) is a b - r (a^2 + b^2) / 2: S. J. Devlin, R. Gnanadesikan and
    J. R. Kettenring, "Robust Estimation and Outlier Detection with Correlation Coefficients", Biometrika 62, 1975.
    """
    if not _varies(x, y):
        return None
    a, b = _standardised(x), _standardised(y)
    if a is None or b is None:
        return None
    r = _within(float(np.einsum("i,i->", a, b)) / len(x))
    return Correlation(r, a * b - r / 2 * (a**2 + b**2))


def spearman(x: Floats, y: Floats) -> Correlation | None:
    """The correlation of ranks, ties at their mean; None as in `pearson`.

    C. Croux and C. Dehon, "Influence Functions of the Spearman and Kendall Correlation Measures", Statistical Methods &
    Applications 19, 2010; with the standard deviations of the ranks taken as known.
    """
    if not _varies(x, y):
        return None
    a, b = grades(x), grades(y)
    scale = float(a.std() * b.std())
    influence = a * b + mean_above(x, b) + mean_above(y, a)
    rho = _within(float(np.einsum("i,i->", a, b)) / len(x) / scale)
    return Correlation(rho, (influence - influence.mean()) / scale)


def _varies(x: Floats, y: Floats) -> bool:
    return len(x) >= 3 and all(bool(np.isfinite(values).all()) and np.ptp(values) > 0 for values in (x, y))


def _standardised(values: Floats) -> Floats | None:
    """Centred on 0 with variance 1; None where the variance is beyond what float64 holds."""
    # A shift before the mean keeps digits where values are large and lie close together.
    centred = values - values[0]
    centred = centred - centred.mean()
    largest = float(np.abs(centred).max())
    if not (largest > 0 and np.isfinite(largest)):
        return None
    scaled = centred / largest
    return np.asarray(scaled / np.sqrt(np.einsum("i,i->", scaled, scaled) / len(values)))


def _within(correlation: float) -> float:
    """Rounding may carry a perfect correlation past 1."""
    return min(max(correlation, -1.0), 1.0)
