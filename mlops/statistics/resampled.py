"""A figure of rows over time, for the sample itself and for any resample of its periods.

A resample says which periods were drawn, in which order, as places of shape (draws, n). A figure takes a whole batch of
resamples and gives one value each; NaN where it is undefined. Most need no more of a resample than how often each
period was drawn: rows are sorted once, and a resample weights them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlops.statistics.rows import Floats, Integers

#: From how often each period counts, float64 of shape (draws, periods), to values of shape (draws,).
Weighted = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class RowFigure:
    """One figure of one evaluation.

    Parameters
    ----------
    resampled : callable
        From places of shape (draws, n) to values of shape (draws,).
    series : numpy.ndarray
        float64 of shape (periods,): what the figure mostly is a mean of; its dependence over time sets the length
        of blocks.
    """

    resampled: Callable[[Integers], Floats]
    series: Floats

    @property
    def value(self) -> float:
        """On the sample itself."""
        return float(self.resampled(np.arange(len(self.series), dtype=np.int64)[None, :])[0])


def weighted(of: Weighted, series: Floats) -> RowFigure:
    """The figure that needs only how often each period was drawn."""

    def resampled(places: Integers) -> Floats:
        draws, n = len(places), len(series)
        shifted = places + n * np.arange(draws)[:, None]
        weights = np.bincount(shifted.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)
        return of(weights)

    return RowFigure(resampled, series)


def dot(weights: Floats, values: Floats) -> Floats:
    """Each draw's weighted sum of values (n,): always in one order, however many threads a library may use."""
    return np.asarray(np.einsum("dn,n->d", weights, values))


def ratio(above: Floats, below: Floats) -> Floats:
    """NaN where below is 0."""
    return np.asarray(np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0))
