"""Drift figures against SciPy, and against formulas written out value by value."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from mlops.drift import figures
from mlops.package import NumericColumn, ReferenceRows, TensorSpec, bin_counts, bin_sums, category_counts, make_baseline

CASES = {
    "same": lambda rng: (rng.normal(size=3000), rng.normal(size=500)),
    "shifted": lambda rng: (rng.normal(size=3000), rng.normal(0.7, 2, size=500)),
    "ties": lambda rng: (rng.poisson(2, 3000) / 4, rng.poisson(3, 400) / 4),
    "constant reference": lambda rng: (np.full(3000, 2.5), rng.normal(size=300)),
    "constant on both sides": lambda rng: (np.full(3000, 2.5), np.full(40, 2.5)),
    "another constant": lambda rng: (np.full(3000, 2.5), np.full(40, 5.0)),
    "far outside": lambda rng: (rng.normal(size=3000), np.where(np.arange(500) % 10, rng.normal(size=500), 50.0)),
    "one distinct value": lambda rng: (rng.normal(size=3000), np.full(250, 0.1)),
    "all missing": lambda rng: (rng.normal(size=3000), np.full(250, np.nan)),
    "some missing": lambda rng: (rng.normal(size=3000), np.where(np.arange(250) % 5, rng.normal(size=250), np.nan)),
    "ten samples": lambda rng: (rng.normal(size=3000), rng.normal(size=10)),
    "infinite": lambda rng: (rng.normal(size=3000), np.array([np.inf, -np.inf, 0.0, 1.0] * 10)),
}


class Case:
    """A reference and a window, counted."""

    def __init__(self, name: str) -> None:
        self.before, self.after = (side.astype(np.float64) for side in CASES[name](np.random.default_rng(3)))
        spec = TensorSpec(name="x", datatype="FP64", shape=(-1, 1))
        times = np.arange(len(self.before))
        made = make_baseline((spec,), (spec,), ReferenceRows("train", {"x": self.before[:, None]}, times), None)
        column = made.inputs.columns[0]
        assert isinstance(column, NumericColumn)
        self.column, self.edges = column, column.edge_array()
        self.reference, self.window = column.total(), bin_counts(self.after, self.edges)
        self.sums = bin_sums(self.after, self.edges, column.scale_exponent)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def brute_psi(reference: np.ndarray, window: np.ndarray) -> float:
    """From the definition, in exact fractions up to the logarithm."""
    kept = [(int(a), int(b)) for a, b in zip(reference, window, strict=True) if a or b]
    half = Fraction(1, 2)
    n, m = (sum(pair[side] + half for pair in kept) for side in (0, 1))
    total = 0.0
    for a, b in kept:
        p, q = (a + half) / n, (b + half) / m
        total += float(p - q) * math.log(p / q)
    return total


def test_psi_is_the_formula(case: Case) -> None:
    assert figures.psi(case.reference, case.window) == pytest.approx(
        brute_psi(case.reference, case.window), rel=1e-12, abs=1e-15
    )


def test_js_is_scipys_distance_squared(case: Case) -> None:
    kept = (case.reference > 0) | (case.window > 0)
    p, q = case.reference[kept] + 0.5, case.window[kept] + 0.5

    # SciPy normalises, takes nats, and gives the root.
    expected = float(jensenshannon(p, q)) ** 2
    assert figures.js(case.reference, case.window) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert 0 <= figures.js(case.reference, case.window) <= math.log(2)


def test_chi_square_is_scipys_without_correction(case: Case) -> None:
    kept = (case.reference > 0) | (case.window > 0)
    expected = stats.chi2_contingency(np.array([case.reference[kept], case.window[kept]]), correction=False).statistic
    assert figures.chi_square(case.reference, case.window) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_binned_ks_bounds_the_exact_one_from_below(case: Case) -> None:
    binned = figures.ks_binned(case.reference[:-1], case.window[:-1])
    present = case.after[~np.isnan(case.after)]
    if not len(present):
        assert binned is None
        return
    exact = stats.ks_2samp(case.before, present).statistic
    edges = case.edges
    at_edges = max(abs((case.before < edge).mean() - (present < edge).mean()) for edge in edges)
    assert binned == pytest.approx(at_edges, abs=1e-12)
    assert binned <= exact + 1e-12


def test_w1_is_scipys_on_the_means_of_bins(case: Case) -> None:
    sums = [int(total) for total in case.column.sums]
    exponent = case.column.scale_exponent
    deviation = case.column.moments()[1]
    found = figures.w1(case.reference[:-1], case.window[:-1], sums, case.sums, exponent=exponent, deviation=deviation)
    if not case.window[:-1].sum() or deviation == 0:
        assert found is None
        return
    left, right = (
        figures.bin_means(counts[:-1], totals, exponent)
        for counts, totals in ((case.reference, sums), (case.window, case.sums))
    )
    expected = stats.wasserstein_distance(
        left[case.reference[:-1] > 0],
        right[case.window[:-1] > 0],
        case.reference[:-1][case.reference[:-1] > 0],
        case.window[:-1][case.window[:-1] > 0],
    )
    assert found == pytest.approx(expected / deviation, rel=1e-9)


def test_w1_sees_how_far_mass_went() -> None:
    case = Case("far outside")
    deviation = case.column.moments()[1]
    found = figures.w1(
        case.reference[:-1],
        case.window[:-1],
        [int(total) for total in case.column.sums],
        case.sums,
        exponent=case.column.scale_exponent,
        deviation=deviation,
    )
    exact = stats.wasserstein_distance(case.before, case.after) / deviation
    assert found == pytest.approx(exact, rel=0.02)
    assert found > 4


def test_ten_percent_far_outside_is_seen_by_psi() -> None:
    case = Case("far outside")
    assert figures.psi(case.reference, case.window) > 0.5


@pytest.mark.parametrize("figure", [figures.psi, figures.js, figures.chi_square])
def test_an_empty_window_has_no_figure(figure: object) -> None:
    reference, empty = np.array([5, 5, 0]), np.zeros(3, np.int64)
    assert figure(reference, empty) is None  # type: ignore[operator]
    assert figure(empty, reference) is None  # type: ignore[operator]
    assert figures.missing_share(empty) is None
    assert figures.ks_binned(reference[:-1], empty[:-1]) is None
    assert figures.w1(reference[:-1], empty[:-1], [1, 1], [0, 0], exponent=0, deviation=1.0) is None


def test_categories_with_other_and_missing() -> None:
    reference = category_counts(np.array([1.0, 1.0, 2.0, 3.0]), np.array([1, 2, 3]))
    window = category_counts(np.array([1.0, 9.0, np.nan]), np.array([1, 2, 3]))
    assert window.tolist() == [1, 0, 0, 1, 1]
    assert figures.psi(reference, window) == pytest.approx(brute_psi(reference, window), rel=1e-12)
    kept = (reference > 0) | (window > 0)
    expected = stats.chi2_contingency(np.array([reference[kept], window[kept]]), correction=False).statistic
    assert figures.chi_square(reference, window) == pytest.approx(expected)
    assert figures.missing_share(window) == pytest.approx(1 / 3)


def test_smoothing_is_part_of_the_definition() -> None:
    # 2,000 against 60 rows: without 0.5 an empty cell would have no finite figure.
    reference, window = np.array([1000, 980, 20]), np.array([30, 30, 0])
    p, q = (reference + 0.5) / 2001.5, (window + 0.5) / 61.5
    assert figures.psi(reference, window) == pytest.approx(float(((p - q) * np.log(p / q)).sum()), rel=1e-12)
