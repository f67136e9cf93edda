"""What the statistics of a column would be if nothing had drifted: a Gaussian null from how far counts stray in time.

Shares of cells are means over dependent rows. Their covariance comes from batch means: from how much the shares of
contiguous blocks differ, in the reference and in the window. Under the null both sides have the pooled shares, and
stray from them by independent Gaussians with these covariances; every statistic is computed on draws of such counts.

The window's covariance is from differences of neighbouring sub-blocks, which one step of drift does not widen. Batch
means of short sub-blocks miss dependence that is longer than they are, so the window's covariance is brought up
to what the reference's blocks, which are longer, say that a stretch of that length strays; and the reference's own is
extrapolated from blocks and pairs of blocks. Batch means: A. M. Law and W. D. Kelton, "Simulation Modeling and
Analysis", chapter 9. The extrapolation `2 V(2L) - V(L)` removes the bias of order 1 / L: D. Vats and J. M. Flegal,
"Lugsail lag windows for estimating time-average covariance matrices", Biometrika 109, 2022. The tail is a chi-square
scaled to the moments of the draws.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops.drift import figures
from mlops.drift.columns import Column, Integers
from mlops.drift.counts import ColumnCounts
from mlops.drift.covariance import (
    correlation_rows,
    deviations,
    inflation,
    ranks,
    score_inflation,
    shrunk,
    successive,
    trace,
)
from mlops.drift.figures import SMOOTHING, Floats
from mlops.drift.result import Statistic
from mlops.drift.tail import Tail

DRAWS = 2000
_TAILED: tuple[Statistic, ...] = ("psi", "js", "chi_square")


@dataclass(frozen=True, slots=True)
class Level:
    """What a statistic is under the null, and how probable a value at least as large as the one seen is."""

    value: float | None
    mean: float | None = None
    q95: float | None = None
    q99: float | None = None
    p: float | None = None
    iid_mean: float | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """All statistics of a column in a window.

    Parameters
    ----------
    correlation_rows : float
        Correlation time in rows of the reference.
    effective_n : float or None
        Independent rows that would stray as the window does.
    """

    levels: dict[Statistic, Level]
    n: int
    effective_n: float | None
    correlation_rows: float


def assess(column: Column, counts: ColumnCounts, expected_rows: float | None) -> Assessment:
    """Every statistic of one column, with its null.

    Parameters
    ----------
    expected_rows : float or None
        Rows that the reference has in a stretch as long as the window; None where that is unknown, and the window's
        own number is taken.
    """
    reference, window = column.reference, counts.cells.sum(axis=0)
    n, m = int(reference.sum()), int(window.sum())
    slow = correlation_rows(column)
    if not m or not n:
        return Assessment({name: Level(None) for name in ("psi", "js", "chi_square", "missing")}, m, None, slow)
    null = _Null.of(column, counts, expected_rows or float(m))
    levels: dict[Statistic, Level] = {}
    drawn = null.draws(column, counts)
    values: dict[Statistic, float | None] = {
        "psi": figures.psi(reference, window),
        "js": figures.js(reference, window),
        "chi_square": figures.chi_square(reference, window),
    }
    iid = _independent_means(n, m, int(((reference + window) > 0).sum()))
    if column.is_numeric:
        values["ks_binned"] = figures.ks_binned(reference[:-1], window[:-1])
        values["w1"] = _w1(column, counts)
    for name, value in values.items():
        levels[name] = _level(name, value, drawn.get(name), iid.get(name))
    levels["missing"] = null.missing(column, window)
    return Assessment(levels, m, null.effective_n, slow)


def _w1(column: Column, counts: ColumnCounts) -> float | None:
    sums = [int(each) for each in getattr(column.baseline, "sums", ())]
    exponent = int(getattr(column.baseline, "scale_exponent", 0))
    window = counts.cells.sum(axis=0)[:-1]
    return figures.w1(column.reference[:-1], window, sums, counts.sums(), exponent=exponent, deviation=column.deviation)


@dataclass(frozen=True, slots=True)
class _Strays:
    """Vectors that the shares of either side stray along, and the window's variance over that of one row."""

    reference: Floats
    window: Floats
    relative: float


@dataclass(frozen=True, slots=True)
class _Null:
    """Pooled shares of the cells that are occupied, and how both sides stray from them.

    `cells` is scaled by the variance of all cells, for PSI, JS and chi-square; `ordered` by that of a row's rank, for
    KS and W1: what moves values as a whole persists for longer than what moves single cells.
    """

    occupied: NDArray[np.bool_]
    pooled: Floats
    n: int
    m: int
    cells: _Strays
    ordered: _Strays | None

    @staticmethod
    def of(column: Column, counts: ColumnCounts, expected_rows: float) -> "_Null":
        total = column.reference + counts.cells.sum(axis=0)
        occupied = total > 0
        n, m = int(column.reference.sum()), int(counts.cells.sum())
        pooled = (total[occupied] + SMOOTHING) / (total[occupied] + SMOOTHING).sum()
        # Each side's shares may lie off the pooled ones; how far they stray goes with the root of the share.
        sides = (
            _moved_to(pooled, column.reference[occupied] / n, deviations(column.blocks)[:, occupied]),
            _moved_to(pooled, counts.cells.sum(axis=0)[occupied] / m, successive(counts.cells)[:, occupied]),
        )
        sizes = n, m, expected_rows

        # Smoothed as PSI is: a single row where the reference has none must not outweigh all other cells.
        weights = pooled + SMOOTHING / m

        def spread(vectors: Floats) -> float:
            return trace(vectors, weights)

        slow = inflation(column.blocks, column.reference / n)
        one_row = float((pooled * (1 - pooled) / weights).sum())
        cells = _strays(sides, sizes, spread, one_row, slow, lambda each: shrunk(each, pooled))
        ordered = None
        if column.is_numeric:
            shares = column.reference / n
            rank = ranks(shares)
            score = rank[occupied] - rank[occupied] @ pooled

            def moved(vectors: Floats) -> float:
                return float(((vectors @ score) ** 2).sum())

            slow = max(1.0, score_inflation(column.blocks, shares, rank))
            ordered = _strays(sides, sizes, moved, float(pooled @ score**2), slow, lambda each: each)
        return _Null(occupied, pooled, n, m, cells, ordered)

    @property
    def effective_n(self) -> float:
        """Independent rows that would stray as much as the window does."""
        return min(float(self.m), 1 / self.cells.relative) if self.cells.relative > 0 else float(self.m)

    def draws(self, column: Column, counts: ColumnCounts) -> dict[Statistic, Floats]:
        """Each statistic on counts drawn from the null."""
        generator = np.random.Generator(np.random.PCG64(_seed(column, counts)))
        left, right = (self._shares(generator, each) for each in (self.cells.reference, self.cells.window))
        p, q = (_smooth(shares, rows) for shares, rows in ((left, self.n), (right, self.m)))
        drawn: dict[Statistic, Floats] = {
            "psi": figures.psi_of(p, q),
            "js": figures.js_of(p, q),
            "chi_square": figures.chi_square_of(left * self.n, right * self.m),
        }
        is_value = np.flatnonzero(self.occupied) < column.cells - 1
        if self.ordered is not None and is_value.any():
            pair = (
                self._shares(generator, each)[:, is_value] for each in (self.ordered.reference, self.ordered.window)
            )
            before, after = (
                side / np.maximum(side.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny) for side in pair
            )
            drawn["ks_binned"] = figures.ks_of(before, after)
            if column.deviation > 0:
                places = _places(column, counts, self.occupied[:-1])
                near, far = (self._means(generator, places, rows) for rows in (self.n, self.effective_n))
                drawn["w1"] = figures.w1_of(before, after, near, far) / column.deviation
        return drawn

    def missing(self, column: Column, window: Integers) -> Level:
        """The missing share, tested for itself: two-sided, by the null's variance or exactly where counts are few."""
        from scipy.special import ndtr, ndtri

        value = figures.missing_share(window)
        if not self.occupied[-1] or value is None:
            return Level(value, 0.0, 0.0, 0.0, 1.0)
        share = float(self.pooled[-1])
        both = share * (1 - share) * (1 / self.n + 1 / self.m)
        variance = max(both, sum(float((side[:, -1] ** 2).sum()) for side in (self.cells.reference, self.cells.window)))
        deviation = math.sqrt(variance)
        difference = abs(value - int(column.reference[-1]) / self.n)
        p = float(2 * ndtr(-difference / deviation)) if deviation > 0 else 1.0
        if min(share, 1 - share) * min(self.n, self.m) < 10:
            # A second to import, which most processes never need.
            from scipy.stats import fisher_exact

            absent, absent_before = int(window[-1]), int(column.reference[-1])
            table = np.array([[absent, self.m - absent], [absent_before, self.n - absent_before]])
            p = max(p, float(fisher_exact(table).pvalue))
        q95, q99 = (min(1.0, share - float(ndtri(tail)) * deviation) for tail in (0.05, 0.01))
        return Level(value, share, q95, q99, min(p, 1.0))

    def _shares(self, generator: np.random.Generator, vectors: Floats) -> Floats:
        factors = generator.standard_normal((DRAWS, len(vectors)))
        # Without BLAS, whose order of additions depends on its threads: a replay must be equal bit for bit.
        strayed = np.maximum(self.pooled + np.einsum("dg,gk->dk", factors, vectors, optimize=False), 0.0)
        return np.asarray(strayed / strayed.sum(axis=1, keepdims=True))

    def _means(self, generator: np.random.Generator, places: "_Places", rows: float) -> Floats:
        in_bin = rows * self.pooled[: len(places.mean)]
        noise = generator.standard_normal((DRAWS, len(places.mean))) * places.width / np.sqrt(np.maximum(in_bin, 1.0))
        return np.asarray(np.clip(places.mean + noise, places.low, places.high))


def _strays(
    sides: tuple[Floats, Floats],
    sizes: tuple[int, int, float],
    measure: Callable[[Floats], float],
    one_row: float,
    slow: float,
    shape: Callable[[Floats], Floats],
) -> _Strays:
    """How both sides stray, by one measure of variance.

    Parameters
    ----------
    sides : reference's and window's vectors
    sizes : rows of the reference, of the window, and of the reference in as long a stretch
    measure : the variance of vectors
    one_row : the variance of one row
    slow : rows of the reference that count as one
    shape : what is done to vectors before they are used; their measure is kept
    """
    (reference, window), (n, m, expected_rows) = sides, sizes
    seen, own = measure(reference), measure(window)
    # Independent rows of its own number, and the reference's dependence in as long a stretch of time.
    expected = one_row * (1 / m + (slow - 1) / expected_rows)
    shaped, shaped_window = (_as_far(shape(each), far, measure) for each, far in ((reference, seen), (window, own)))
    if not seen > 0:
        return _Strays(shaped, shaped_window, own / one_row if one_row > 0 else 0.0)
    # The reference's blocks are longer and more, so theirs is the shape; what the window strays beyond that is its own.
    beyond = shaped_window * math.sqrt(max(0.0, own - expected) / own) if own > 0 else window[:0]
    far = max(1.0, slow * one_row / n / seen)
    window = np.concatenate([shaped * math.sqrt(expected / seen), beyond])
    return _Strays(shaped * math.sqrt(far), window, max(own, expected) / one_row if one_row > 0 else 0.0)


def _moved_to(pooled: Floats, shares: Floats, vectors: Floats) -> Floats:
    return vectors * np.sqrt(np.divide(pooled, shares, out=np.zeros_like(pooled), where=shares > 0))


def _as_far(vectors: Floats, variance: float, measure: Callable[[Floats], float]) -> Floats:
    have = measure(vectors)
    return vectors * math.sqrt(variance / have) if have > 0 else vectors


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the values of each occupied bin lie: their mean, their spread, their bounds."""

    mean: Floats
    width: Floats
    low: Floats
    high: Floats


def _places(column: Column, counts: ColumnCounts, occupied: NDArray[np.bool_]) -> _Places:
    both = [one + other for one, other in zip(column.sums, counts.sums(), strict=True)]
    rows = column.reference[:-1] + counts.cells.sum(axis=0)[:-1]
    edges = column.edges.astype(np.float64)
    mean = figures.bin_means(rows, both, column.exponent)
    low, high = np.append(-np.inf, edges), np.append(edges, np.inf)
    # Even within a bin; the open ones fall off from their edge.
    with np.errstate(invalid="ignore"):
        width = np.where(np.isfinite(high - low), (high - low) / math.sqrt(12), np.abs(mean - np.clip(mean, low, high)))
    width[0], width[-1] = abs(mean[0] - high[0]), abs(mean[-1] - low[-1])
    return _Places(mean[occupied], width[occupied], low[occupied], high[occupied])


def _level(name: Statistic, value: float | None, drawn: Floats | None, iid_mean: float | None) -> Level:
    if value is None or drawn is None:
        return Level(value, iid_mean=iid_mean)
    mean, q95, q99 = float(drawn.mean()), *(float(each) for each in np.quantile(drawn, [0.95, 0.99]))
    if name in _TAILED:
        p = float(Tail.of(drawn).beyond(np.array([value]))[0]) if value > 0 else 1.0
    else:
        p = (int((drawn >= value).sum()) + 1) / (len(drawn) + 1)
    return Level(value, mean, q95, q99, p, iid_mean)


def _independent_means(n: int, m: int, cells: int) -> dict[Statistic, float]:
    both = (cells - 1) * (1 / n + 1 / m)
    return {"psi": both, "js": both / 8, "chi_square": float(cells - 1)}


def _smooth(shares: Floats, rows: int) -> Floats:
    smoothed = shares * rows + SMOOTHING
    return np.asarray(smoothed / smoothed.sum(axis=1, keepdims=True))


def _seed(column: Column, counts: ColumnCounts) -> int:
    """Of the content alone, so that the same counts give the same draws wherever and whenever."""
    digest = hashlib.sha256(column.content)
    digest.update(np.ascontiguousarray(counts.cells, dtype="<i8").tobytes())
    return int.from_bytes(digest.digest()[:16], "big")
