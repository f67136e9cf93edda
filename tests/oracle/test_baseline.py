"""The baseline's figures against NumPy, SciPy and exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from mlops.package import NumericColumn, ReferenceRows, TensorSpec, make_baseline, quantile_edges

SAMPLES = {
    "normal": lambda rng: rng.normal(size=4000),
    "heavy tails": lambda rng: rng.standard_t(2, size=4000) * 1e-3,
    "skewed": lambda rng: rng.lognormal(10, 3, size=4000),
    "ties": lambda rng: rng.poisson(2, size=4000) / 4,
    "far from zero": lambda rng: 1e6 + rng.normal(size=4000),
    "with gaps": lambda rng: np.where(rng.random(4000) < 0.1, np.nan, rng.normal(size=4000)),
}


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> tuple[np.ndarray, NumericColumn]:
    values = SAMPLES[request.param](np.random.default_rng(11)).astype(np.float32)
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 1))
    times = np.datetime64("2000-01-01") + np.arange(len(values))
    made = make_baseline((spec,), (spec,), ReferenceRows("train", {"x": values[:, None]}, times), None)
    [column] = made.inputs.columns
    assert isinstance(column, NumericColumn)
    return values, column


def test_edges_are_numpys_lower_quantiles(sample: tuple[np.ndarray, NumericColumn]) -> None:
    values, column = sample
    quantiles = np.unique(np.nanquantile(values, np.arange(20) / 19, method="lower"))

    # k / 19 is rounded, so that NumPy may take the neighbour below where k (n-1) / 19 is whole.
    ordered = np.sort(values[~np.isnan(values)])
    for edge, quantile in zip(column.edges[:-1], quantiles, strict=True):
        between = np.count_nonzero((ordered > min(edge, quantile)) & (ordered < max(edge, quantile)))
        assert between == 0
    assert column.edges[-1] == np.nextafter(values[~np.isnan(values)].max(), np.float32(np.inf))


def test_quantiles_hold_equal_shares(sample: tuple[np.ndarray, NumericColumn]) -> None:
    values, column = sample
    present = values[~np.isnan(values)]
    if len(np.unique(present)) == len(present):
        shares = column.total()[1:-3] / len(present)
        assert shares == pytest.approx(1 / 19, abs=1 / len(present))


def test_counts_of_every_block_are_scipys(sample: tuple[np.ndarray, NumericColumn]) -> None:
    values, column = sample
    edges = [-np.inf, *column.edges, np.inf]
    for number, block in enumerate(np.split(values, 50)):
        present = block[~np.isnan(block)].astype(np.float64)
        expected = stats.binned_statistic(present, present, "count", edges).statistic
        assert column.counts[number] == (*expected.astype(int).tolist(), int(np.isnan(block).sum()))


def test_sums_are_exact_up_to_half_a_unit_a_value(sample: tuple[np.ndarray, NumericColumn]) -> None:
    values, column = sample
    present = [Fraction(float(value)) for value in values[~np.isnan(values)]]
    unit = Fraction(2) ** -column.scale_exponent
    bins = np.searchsorted(column.edges, [float(value) for value in present], side="right")
    for number, total in enumerate(column.sums):
        inside = [value for value, place in zip(present, bins, strict=True) if place == number]
        assert abs(int(total) * unit - sum(inside)) <= unit / 2 * len(inside)
    # (x + e)^2 - x^2 = 2 x e + e^2 with |e| <= unit / 2
    slack = sum(abs(value) * unit + unit * unit / 4 for value in present)
    assert abs(int(column.sum_squares) * unit * unit - sum(value * value for value in present)) <= slack


def test_mean_and_standard_deviation_are_numpys(sample: tuple[np.ndarray, NumericColumn]) -> None:
    values, column = sample
    exact = values.astype(np.longdouble)
    mean, deviation = column.moments()

    # The resolution is 2^-36 of the largest value.
    largest = float(np.nanmax(np.abs(exact)))
    assert mean == pytest.approx(float(np.nanmean(exact)), abs=largest * 2**-36, rel=1e-12)
    assert deviation == pytest.approx(float(np.nanstd(exact)), abs=largest * 2**-35, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 39, 1000])
def test_quantiles_are_order_statistics_by_the_stated_index(count: int) -> None:
    values = np.random.default_rng(count).permutation(np.arange(count, dtype=np.float64))

    assert quantile_edges(values)[:-1].tolist() == sorted({k * (count - 1) // 19 for k in range(20)})
