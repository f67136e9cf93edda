"""What rules mean, exactly: bounds in a tensor's own precision, and which values lie outside of them.

The one implementation for whoever builds a package and whoever serves it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlops.package.datatypes import Array, Bools, numpy_dtype
from mlops.package.manifest import Datatype, InputRules, OutputRule

Floats = np.ndarray[Any, np.dtype[np.float64]]


class OutputLimits:
    """One output rule in the precision of its output.

    Parameters
    ----------
    rule : OutputRule
    datatype : str
        Of the output, any but BYTES.

    Attributes
    ----------
    low, high : float
        What values (`range`) or row sums (`row_sum`) are held against, both allowed. A bound on values is rounded to
        the datatype, so that a value that looks equal to it is inside; sums and their bounds are float64.
    """

    __slots__ = ("high", "low", "rule")

    def __init__(self, rule: OutputRule, datatype: Datatype) -> None:
        self.rule = rule
        self.low, self.high = _closed(rule.minimum, rule.maximum)
        if rule.kind != "row_sum":
            self.low, self.high = representable(self.low, datatype), representable(self.high, datatype)

    def violations(self, rows: Floats) -> Bools:
        """Which elements of `as_rows(output)` break the rule, as booleans of that shape; row sums are one column wide.

        NaN breaks every rule.
        """
        if self.rule.kind == "finite":
            return ~np.isfinite(rows)
        # Left to right, as the other implementations add, so that an answer at the edge is judged the same.
        values = np.add.accumulate(rows, axis=1)[:, -1:] if self.rule.kind == "row_sum" else rows
        inside: Bools = (values >= self.low) & (values <= self.high)
        return ~inside


def as_rows(output: Array) -> Floats:
    """An output with at least one value as float64 of shape (rows, values a row); a scalar is one row."""
    return output.reshape(output.shape[0] if output.ndim else 1, -1).astype(np.float64)


def feature_bounds(feature_names: Sequence[str], rules: InputRules, datatype: Datatype) -> tuple[Floats, Floats]:
    """Least and greatest value of each feature, both allowed, in the input's precision; infinite where none is set."""
    unbounded = (-math.inf, math.inf)
    pairs = [
        _closed(bound.minimum, bound.maximum) if (bound := rules.bounds.get(name)) else unbounded
        for name in feature_names
    ]
    lows, highs = ([representable(bound, datatype) for bound in side] for side in zip(*pairs, strict=True))
    return np.array(lows), np.array(highs)


def out_of_bounds(values: Array, lows: Floats, highs: Floats) -> Bools:
    """Which values lie outside the bounds of the feature that their last axis names; NaN never does."""
    outside: Bools = (values < lows) | (values > highs)
    return outside


def representable(bound: float, datatype: Datatype) -> float:
    """The bound in the tensor's own precision, so that a value equal to it is inside."""
    with np.errstate(over="ignore"):
        return float(numpy_dtype(datatype).type(bound)) if datatype in ("FP16", "FP32", "FP64") else bound


def _closed(minimum: float | None, maximum: float | None) -> tuple[float, float]:
    return -math.inf if minimum is None else minimum, math.inf if maximum is None else maximum
