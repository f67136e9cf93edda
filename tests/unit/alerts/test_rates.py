"""Shares with intervals that count keys."""

import numpy as np
import pytest

from mlops.alerts.rates import LEAST_BUCKETS, difference, rate, rates
from mlops.tap import layout


def spread(n: int, each: int) -> np.ndarray:
    counts = np.zeros(256, np.uint64)
    counts[:n] = each
    return counts


def test_ratio_and_its_error_are_those_of_a_ratio_estimator() -> None:
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 50, 60).astype(np.uint64)
    hits = generator.binomial(sizes.astype(int), 0.1).astype(np.uint64)
    events, requests = np.zeros(256, np.uint64), np.zeros(256, np.uint64)
    requests[:60], events[:60] = sizes, hits
    found = rate("error_rate", events, requests)
    share = hits.sum() / sizes.sum()
    # Cochran (6.13) without a finite population, by hand.
    residual = hits - share * sizes
    error = np.sqrt((residual**2).sum() / 59 / 60) / sizes.mean()
    from scipy import stats

    assert found.value == pytest.approx(share)
    assert found.lower == pytest.approx(max(0.0, share - stats.t.ppf(0.975, 59) * error))
    assert found.upper == pytest.approx(share + stats.t.ppf(0.975, 59) * error)
    assert (found.n, found.buckets) == (int(sizes.sum()), 60)


def test_one_key_that_is_bad_alone_does_not_move_the_bound() -> None:
    events = np.zeros(256, np.uint64)
    events[0] = 1000
    requests = spread(40, 100)
    requests[0] = 1000
    found = rate("error_rate", events, requests)
    assert found.value == pytest.approx(1000 / 4900)
    assert found.lower == 0.0


def test_few_keys_and_no_requests_have_no_bound() -> None:
    few = rate("error_rate", spread(LEAST_BUCKETS - 1, 1), spread(LEAST_BUCKETS - 1, 2))
    assert (few.value, few.lower, few.upper) == (0.5, None, None)
    assert rate("error_rate", spread(LEAST_BUCKETS, 1), spread(LEAST_BUCKETS, 2)).lower == 0.5
    assert rate("error_rate", spread(0, 0), spread(0, 0)).value is None


def test_columns_are_those_of_the_page() -> None:
    counts = np.zeros((256, 8), np.uint64)
    counts[:64, layout.REQUESTS] = 10
    counts[:64, layout.ERRORS] = 5
    counts[:64, layout.FAILURES] = 1
    counts[:64, layout.OUTPUT_VIOLATIONS] = 2
    counts[:64, layout.OVER_BUDGET] = 1
    found = {each.figure: each.value for each in rates(counts)}
    assert found == pytest.approx({"error_rate": 0.1, "violation_rate": 0.2, "slow_rate": 0.2})


def test_difference_never_goes_below_nothing() -> None:
    before, after = np.array([5, 1], np.uint64), np.array([7, 0], np.uint64)
    assert difference(before, after).tolist() == [2, 0]


def test_level_holds_where_keys_differ() -> None:
    """A healthy rate that varies by key: the lower bound lies above it in 2.5% of windows at most."""
    generator = np.random.default_rng(11)
    wrong = 0
    for _ in range(2000):
        sizes = np.minimum(1 + generator.pareto(1.2, 256) * 5, 5000).astype(np.uint64)
        chance = 0.01 * generator.gamma(0.5, 2.0, 256)
        hits = generator.binomial(sizes.astype(int), np.minimum(chance, 1.0)).astype(np.uint64)
        found = rate("error_rate", hits, sizes)
        assert found.lower is not None
        wrong += found.lower > 0.01
    assert wrong / 2000 < 0.03
