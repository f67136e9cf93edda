"""Counts and sums on frozen bins: pure functions whose results for parts of the data add up to those for the whole.

For m edges there are m + 1 bins: bin i holds edges[i-1] <= x < edges[i], the first and the last are open and also hold
-inf and +inf. NaN is `missing` and counted last. A value x enters a sum as the integer q = round(x * 2^exponent), half
to even, held within +-2^48, so that sums are exact in any order, and 2^31 rows of the largest q^2 fit into 128 bits.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlops.package.datatypes import Array, Counts

#: Number of reference quantiles, minimum and maximum included.
QUANTILES = 20
#: More distinct values than this are binned by quantiles where they have an order; beyond it they are `other`.
MAX_CATEGORIES = 64
#: The reference value of largest magnitude becomes q in [2^35, 2^36): resolution 2^-36 of it, headroom 2^12.
_REFERENCE_BITS = 36
_LARGEST_Q = 1 << 48
#: Rows summed at once; 2^14 terms of 2^48 fit into an int64.
_CHUNK = 1 << 14


def quantile_edges(values: Array) -> Array:
    """Edges from reference values: distinct quantiles, and the successor of the maximum.

    The quantiles are values of the reference itself (the ones at index k (n-1) // 19 of the sorted values), so that
    they are exact in its datatype. The successor closes the last bin over the maximum: without it a constant reference
    could not be told from anything above it.

    Parameters
    ----------
    values : ndarray
        Numbers in the tensor's dtype; those that are not finite are passed over.

    Returns
    -------
    ndarray
        1 to 21 increasing edges in the same dtype, each exact as float64 too; none where no value is finite.
    """
    finite = np.sort(values[np.isfinite(values)], axis=None)
    if finite.size == 0:
        return np.empty(0, values.dtype)
    index = np.arange(QUANTILES) * (finite.size - 1) // (QUANTILES - 1)
    edges = np.unique(finite[index])
    if edges.dtype.kind == "f":
        with np.errstate(over="ignore"):
            edges = np.append(edges, np.nextafter(edges[-1], edges.dtype.type(np.inf)))
        return np.extract(np.isfinite(edges), edges)
    # Integers beyond 2^53 move to the nearest float64, because JSON holds no others.
    exact = np.unique(np.append(edges.astype(np.float64), np.float64(edges[-1]) + 1.0))
    return exact[exact < 2.0 ** _bits(edges.dtype)].astype(edges.dtype)


def bin_counts(values: Array, edges: Array) -> Counts:
    """Counts of each bin, then of missing.

    Parameters
    ----------
    values : ndarray
        Numbers, in the dtype of `edges`.
    edges : ndarray
        m increasing edges.

    Returns
    -------
    ndarray of int64
        m + 2 counts.

    Examples
    --------
    >>> bin_counts(np.array([-1.0, 0.0, 0.5, 1.0, np.inf, np.nan]), np.array([0.0, 1.0])).tolist()
    [1, 2, 2, 1]
    """
    present = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(edges, present, side="right"), minlength=len(edges) + 1)
    return np.append(counts, values.size - present.size).astype(np.int64)


def common_categories(values: Array) -> Array:
    """The most frequent distinct values (NaN apart), at most 64, in ascending order; ties prefer the smaller value."""
    present = values if values.dtype.kind == "U" else values[~np.isnan(values)]
    distinct, counts = np.unique(present, return_counts=True)
    most_frequent = np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]
    return distinct[np.sort(most_frequent)]


def category_counts(values: Array, categories: Array) -> Counts:
    """Counts of each of k categories, then of other values, then of missing: k + 2 counts, int64.

    Examples
    --------
    >>> category_counts(np.array([3, 1, 3, 9]), np.array([1, 3])).tolist()
    [1, 2, 1, 0]
    """
    counts = [np.count_nonzero(values == category) for category in categories]
    missing = 0 if values.dtype.kind == "U" else np.count_nonzero(np.isnan(values))
    return np.array([*counts, values.size - sum(counts) - missing, missing], np.int64)


def scale_exponent(values: Array) -> int:
    """The power of two that sums over this reference are scaled by."""
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    largest = float(finite.max(initial=0.0))
    return _REFERENCE_BITS - math.frexp(largest)[1] if largest > 0 else 0


def bin_sums(values: Array, edges: Array, exponent: int) -> list[int]:
    """Sum of the scaled integers q of each bin: m + 1 exact integers; missing values are left out."""
    present = values[~np.isnan(values)]
    bins = np.searchsorted(edges, present, side="right")
    sums = [0] * (len(edges) + 1)
    for start in range(0, present.size, _CHUNK):
        part = np.zeros(len(sums), np.int64)
        np.add.at(part, bins[start : start + _CHUNK], scale(present[start : start + _CHUNK], exponent))
        sums = [total + int(added) for total, added in zip(sums, part, strict=True)]
    return sums


def square_sum(values: Array, exponent: int) -> int:
    """Sum of q^2, exact; missing values are left out."""
    present = values[~np.isnan(values)]
    total = 0
    for start in range(0, present.size, _CHUNK):
        q = scale(present[start : start + _CHUNK], exponent)
        high, low = q >> 24, q & 0xFFFFFF
        total += (int((high * high).sum()) << 48) + (int((high * low).sum()) << 25) + int((low * low).sum())
    return total


def moments(counts: Sequence[int] | Counts, sums: Sequence[int], squares: int, exponent: int) -> tuple[float, float]:
    """Mean and standard deviation (population) of the non-missing values behind these counts and sums.

    Parameters
    ----------
    counts : sequence of int
        As from `bin_counts`; must hold at least one value that is not missing.
    sums, squares, exponent
        As from `bin_sums` and `square_sum`.
    """
    n, total = sum(int(count) for count in counts[:-1]), sum(sums)
    # n sum(q^2) - sum(q)^2 is exact; as floats the two terms could cancel.
    variance = (n * squares - total * total) / (n * n)
    return math.ldexp(total / n, -exponent), math.ldexp(math.sqrt(variance), -exponent)


def scale(values: Array, exponent: int) -> Counts:
    """The integers q of values that are not missing: round(x * 2^exponent), half to even, within +-2^48."""
    with np.errstate(over="ignore"):
        scaled = np.rint(np.ldexp(values.astype(np.float64), exponent))
    return np.clip(scaled, -_LARGEST_Q, _LARGEST_Q).astype(np.int64)


def _bits(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max).bit_length()
