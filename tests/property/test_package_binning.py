"""Counts and sums on frozen bins add up, and edges are exact wherever they are written."""

import json
import math
from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mlops.package import bin_counts, bin_sums, category_counts, quantile_edges, square_sum
from mlops.package.binning import common_categories, scale_exponent

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
NUMBERS = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.uint64])


def arrays(dtype: type, *, min_size: int = 0) -> st.SearchStrategy[np.ndarray]:
    few = st.integers(0, 3) if np.dtype(dtype).kind in "iu" else st.sampled_from([-1.5, 0.0, 0.25, math.nan])
    shape = st.integers(min_size, 60)
    return npst.arrays(dtype, shape) | npst.arrays(dtype, shape, elements=few)


@given(st.data())
def test_counts_and_sums_of_parts_add_up_in_any_order(data: st.DataObject) -> None:
    dtype = data.draw(FLOATS)
    reference, values = data.draw(arrays(dtype, min_size=1)), data.draw(arrays(dtype))
    edges, exponent = quantile_edges(reference), scale_exponent(reference)
    shuffled = values[data.draw(st.permutations(range(len(values))))]
    cut = data.draw(st.integers(0, len(values)))
    parts = (shuffled[cut:], shuffled[:cut])

    assert sum(bin_counts(part, edges) for part in parts).tolist() == bin_counts(values, edges).tolist()
    summed = [sum(each) for each in zip(*(bin_sums(part, edges, exponent) for part in parts), strict=True)]
    assert summed == bin_sums(values, edges, exponent)
    assert sum(square_sum(part, exponent) for part in parts) == square_sum(values, exponent)


@given(st.data())
def test_every_value_is_in_exactly_the_bin_that_the_definition_says(data: st.DataObject) -> None:
    dtype = data.draw(NUMBERS)
    edges = quantile_edges(data.draw(arrays(dtype, min_size=1)))
    values = data.draw(arrays(dtype))
    exact = [edge.item() for edge in edges]

    expected = [0] * (len(edges) + 2)
    for value in (each.item() for each in values):
        if value != value:
            expected[-1] += 1
        else:
            expected[sum(edge <= value for edge in exact)] += 1
    assert bin_counts(values, edges).tolist() == expected


@given(st.data())
def test_edges_increase_survive_json_and_enclose_the_reference(data: st.DataObject) -> None:
    dtype = data.draw(NUMBERS)
    reference = data.draw(arrays(dtype, min_size=1))
    edges = quantile_edges(reference)

    assert edges.dtype == dtype
    assert len(edges) <= 21
    assert all(low < high for low, high in pairwise(edges))
    again = np.array(json.loads(json.dumps([float(edge) for edge in edges])), np.float64).astype(dtype)
    assert again.tolist() == edges.tolist()
    finite = reference[np.isfinite(reference)]
    if np.dtype(dtype).kind == "f" and finite.size:
        assert edges[0] == finite.min()
        assert finite.max() in edges


@given(st.data())
def test_categories_count_everything_once(data: st.DataObject) -> None:
    values = data.draw(arrays(data.draw(NUMBERS)))
    categories = common_categories(values)
    other = data.draw(arrays(values.dtype.type))

    assert category_counts(values, categories)[-2] == 0
    assert category_counts(other, categories).sum() == other.size


@settings(max_examples=50)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50),
    st.integers(-20, 20),
)
def test_sums_of_values_times_a_power_of_two_scale_exactly(values: list[float], power: int) -> None:
    array = np.array(values, np.float64)
    exponent = scale_exponent(array)
    assume(array.any())  # zeros have no scale
    scaled = np.ldexp(array, power)

    assert scale_exponent(scaled) == exponent - power
    assert bin_sums(scaled, np.array([]), exponent - power) == bin_sums(array, np.array([]), exponent)
