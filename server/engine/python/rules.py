"""Input and output rules, compiled once a version.

Each check has a cheap screen over the values as Python floats, which passes what is surely fine, and an exact one with
NumPy that finds the row and column. The exact one alone says what the rule means; the screen never disagrees with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import Datatype, InputRules, OutputRule, TensorSpec
from mlops.package.datatypes import numpy_dtype
from server.engine import texts

Array = NDArray[Any]
_SMALL = 256
_FLOATS = ("FP16", "FP32", "FP64")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know about an answer; `kind` is a `tickserve.v1.FindingKind` by its short name."""

    kind: str
    row: int
    column: int
    rule: str


class FiniteCheck:
    """Refuses NaN and infinities in one input."""

    __slots__ = ("_feature_names", "_tensor")

    def __init__(self, tensor: str, feature_names: Sequence[str]) -> None:
        self._tensor = tensor
        self._feature_names = feature_names

    def __call__(self, array: Array) -> None:
        # A finite sum has only finite terms; one that is not may just have overflowed, so look closer.
        total = sum(array.ravel().tolist()) if array.size <= _SMALL else float(array.sum(dtype=np.float64))
        if math.isfinite(total):
            return
        bad = ~np.isfinite(array)
        if not bad.any():
            return
        row, column, value = _first(bad.reshape(bad.shape[0], -1) if bad.ndim else bad.reshape(1, 1), array)
        name = self._feature_names[column % len(self._feature_names)] if self._feature_names else ""
        raise texts.NOT_FINITE.error(
            at=name or self._tensor,
            tensor=self._tensor,
            row=row,
            column=column,
            named=f" ({name})" if name else "",
            value=value,
        )


class BoundsCheck:
    """Per-feature bounds of the one feature tensor: reject, clip or flag. NaN is inside: FiniteCheck speaks of it."""

    def __init__(self, feature_names: Sequence[str], rules: InputRules, datatype: Datatype) -> None:
        self._names = feature_names
        self._policies = [rules.bounds[name].policy if name in rules.bounds else "" for name in feature_names]
        bounds = [rules.bounds.get(name) for name in feature_names]
        lows = [-math.inf if bound is None or bound.minimum is None else bound.minimum for bound in bounds]
        highs = [math.inf if bound is None or bound.maximum is None else bound.maximum for bound in bounds]
        self._lows = np.array([_representable(low, datatype) for low in lows])
        self._highs = np.array([_representable(high, datatype) for high in highs])
        self._pairs = list(zip(self._lows.tolist(), self._highs.tolist(), strict=True))

    def __call__(self, array: Array, findings: list[Finding]) -> Array:
        """Returns the array to run: the given one, or a clipped copy. Appends what it found."""
        if array.size == len(self._pairs):
            for value, (low, high) in zip(array.ravel().tolist(), self._pairs, strict=True):
                if value < low or value > high:
                    break
            else:
                return array
        outside = (array < self._lows) | (array > self._highs)
        if not outside.any():
            return array
        return self._apply(array, outside, findings)

    def _apply(self, array: Array, outside: Array, findings: list[Finding]) -> Array:
        width = len(self._names)
        places = np.argwhere(outside.reshape(array.shape[0], -1))
        result = array
        for row, column in places.tolist():
            feature = column % width
            name = self._names[feature]
            low, high = self._pairs[feature]
            if self._policies[feature] == "reject":
                value = float(array.reshape(array.shape[0], -1)[row, column])
                raise texts.OUT_OF_BOUNDS.error(at=name, feature=name, row=row, value=value, minimum=low, maximum=high)
        for row, column in places.tolist():
            feature = column % width
            rule = f"bounds:{self._names[feature]}"
            if self._policies[feature] == "flag":
                findings.append(Finding("FLAGGED", row, column, rule))
                continue
            if result is array:
                result = array.copy()
            flat = result.reshape(array.shape[0], -1)
            low, high = self._pairs[feature]
            flat[row, column] = min(max(float(flat[row, column]), low), high)
            findings.append(Finding("CLIPPED", row, column, rule))
        return result


class OutputCheck:
    """All rules of one output."""

    def __init__(self, rules: Sequence[OutputRule], spec: TensorSpec) -> None:
        self._rules = [(rule, *_limits(rule, spec.datatype)) for rule in rules]
        self._low = max((low for rule, low, _ in self._rules if rule.kind == "range"), default=-math.inf)
        self._high = min((high for rule, _, high in self._rules if rule.kind == "range"), default=math.inf)
        self._sums = [(low, high) for rule, low, high in self._rules if rule.kind == "row_sum"]

    def broken(self, array: Array) -> list[tuple[OutputRule, int, int]]:
        """The rules that `array` breaks, each with its first row and column; empty where all is in order."""
        if array.size <= _SMALL and self._is_fine(array):
            return []
        flat = array.reshape(array.shape[0] if array.ndim else 1, -1).astype(np.float64)
        found = []
        for rule, low, high in self._rules:
            bad = _violations(rule.kind, low, high, flat)
            if bad.any():
                row, column = np.argwhere(bad)[0].tolist()
                found.append((rule, row, column))
        return found

    def _is_fine(self, array: Array) -> bool:
        values = array.ravel().tolist()
        if not values:
            return True
        if not math.isfinite(sum(values)) or min(values) < self._low or max(values) > self._high:
            return False
        if self._sums:
            width = array.size // array.shape[0] if array.ndim else 1
            for start in range(0, len(values), width):
                # Added one by one: sum() compensates from Python 3.12 on, the exact check does not.
                total = 0.0
                for value in values[start : start + width]:
                    total += value
                for low, high in self._sums:
                    if not low <= total <= high:
                        return False
        return True


def _violations(kind: str, low: float, high: float, rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which elements of `rows` (n x width, float64) break the rule; row sums are one column wide."""
    if kind == "finite":
        return ~np.isfinite(rows)
    # Left to right, as the other implementations add, so that an answer at the edge is judged the same.
    values = np.add.accumulate(rows, axis=1)[:, -1:] if kind == "row_sum" else rows
    inside: NDArray[np.bool_] = (values >= low) & (values <= high)
    return ~inside


def _limits(rule: OutputRule, datatype: Datatype) -> tuple[float, float]:
    low = -math.inf if rule.minimum is None else rule.minimum
    high = math.inf if rule.maximum is None else rule.maximum
    if rule.kind == "row_sum":
        return low, high
    return _representable(low, datatype), _representable(high, datatype)


def _representable(bound: float, datatype: Datatype) -> float:
    """The bound in the tensor's own precision, so that a value equal to it is inside."""
    with np.errstate(over="ignore"):
        return float(numpy_dtype(datatype).type(bound)) if datatype in _FLOATS else bound


def _first(bad: Array, array: Array) -> tuple[int, int, float]:
    row, column = np.argwhere(bad)[0].tolist()
    return row, column, float(array.reshape(bad.shape)[row, column])
