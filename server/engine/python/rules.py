"""Input and output rules, compiled once a version.

Each check has a cheap screen over the values as Python floats, which passes what is surely fine, and an exact one with
NumPy that finds the row and column. The exact one, `mlops.package.rules`, alone says what the rule means; the screen
never disagrees with it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import Datatype, InputRules, OutputRule, TensorSpec
from mlops.package.rules import OutputLimits, as_rows, feature_bounds, out_of_bounds
from server.engine import texts

Array = NDArray[Any]
_SMALL = 256
#: Places that one answer names at most; part of the protocol.
MAX_FINDINGS = 100
_KINDS = {"clip": "CLIPPED", "flag": "FLAGGED"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know about an answer; `kind` is a `tickserve.v1.FindingKind` by its short name."""

    kind: str
    row: int
    column: int
    rule: str


class Findings:
    """What the rules found on one request: how often each was broken, and the first places for the answer.

    A broken rule can have as many places as the request has values; `MAX_FINDINGS` bounds what an answer names.
    """

    __slots__ = ("kept", "left_out", "violations")

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.left_out = 0
        self.violations: dict[tuple[str, str], int] = {}

    def count(self, rule: str, policy: str, times: int = 1) -> None:
        """Counts broken rules, also of a request that is then refused."""
        self.violations[rule, policy] = self.violations.get((rule, policy), 0) + times

    @property
    def times_broken(self) -> int:
        """How often rules were broken, all of them."""
        return sum(self.violations.values())

    def add(self, kind: str, row: int, column: int, rule: str) -> None:
        """Takes one place."""
        if len(self.kept) < MAX_FINDINGS:
            self.kept.append(Finding(kind, row, column, rule))
        else:
            self.left_out += 1

    def lead(self, finding: Finding) -> None:
        """Takes one place before all others."""
        self.kept.insert(0, finding)
        if len(self.kept) > MAX_FINDINGS:
            self.kept.pop()
            self.left_out += 1

    def add_all(self, rows: Array, columns: Array, told: Callable[[int], tuple[str, str]]) -> None:
        """Takes many places in order; `told` gives kind and rule of a column."""
        room = MAX_FINDINGS - len(self.kept)
        for row, column in zip(rows[:room].tolist(), columns[:room].tolist(), strict=True):
            kind, rule = told(column)
            self.kept.append(Finding(kind, row, column, rule))
        self.left_out += max(0, len(rows) - room)


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
        facts = {"tensor": self._tensor, "row": row, "column": column, "value": value}
        if name:
            raise texts.FEATURE_NOT_FINITE.error(at=name, feature=name, **facts)
        raise texts.NOT_FINITE.error(at=self._tensor, **facts)


class BoundsCheck:
    """Per-feature bounds of the one feature tensor: reject, clip or flag. NaN is inside: FiniteCheck speaks of it."""

    __slots__ = ("_clips", "_highs", "_lows", "_names", "_pairs", "_policies", "_rejects")

    def __init__(self, feature_names: Sequence[str], rules: InputRules, datatype: Datatype) -> None:
        self._names = feature_names
        self._policies = [rules.bounds[name].policy if name in rules.bounds else "" for name in feature_names]
        self._lows, self._highs = feature_bounds(feature_names, rules, datatype)
        self._rejects = np.array([policy == "reject" for policy in self._policies])
        self._clips = np.array([policy == "clip" for policy in self._policies])
        self._pairs = list(zip(self._lows.tolist(), self._highs.tolist(), strict=True))

    def __call__(self, array: Array, findings: Findings) -> Array:
        """Returns the array to run: the given one, or a clipped copy. Adds what it found."""
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

    def _apply(self, array: Array, outside: Array, findings: Findings) -> Array:
        width = len(self._names)
        flat = array.reshape(array.shape[0], -1)
        rows, columns = np.nonzero(outside.reshape(flat.shape))
        features = columns % width
        rejected = np.flatnonzero(self._rejects[features])
        if rejected.size:
            row, column = int(rows[rejected[0]]), int(columns[rejected[0]])
            name = self._names[column % width]
            low, high = self._pairs[column % width]
            findings.count(f"bounds:{name}", "reject")
            value = float(flat[row, column])
            raise texts.OUT_OF_BOUNDS.error(at=name, feature=name, row=row, value=value, minimum=low, maximum=high)
        for feature, times in enumerate(np.bincount(features, minlength=width).tolist()):
            if times:
                findings.count(f"bounds:{self._names[feature]}", self._policies[feature], times)
        findings.add_all(
            rows,
            columns,
            lambda column: (_KINDS[self._policies[column % width]], f"bounds:{self._names[column % width]}"),
        )
        clipped = self._clips[features]
        if not clipped.any():
            return array
        result = flat.copy()
        place = rows[clipped], columns[clipped]
        result[place] = np.clip(
            flat[place].astype(np.float64), self._lows[features[clipped]], self._highs[features[clipped]]
        )
        return result.reshape(array.shape)


class OutputCheck:
    """All rules of one output."""

    def __init__(self, rules: Sequence[OutputRule], spec: TensorSpec) -> None:
        self._limits = [OutputLimits(rule, spec.datatype) for rule in rules]
        self._low = max((each.low for each in self._limits if each.rule.kind == "range"), default=-math.inf)
        self._high = min((each.high for each in self._limits if each.rule.kind == "range"), default=math.inf)
        self._sums = [(each.low, each.high) for each in self._limits if each.rule.kind == "row_sum"]

    def broken(self, array: Array) -> list[tuple[OutputRule, Array, Array]]:
        """Each broken rule with the rows that break it and the first column there; empty where all is in order."""
        if array.size <= _SMALL and self._is_fine(array):
            return []
        values = as_rows(array)
        found = []
        for limits in self._limits:
            bad = limits.violations(values)
            rows = np.flatnonzero(bad.any(axis=1))
            if rows.size:
                found.append((limits.rule, rows, bad[rows].argmax(axis=1)))
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
