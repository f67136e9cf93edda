"""Histograms: every duration falls into the bucket whose edges hold it, and quantiles stay within their error."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.histogram import (
    BOTTOM_NS,
    BUCKETS,
    TOP_NS,
    Histogram,
    bucket,
    exposition_buckets,
    lower_edges_ns,
    quantile_ns,
)

EDGES = lower_edges_ns()
durations = st.integers(0, 10 * TOP_NS) | st.sampled_from(EDGES.tolist()) | st.integers(0, 10_000)


@given(durations)
def test_bucket_holds_its_duration(duration: int) -> None:
    index = bucket(duration)
    assert EDGES[index] <= duration
    assert index == BUCKETS - 1 or duration < EDGES[index + 1]


@given(st.lists(durations, max_size=50))
def test_record_counts_like_bucket_and_sums_exactly(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    expected = [0] * BUCKETS
    for value in values:
        expected[bucket(value)] += 1
    assert histogram.counts == expected
    assert histogram.sum_ns == sum(values)


def test_edges_rise_and_are_at_most_a_thirty_second_apart() -> None:
    assert len(EDGES) == BUCKETS
    assert EDGES[0] == 0
    assert (EDGES[1], EDGES[-1]) == (BOTTOM_NS, TOP_NS)
    inner = EDGES[1:]
    assert np.all(np.diff(inner) > 0)
    assert np.all(np.diff(inner) * 32 <= inner[:-1])


@given(st.lists(st.integers(BOTTOM_NS, TOP_NS - 1), min_size=1, max_size=200), st.floats(0.001, 1.0))
def test_quantile_is_within_a_thirty_second_of_the_exact_one(values: list[int], q: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    found = quantile_ns(histogram.counts, q)
    assert found is not None
    assert abs(found - exact) <= exact / 32


def test_quantile_of_nothing_is_absent() -> None:
    assert quantile_ns(Histogram().counts, 0.5) is None


def test_exposition_edges_are_fine_edges() -> None:
    fine = set(EDGES.tolist())
    found = exposition_buckets()
    assert 25 <= len(found) <= 35
    for edge_seconds, end in found:
        assert round(edge_seconds * 1e9) in fine
        assert EDGES[end] == round(edge_seconds * 1e9)


@pytest.mark.parametrize("merged", [2, 5])
def test_merging_by_addition_loses_nothing(merged: int) -> None:
    generator = np.random.default_rng(1)
    parts = [Histogram() for _ in range(merged)]
    whole = Histogram()
    for part in parts:
        for value in generator.integers(0, 10**9, 100).tolist():
            part.record(value)
            whole.record(value)
    assert np.sum([part.counts for part in parts], axis=0).tolist() == whole.counts


def test_documented_vectors() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "formats" / "histogram.md").read_text()
    vectors = re.findall(r"^\| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert len(vectors) >= 7
    for duration, index in vectors:
        assert bucket(int(duration)) == int(index)
