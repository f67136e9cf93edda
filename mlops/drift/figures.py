"""How far a window's counts lie from the reference's: pure functions of integer counts and exact sums.

PSI, JS and chi-square take every cell of a column, missing included, so that values that go missing are drift too.
Kolmogorov-Smirnov and Wasserstein take the ordered bins alone, without missing; they exist for numeric columns only.
Each function takes one pair of counts, or many along the first axes. None is "undefined": an empty side has no figure.
"""

import math
from collections.abc import Sequence

import numpy as np

from mlops.statistics.shares import SMOOTHING as SMOOTHING
from mlops.statistics.shares import Cells, kept_cells, smoothed
from mlops.statistics.shares import Floats as Floats
from mlops.statistics.shares import psi as psi
from mlops.statistics.shares import psi_of as psi_of


def js(reference: Cells, window: Cells) -> float | None:
    """Jensen-Shannon divergence in nats, on the smoothed shares of `psi`: from 0 to ln 2; None as in `psi`."""
    shares = smoothed(reference, window)
    return None if shares is None else float(js_of(*shares))


def chi_square(reference: Cells, window: Cells) -> float | None:
    """Pearson's statistic for homogeneity of the 2 x B table, without continuity correction.

    Cells that are empty on both sides are dropped; nothing is added. None as in `psi`.
    """
    kept = kept_cells(reference, window)
    if kept is None:
        return None
    return float(chi_square_of(*(side.astype(np.float64) for side in kept)))


def ks_binned(reference: Cells, window: Cells) -> float | None:
    """Largest difference of the two distribution functions at the edges of the bins.

    A lower bound of the Kolmogorov-Smirnov statistic, which looks between the edges too.

    Parameters
    ----------
    reference, window : array of int, shape (bins,)
        Counts of the ordered bins, without missing.
    """
    if not reference.sum() or not window.sum():
        return None
    return float(ks_of(reference / reference.sum(), window / window.sum()))


def w1(
    reference: Cells,
    window: Cells,
    reference_sums: Sequence[int],
    window_sums: Sequence[int],
    *,
    exponent: int,
    deviation: float,
) -> float | None:
    """Wasserstein-1 distance in standard deviations of the reference, each bin's mass at that bin's own mean.

    Parameters
    ----------
    reference, window : array of int, shape (bins,)
        Counts of the ordered bins, without missing.
    reference_sums, window_sums : sequence of int
        Sum of the scaled integers of each bin (`mlops.package.bin_sums`), exact.
    exponent : int
        Values were scaled by 2 to this power.
    deviation : float
        The reference's standard deviation, in units of the values.

    Returns
    -------
    float or None
        None where a side has no values, or the reference does not vary.
    """
    if not reference.sum() or not window.sum() or not deviation > 0:
        return None
    left = bin_means(reference, reference_sums, exponent)
    right = bin_means(window, window_sums, exponent)
    # Where a side has no mass in a bin its place there does not matter: the other's own keeps the order of bins.
    left, right = np.where(np.isnan(left), right, left), np.where(np.isnan(right), left, right)
    distance = w1_of(reference / reference.sum(), window / window.sum(), left, right)
    return float(distance) / deviation


def missing_share(window: Cells) -> float | None:
    """Share of missing values, the last cell; None where the window has no rows."""
    total = int(window.sum())
    return int(window[-1]) / total if total else None


def js_of(p: Floats, q: Floats) -> Floats:
    """Jensen-Shannon divergence, in nats, of positive shares along the last axis."""
    middle = (p + q) / 2
    divergence = (p * np.log(p / middle) + q * np.log(q / middle)).sum(axis=-1) / 2
    # Rounding of the two sums may leave the smallest of negative numbers.
    return np.asarray(np.maximum(divergence, 0.0))


def chi_square_of(reference: Floats, window: Floats) -> Floats:
    """Pearson's statistic of counts along the last axis; every cell has a count on one side at least."""
    n, m = reference.sum(axis=-1, keepdims=True), window.sum(axis=-1, keepdims=True)
    both = reference + window
    # sum (o - e)^2 / e over both rows of the table, brought to one term a cell.
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(both > 0, (m * reference - n * window) ** 2 / both, 0.0)
    return np.asarray(terms.sum(axis=-1) / (n * m)[..., 0])


def ks_of(p: Floats, q: Floats) -> Floats:
    """Largest difference of distribution functions of shares along the last axis."""
    return np.asarray(np.abs(np.cumsum(p - q, axis=-1)).max(axis=-1))


def w1_of(p: Floats, q: Floats, left: Floats, right: Floats) -> Floats:
    """Area between two distribution functions that step by p at `left` and by q at `right`.

    All along the last axis; both places of a bin lie before both of the next one that has mass.
    """
    has_mass = ~np.isnan(left)
    low = np.where(has_mass, np.minimum(left, right), np.nan)
    high = np.where(has_mass, np.maximum(left, right), np.nan)
    difference = np.cumsum(p - q, axis=-1)
    before = difference - (p - q)
    within = np.abs(before + np.where(left < right, p, -q)) * (high - low)
    # The next bin with mass: filled from the right, so that empty bins add nothing.
    following = _next_place(low)
    between = np.abs(difference) * (following - high)
    return np.asarray(np.nansum(within, axis=-1) + np.nansum(between, axis=-1))


def bin_means(counts: Cells, sums: Sequence[int], exponent: int) -> Floats:
    """Mean of the values of each bin, NaN where it has none."""
    return np.array(
        [
            math.ldexp(total / int(count), -exponent) if count else math.nan
            for count, total in zip(counts.tolist(), sums, strict=True)
        ]
    )


def _next_place(low: Floats) -> Floats:
    following = np.full_like(low, np.nan)
    for place in range(low.shape[-1] - 2, -1, -1):
        after = low[..., place + 1]
        following[..., place] = np.where(np.isnan(after), following[..., place + 1], after)
    return following
