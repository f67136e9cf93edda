"""How far the shares of cells stray: covariances from blocks of dependent rows.

A covariance is given as vectors whose outer products add up to it, so that draws of it are sums of vectors times
standard normal factors, without decomposing anything.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.drift.columns import Column, Integers
from mlops.drift.figures import Floats


def deviations(blocks: NDArray[Any]) -> Floats:
    """Vectors, one a block, whose outer products add up to the batch-means covariance of the overall shares.

    Parameters
    ----------
    blocks : array, shape (blocks, cells)
        Counts; blocks without rows are left out.

    Returns
    -------
    array, shape (blocks with rows, cells)
        sqrt(G / (G - 1)) (c_g - n_g C / N) / N: the ratio estimator, as blocks differ in size. Zeros where there is
        but one block.
    """
    sizes = blocks.sum(axis=1)
    blocks, sizes = blocks[sizes > 0], sizes[sizes > 0]
    total = float(sizes.sum())
    if len(blocks) < 2:
        return np.zeros(blocks.shape)
    shares = blocks.sum(axis=0) / total
    scale = math.sqrt(len(blocks) / (len(blocks) - 1)) / total
    return np.asarray(scale * (blocks - sizes[:, None] * shares))


def successive(blocks: NDArray[Any]) -> Floats:
    """As `deviations`, from differences of neighbouring blocks: vectors of shape (blocks with rows - 1, cells).

    One step in the midst of a window is the drift that is looked for. It enters one difference of all, where it would
    part every block from the mean, and hide itself behind a null as wide as it is. J. von Neumann et al., "The Mean
    Square Successive Difference", Annals of Mathematical Statistics 12, 1941.
    """
    around = deviations(blocks)
    # Their factor is that of deviations from a mean.
    return np.diff(around, axis=0) / math.sqrt(2)


def pairs(blocks: Integers) -> Integers:
    """Blocks twice as long; an odd last one joins the pair before it."""
    return np.add.reduceat(blocks, np.arange(0, len(blocks) - 1, 2), axis=0) if len(blocks) > 1 else blocks


def shrunk(vectors: Floats, shares: Floats) -> Floats:
    """Vectors whose outer products add up to the covariance shrunk towards that of independent rows, times a factor.

    A covariance of 20 cells from 20 or 50 blocks has eigenvalues that are too far apart, and so a statistic that
    strays too far. O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    Journal of Multivariate Analysis 88, 2004, with cells divided by the root of their share, so that the target is a
    multiple of the multinomial covariance.
    """
    cells = len(shares) - 1
    scaled = vectors / np.sqrt(shares)
    trace = float((scaled**2).sum())
    if cells < 1 or not trace > 0:
        return vectors
    gram = np.einsum("gk,hk->gh", scaled, scaled, optimize=False)
    norm = float((gram**2).sum())
    distance = norm - trace * trace / cells
    error = float((np.diagonal(gram) ** 2).sum()) - norm / len(vectors)
    weight = min(1.0, max(0.0, error / distance)) if distance > 0 else 1.0
    root = np.sqrt(shares)
    target = np.diag(root) - np.outer(root, shares)
    return np.concatenate([vectors * math.sqrt(1 - weight), target * math.sqrt(weight * trace / cells)])


def extrapolated(single: float, double: float) -> float:
    """A variance for endlessly long blocks from those of blocks and of pairs; never below that of blocks."""
    return max(single, 2 * double - single)


def inflation(blocks: Integers, shares: Floats) -> float:
    """How many times as far shares stray as those of independent rows would: rows that count as one, 1 or more."""
    kept = shares > 0
    independent = float((1 - shares[kept]).sum()) / float(blocks.sum())
    if independent <= 0:
        return 1.0
    single, double = (trace(deviations(each)[:, kept], shares[kept]) for each in (blocks, pairs(blocks)))
    return max(1.0, extrapolated(single, double) / independent)


def correlation_rows(column: Column) -> float:
    """Correlation time of a column in rows of its reference: 1/2 + the sum of its autocorrelations, at least 1/2.

    Half the variance inflation of a mean (A. Sokal, "Monte Carlo Methods in Statistical Mechanics", 1997). Of the
    slower of a numeric column's rank and its distance from the middle (volatility persists where values do not); of
    the slowest category.
    """
    blocks = column.blocks
    shares = blocks.sum(axis=0) / blocks.sum()
    if column.is_numeric:
        middle = ranks(shares)
        scores = [middle, np.abs(middle)]
    else:
        scores = list(np.eye(len(shares)))
    return max([0.5, *(score_inflation(blocks, shares, score) / 2 for score in scores)])


def ranks(shares: Floats) -> Floats:
    """The middle rank of each cell, from -1/2 to 1/2."""
    return np.asarray(np.cumsum(shares) - shares / 2 - 0.5)


def trace(vectors: Floats, shares: Floats) -> float:
    """The variance of all cells together, each over its share."""
    return float(((vectors**2).sum(axis=0) / shares).sum())


def score_inflation(blocks: Integers, shares: Floats, score: Floats) -> float:
    """How many times as far the mean of a score of cells strays as that of independent rows; 1 where it is constant."""
    variance = float(shares @ score**2 - (shares @ score) ** 2) / float(blocks.sum())
    if variance <= 1e-18:
        return 1.0
    single, double = (float(((deviations(each) @ score) ** 2).sum()) for each in (blocks, pairs(blocks)))
    return extrapolated(single, double) / variance
