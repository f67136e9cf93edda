"""What a rule means is one thing, whoever judges by it."""

import math

import numpy as np
import pytest

from mlops.package import Bounds, Datatype, InputRules, OutputRule, TensorSpec
from mlops.package.rules import OutputLimits, as_rows, feature_bounds, out_of_bounds, representable
from server.engine.python.rules import BoundsCheck, Findings, OutputCheck
from tickserve.errors import InvalidInputError


@pytest.mark.parametrize(
    ("bound", "datatype", "expected"),
    [
        (0.1, "FP32", float(np.float32(0.1))),
        (0.1, "FP16", float(np.float16(0.1))),
        (0.1, "FP64", 0.1),
        (0.1, "INT32", 0.1),
        (1e300, "FP32", math.inf),
        (-math.inf, "FP32", -math.inf),
    ],
)
def test_a_bound_is_taken_in_the_precision_of_the_tensor(bound: float, datatype: Datatype, expected: float) -> None:
    assert representable(bound, datatype) == expected


def test_row_sums_are_added_from_left_to_right_in_float64() -> None:
    # A compensated sum of this row is 2.0; one after the other, each 1.0 is lost beside 1e16.
    rows = as_rows(np.array([[1e16, 1.0, 1.0, -1e16]]))
    rule = OutputRule(name="sum", output="values", kind="row_sum", minimum=0.0, maximum=0.0)

    assert not OutputLimits(rule, "FP64").violations(rows).any()


@pytest.mark.parametrize("kind", ["finite", "range", "row_sum"])
def test_nan_breaks_every_output_rule_and_no_bound(kind: str) -> None:
    rule = OutputRule.model_validate({"name": "r", "output": "values", "kind": kind, "minimum": -1.0})
    rows = as_rows(np.array([[np.nan], [0.0]], np.float32))

    assert OutputLimits(rule, "FP32").violations(rows).tolist() == [[True], [False]]
    assert not out_of_bounds(np.array([np.nan]), np.array([0.0]), np.array([1.0])).any()


@pytest.mark.parametrize("step", [-1, 0, 1])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 300])
def test_the_server_judges_values_at_a_bound_as_packaging_does(step: int, dtype: type, rows: int) -> None:
    datatype: Datatype = {2: "FP16", 4: "FP32", 8: "FP64"}[np.dtype(dtype).itemsize]  # type: ignore[assignment]
    edge = np.nextafter(dtype(0.1), dtype(step)) if step else dtype(0.1)
    values = np.full((rows, 1), edge)
    rule = OutputRule(name="most", output="values", kind="range", maximum=0.1)
    inputs = InputRules(bounds={"a": Bounds(maximum=0.1)})
    spec = TensorSpec(name="values", datatype=datatype, shape=(-1, 1))

    is_outside = step == 1
    assert OutputLimits(rule, datatype).violations(as_rows(values)).any() == is_outside
    assert bool(OutputCheck([rule], spec).broken(values)) == is_outside
    assert out_of_bounds(values, *feature_bounds(("a",), inputs, datatype)).any() == is_outside
    check = BoundsCheck(("a",), inputs, datatype)
    if is_outside:
        with pytest.raises(InvalidInputError):
            check(values, Findings())
    else:
        assert check(values, Findings()) is values
