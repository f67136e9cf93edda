"""Input and output rules, compiled once a version.

Each check has a cheap screen over the values as Python floats, which passes what is surely fine, and an exact one with
NumPy that finds the row and column. The exact one, `mlops.package.rules`, alone says what the rule means; the screen
never disagrees with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import Datatype, InputRules, OutputRule, TensorSpec
from mlops.package.rules import OutputLimits, as_rows, feature_bounds, out_of_bounds
from server.engine import texts

Array = NDArray[Any]
_SMALL = 256


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
        self._lows, self._highs = feature_bounds(feature_names, rules, datatype)
        self._pairs = list(zip(self._lows.tolist(), self._highs.tolist(), strict=True))

    def __call__(self, array: Array, findings: list[Finding]) -> Array:
        """Returns the array to run: the given one, or a clipped copy. Appends what it found."""
        if array.size == len(self._pairs):
            for value, (low, high) in zip(array.ravel().tolist(), self._pairs, strict=True):
                if value < low or value > high:
                    break
            else:
                return array
        outside = out_of_bounds(array, self._lows, self._highs)
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
        self._limits = [OutputLimits(rule, spec.datatype) for rule in rules]
        self._low = max((each.low for each in self._limits if each.rule.kind == "range"), default=-math.inf)
        self._high = min((each.high for each in self._limits if each.rule.kind == "range"), default=math.inf)
        self._sums = [(each.low, each.high) for each in self._limits if each.rule.kind == "row_sum"]

    def broken(self, array: Array) -> list[tuple[OutputRule, int, int]]:
        """Each broken rule in each row that breaks it, with the first column there; empty where all is in order."""
        if array.size <= _SMALL and self._is_fine(array):
            return []
        values = as_rows(array)
        found = []
        for limits in self._limits:
            bad = limits.violations(values)
            rows = np.flatnonzero(bad.any(axis=1)).tolist()
            found += [(limits.rule, row, int(bad[row].argmax())) for row in rows]
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


def _first(bad: Array, array: Array) -> tuple[int, int, float]:
    row, column = np.argwhere(bad)[0].tolist()
    return row, column, float(array.reshape(bad.shape)[row, column])
