"""What the statistics of a column would be if nothing had drifted: a Gaussian null from how far counts stray in time.

Shares of cells are means over dependent rows. Their covariance comes from batch means: from how much the shares of
contiguous blocks differ, in the reference and in the window. Under the null both sides have the pooled shares, and
stray from them by independent Gaussians with these covariances; every statistic is computed on draws of such counts.

Batch means of short sub-blocks miss dependence that is longer than they are, so the window's covariance is brought up
to what the reference's blocks, which are longer, say that a stretch of that length strays; and the reference's own is
extrapolated from blocks and pairs of blocks. Batch means: A. M. Law and W. D. Kelton, "Simulation Modeling and
Analysis", chapter 9. The extrapolation `2 V(2L) - V(L)` removes the bias of order 1 / L: D. Vats and J. M. Flegal,
"Lugsail lag windows for estimating time-average covariance matrices", Biometrika 109, 2022. The tail is a chi-square
scaled to the draws' mean and variance: F. E. Satterthwaite, Biometrics Bulletin 2, 1946.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mlops.drift import figures
from mlops.drift.columns import Column, Integers
from mlops.drift.counts import ColumnCounts
from mlops.drift.figures import SMOOTHING, Floats
from mlops.drift.result import Statistic

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


def pairs(blocks: Integers) -> Integers:
    """Blocks twice as long; an odd last one joins the pair before it."""
    return np.add.reduceat(blocks, np.arange(0, len(blocks) - 1, 2), axis=0) if len(blocks) > 1 else blocks


def extrapolated(single: float, double: float) -> float:
    """A variance for endlessly long blocks from those of blocks and of pairs; never below that of blocks."""
    return max(single, 2 * double - single)


def inflation(blocks: Integers, shares: Floats) -> float:
    """How many times as far shares stray as those of independent rows would: rows that count as one, 1 or more."""
    kept = shares > 0
    independent = float((1 - shares[kept]).sum()) / float(blocks.sum())
    if independent <= 0:
        return 1.0
    single, double = (_trace(deviations(each)[:, kept], shares[kept]) for each in (blocks, pairs(blocks)))
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
        middle = np.cumsum(shares) - shares / 2 - 0.5
        scores = [middle, np.abs(middle)]
    else:
        scores = list(np.eye(len(shares)))
    return max([0.5, *(_score_inflation(blocks, shares, score) / 2 for score in scores)])


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
class _Null:
    """Pooled shares of the cells that are occupied, and the vectors that draws are combinations of."""

    occupied: NDArray[np.bool_]
    pooled: Floats
    n: int
    m: int
    reference: Floats
    window: Floats
    effective_n: float

    @staticmethod
    def of(column: Column, counts: ColumnCounts, expected_rows: float) -> "_Null":
        total = column.reference + counts.cells.sum(axis=0)
        occupied = total > 0
        n, m = int(column.reference.sum()), int(counts.cells.sum())
        pooled = (total[occupied] + SMOOTHING) / (total[occupied] + SMOOTHING).sum()
        independent = float((1 - pooled).sum())
        slow = inflation(column.blocks, column.reference / n)
        reference = deviations(column.blocks)[:, occupied]
        seen = _trace(reference, pooled)
        if seen > 0:
            # Longer dependence than a block shows: by as much as pairs of blocks say.
            reference = reference * math.sqrt(max(1.0, slow * independent / n / seen))
            seen = _trace(reference, pooled)
        window = deviations(counts.cells)[:, occupied]
        own = _trace(window, pooled)
        # Independent rows of its own number, and the reference's dependence in as long a stretch of time.
        expected = independent * (1 / m + (slow - 1) / expected_rows)
        if expected > own and seen > 0:
            window = np.concatenate([window, reference * math.sqrt((expected - own) / seen)])
        strays = max(own, expected)
        return _Null(
            occupied, pooled, n, m, reference, window, min(float(m), independent / strays) if strays > 0 else float(m)
        )

    def draws(self, column: Column, counts: ColumnCounts) -> dict[Statistic, Floats]:
        """Each statistic on counts drawn from the null."""
        generator = np.random.Generator(np.random.PCG64(_seed(column, counts)))
        left = self._shares(generator, self.reference)
        right = self._shares(generator, self.window)
        p, q = (_smooth(shares, rows) for shares, rows in ((left, self.n), (right, self.m)))
        drawn: dict[Statistic, Floats] = {
            "psi": figures.psi_of(p, q),
            "js": figures.js_of(p, q),
            "chi_square": figures.chi_square_of(left * self.n, right * self.m),
        }
        if column.is_numeric:
            is_value = np.flatnonzero(self.occupied) < column.cells - 1
            left, right = left[:, is_value], right[:, is_value]
            has_values = (left.sum(axis=1) > 0) & (right.sum(axis=1) > 0)
            if is_value.any() and has_values.all():
                left, right = (side / side.sum(axis=1, keepdims=True) for side in (left, right))
                drawn["ks_binned"] = figures.ks_of(left, right)
                if column.deviation > 0:
                    places = _places(column, counts, self.occupied[:-1])
                    near, far = (self._means(generator, column, places, rows) for rows in (self.n, self.effective_n))
                    drawn["w1"] = figures.w1_of(left, right, near, far) / column.deviation
        return drawn

    def missing(self, column: Column, window: Integers) -> Level:
        """The missing share, tested for itself: two-sided, by the null's variance or exactly where counts are few."""
        value = figures.missing_share(window)
        if not self.occupied[-1] or value is None:
            return Level(value, 0.0, 0.0, 0.0, 1.0)
        share = float(self.pooled[-1])
        both = share * (1 - share) * (1 / self.n + 1 / self.m)
        variance = max(both, float((self.reference[:, -1] ** 2).sum() + (self.window[:, -1] ** 2).sum()))
        deviation = math.sqrt(variance)
        difference = abs(value - int(column.reference[-1]) / self.n)
        p = float(2 * stats.norm.sf(difference / deviation)) if deviation > 0 else 1.0
        if min(share, 1 - share) * min(self.n, self.m) < 10:
            absent, absent_before = int(window[-1]), int(column.reference[-1])
            table = np.array([[absent, self.m - absent], [absent_before, self.n - absent_before]])
            p = max(p, float(stats.fisher_exact(table).pvalue))
        q95, q99 = (min(1.0, share + float(stats.norm.isf(tail)) * deviation) for tail in (0.05, 0.01))
        return Level(value, share, q95, q99, min(p, 1.0))

    def _shares(self, generator: np.random.Generator, vectors: Floats) -> Floats:
        factors = generator.standard_normal((DRAWS, len(vectors)))
        # Without BLAS, whose order of additions depends on its threads: a replay must be equal bit for bit.
        strayed = np.maximum(self.pooled + np.einsum("dg,gk->dk", factors, vectors, optimize=False), 0.0)
        return np.asarray(strayed / strayed.sum(axis=1, keepdims=True))

    def _means(self, generator: np.random.Generator, column: Column, places: "_Places", rows: float) -> Floats:
        in_bin = rows * self.pooled[: len(places.mean)]
        noise = generator.standard_normal((DRAWS, len(places.mean))) * places.width / np.sqrt(np.maximum(in_bin, 1.0))
        return np.asarray(np.clip(places.mean + noise, places.low, places.high))


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
    p = _scaled_tail(value, drawn) if name in _TAILED else (int((drawn >= value).sum()) + 1) / (len(drawn) + 1)
    return Level(value, mean, q95, q99, p, iid_mean)


def _scaled_tail(value: float, drawn: Floats) -> float:
    mean, variance = float(drawn.mean()), float(drawn.var())
    if value <= 0:
        return 1.0
    if variance <= 0 or mean <= 0:
        return 0.0 if value > mean else 1.0
    return float(stats.chi2.sf(value * 2 * mean / variance, 2 * mean * mean / variance))


def _independent_means(n: int, m: int, cells: int) -> dict[Statistic, float]:
    both = (cells - 1) * (1 / n + 1 / m)
    return {"psi": both, "js": both / 8, "chi_square": float(cells - 1)}


def _trace(vectors: Floats, shares: Floats) -> float:
    return float(((vectors**2).sum(axis=0) / shares).sum())


def _score_inflation(blocks: Integers, shares: Floats, score: Floats) -> float:
    variance = float(shares @ score**2 - (shares @ score) ** 2) / float(blocks.sum())
    if variance <= 1e-18:
        return 1.0
    single, double = (float(((deviations(each) @ score) ** 2).sum()) for each in (blocks, pairs(blocks)))
    return extrapolated(single, double) / variance


def _smooth(shares: Floats, rows: int) -> Floats:
    smoothed = shares * rows + SMOOTHING
    return np.asarray(smoothed / smoothed.sum(axis=1, keepdims=True))


def _seed(column: Column, counts: ColumnCounts) -> int:
    """Of the content alone, so that the same counts give the same draws wherever and whenever."""
    digest = hashlib.sha256(column.content)
    digest.update(np.ascontiguousarray(counts.cells, dtype="<i8").tobytes())
    return int.from_bytes(digest.digest()[:16], "big")
