"""Ranks with ties at their mean, and what correlations of ranks are made of."""

import numpy as np

from mlops.statistics.rows import Floats


def midranks(values: Floats) -> Floats:
    """Ranks from 1, ties at their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray(((2 * last - counts + 1) / 2)[places])


def grades(values: Floats) -> Floats:
    """Empirical distribution function at each value, centred on 0."""
    ranks = midranks(values)
    return np.asarray((ranks - ranks.mean()) / len(values))


def mean_above(values: Floats, weights: Floats) -> Floats:
    """For each row, the mean over all rows of weight where their value is above its own, half where equal."""
    order, places = np.unique(values, return_inverse=True)
    sums = np.bincount(places, weights, minlength=len(order))
    above = sums.sum() - np.cumsum(sums) + sums / 2
    return np.asarray((above / len(values))[places])
