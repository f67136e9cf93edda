"""Bins: which value counts where, and edges that tell a constant from anything else."""

import math

import numpy as np
import pytest

from mlops.package import bin_counts, bin_sums, category_counts, quantile_edges, square_sum
from mlops.package.binning import common_categories, moments, scale_exponent

NAN, INF = math.nan, math.inf


def test_each_value_counts_in_the_bin_whose_lower_edge_it_reaches() -> None:
    edges = np.array([0.0, 1.0, 2.0])
    values = np.array([-INF, -0.1, -0.0, 0.0, 0.9, 1.0, 1.9, 2.0, INF, NAN, NAN])

    assert bin_counts(values, edges).tolist() == [2, 3, 2, 2, 2]
    assert bin_counts(values, edges).dtype == np.int64


def test_without_edges_everything_is_in_one_bin() -> None:
    assert bin_counts(np.array([1.0, NAN]), np.array([])).tolist() == [1, 1]


def test_edges_are_values_of_the_reference_and_the_one_after_its_maximum() -> None:
    reference = np.random.default_rng(0).normal(size=1001).astype(np.float32)
    edges = quantile_edges(reference)

    assert edges.dtype == np.float32
    assert len(edges) == 21
    assert set(edges[:-1]) <= set(reference)
    assert (edges[0], edges[-2]) == (reference.min(), reference.max())
    assert edges[-1] == np.nextafter(reference.max(), np.float32(INF))
    counts = bin_counts(reference, edges)
    assert counts[0] == counts[-2] == 0
    assert counts[1:-3].min() >= 52
    assert counts[1:-3].max() <= 53


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8])
def test_a_constant_is_told_from_anything_larger_or_smaller(dtype: type) -> None:
    edges = quantile_edges(np.full(100, 3, dtype))

    assert bin_counts(np.array([2, 3, 5], dtype), edges).tolist() == [1, 1, 1, 0]


def test_tied_quantiles_become_one_edge() -> None:
    reference = np.array([0.0] * 90 + list(range(1, 11)))

    assert quantile_edges(reference).tolist() == sorted(set(quantile_edges(reference)))
    assert quantile_edges(reference)[0] == 0.0


def test_what_is_not_finite_makes_no_edge() -> None:
    assert quantile_edges(np.array([NAN, INF, -INF, 1.0])).tolist() == [1.0, math.nextafter(1.0, 2.0)]
    assert quantile_edges(np.array([NAN])).tolist() == []


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint64, np.int64])
def test_the_largest_value_of_a_datatype_has_no_edge_above_it(dtype: type) -> None:
    largest = np.finfo(dtype).max if dtype is np.float32 else np.iinfo(dtype).max
    edges = quantile_edges(np.array([0, largest], dtype))

    assert edges.dtype == dtype
    assert (np.diff(edges) > 0).all()
    assert bin_counts(np.array([0, largest], dtype), edges).sum() == 2


def test_edges_of_large_integers_are_exact_as_floats() -> None:
    nanoseconds = np.int64(1_700_000_000_000_000_001) + np.arange(50, dtype=np.int64) * 997
    edges = quantile_edges(nanoseconds)

    assert [int(float(edge)) for edge in edges] == edges.tolist()
    assert bin_counts(nanoseconds, edges).sum() == 50


def test_categories_are_counted_by_value_with_other_and_missing() -> None:
    assert category_counts(np.array([3.0, 1.0, 3.0, 9.0, NAN]), np.array([1.0, 3.0])).tolist() == [1, 2, 1, 1]
    assert category_counts(np.array(["b", "a", "c"]), np.array(["a", "b"])).tolist() == [1, 1, 1, 0]
    assert category_counts(np.array([True, False, True]), np.array([False, True])).tolist() == [1, 2, 0, 0]


def test_the_most_frequent_values_become_categories() -> None:
    values = np.concatenate([np.arange(100), np.arange(40, 100)])

    found = common_categories(values)

    assert len(found) == 64
    assert found.tolist() == [0, 1, 2, 3, *range(40, 100)]


def test_sums_are_exact_integers_of_scaled_values() -> None:
    values = np.array([0.5, 1.5, -2.0, NAN], np.float32)
    exponent = scale_exponent(values)
    unit = 2**exponent

    assert 2**35 <= 2 * unit < 2**36
    assert bin_sums(values, np.array([0.0], np.float32), exponent) == [-2 * unit, 2 * unit]
    assert square_sum(values, exponent) == unit * unit // 4 + 9 * unit * unit // 4 + 4 * unit * unit


def test_values_far_beyond_the_reference_are_held_at_a_bound() -> None:
    assert bin_sums(np.array([INF, 1e300]), np.array([]), 0) == [2 * 2**48]
    assert bin_sums(np.array([-INF]), np.array([]), 0) == [-(2**48)]
    assert square_sum(np.array([INF, -INF]), 0) == 2 * 2**96


def test_sums_of_many_extreme_rows_do_not_overflow() -> None:
    rows = 40_000

    assert bin_sums(np.full(rows, INF), np.array([]), 0) == [rows * 2**48]
    assert square_sum(np.full(rows, -INF), 0) == rows * 2**96


@pytest.mark.parametrize("values", [[1e-300, 3e-300], [1e308, -1e308], [0.0, 0.0], [1e9, 1e9 + 1]])
def test_moments_follow_from_the_sums_at_any_magnitude(values: list[float]) -> None:
    array = np.array(values)
    exponent, edges = scale_exponent(array), quantile_edges(array)
    mean, deviation = moments(
        bin_counts(array, edges), bin_sums(array, edges, exponent), square_sum(array, exponent), exponent
    )

    scale = np.abs(array).max() or 1.0
    assert mean / scale == pytest.approx((array / scale).mean(), abs=2**-35)
    assert deviation / scale == pytest.approx((array / scale).std(), abs=2**-35)
