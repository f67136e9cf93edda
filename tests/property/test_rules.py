"""Rules: what the cheap screens pass, the exact checks pass too, for any values and bounds."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlops.package import Bounds, InputRules, OutputRule, TensorSpec
from server.engine.python.rules import MAX_FINDINGS, BoundsCheck, Findings, FiniteCheck, OutputCheck
from tickserve.errors import InvalidInputError

NAMES = ("a", "b", "c")
SPEC = TensorSpec(name="values", datatype="FP32", shape=(-1, 3))
floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
arrays = hnp.arrays(np.float32, st.tuples(st.integers(1, 120), st.just(3)), elements=floats)
bounds = st.tuples(st.floats(-10, 10), st.floats(-10, 10)).map(sorted)


def inside(value: float, low: float, high: float) -> bool:
    return np.float32(low) <= np.float32(value) <= np.float32(high)


@given(arrays)
def test_finite_check_refuses_exactly_what_is_not_finite(array: np.ndarray[Any, Any]) -> None:
    if np.isfinite(array).all():
        FiniteCheck("x", NAMES)(array)
    else:
        with pytest.raises(InvalidInputError) as caught:
            FiniteCheck("x", NAMES)(array)
        row, column = np.argwhere(~np.isfinite(array))[0]
        assert f"row {row}, column {column}" in caught.value.message
        assert caught.value.field == NAMES[column]


def test_finite_values_whose_sum_overflows_are_accepted() -> None:
    FiniteCheck("x", ())(np.full((1, 3), 1e308))
    FiniteCheck("x", ())(np.full((1000, 3), 1e308))


@given(arrays, bounds)
def test_range_and_finite_rules_agree_with_a_loop(array: np.ndarray[Any, Any], limits: list[float]) -> None:
    low, high = limits
    rules = [
        OutputRule(name="range", output="values", kind="range", minimum=low, maximum=high),
        OutputRule(name="finite", output="values", kind="finite"),
    ]
    expected = []
    for name, is_fine in (("range", lambda v: inside(v, low, high)), ("finite", math.isfinite)):
        first = {}
        for row, column in np.ndindex(array.shape):
            if not is_fine(float(array[row, column])):
                first.setdefault(row, column)
        expected += [(name, row, column) for row, column in first.items()]
    broken = OutputCheck(rules, SPEC).broken(array)
    found = [(rule.name, *place) for rule, *places in broken for place in zip(*places, strict=True)]
    assert found == expected


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 120), st.just(3)), elements=st.floats(-2, 2, width=32)))
def test_row_sum_rule_agrees_with_a_loop(array: np.ndarray[Any, Any]) -> None:
    rule = OutputRule(name="sum", output="values", kind="row_sum", minimum=-1, maximum=1)
    bad = []
    for row in range(len(array)):
        total = 0.0
        for value in array[row].tolist():
            total += value
        if not -1 <= total <= 1:
            bad.append(row)
    broken = OutputCheck([rule], SPEC).broken(array)
    found = [place for _, *places in broken for place in zip(*places, strict=True)]
    assert found == [(row, 0) for row in bad]


@given(arrays, bounds, st.sampled_from(["clip", "flag"]))
def test_bounds_clip_or_flag_exactly_what_is_outside(
    array: np.ndarray[Any, Any], limits: list[float], policy: Any
) -> None:
    low, high = limits
    check = BoundsCheck(NAMES, InputRules(bounds={"b": Bounds(minimum=low, maximum=high, policy=policy)}), "FP32")
    findings = Findings()
    before = array.copy()
    result = check(array, findings)
    outside = [
        row for row in range(len(array)) if not math.isnan(array[row, 1]) and not inside(array[row, 1], low, high)
    ]
    named = [(finding.row, finding.column, finding.rule) for finding in findings.kept]
    assert named == [(row, 1, "bounds:b") for row in outside[:MAX_FINDINGS]]
    assert findings.left_out == len(outside) - len(named)
    assert findings.violations == ({("bounds:b", policy): len(outside)} if outside else {})
    np.testing.assert_array_equal(array, before)
    expected = before.copy()
    if policy == "clip":
        expected[:, 1] = np.clip(expected[:, 1], np.float32(low), np.float32(high))
    np.testing.assert_array_equal(result, expected)
