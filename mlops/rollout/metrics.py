"""The metrics of a rollout: each takes windows of counts and says pass, fail or inconclusive."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from mlops.rollout.betting import MeanAtMost
from mlops.rollout.cells import CanaryNotWorse, PairedNotWorse, RatioAtLeast
from mlops.rollout.counts import SideCounts, WindowCounts
from mlops.rollout.outputs import MIN_BUCKETS, Bounds
from mlops.rollout.spec import CellRule, LatencyRule, OutputRule

_CellKind = Literal["failures", "violations"]


class Verdict(StrEnum):
    """What the evidence says of one metric. Too little of it is inconclusive, never pass."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """A verdict and what it rests on; `figures` are for people and the audit log.

    A guard may fail, never passes, and holds nothing up.
    """

    metric: str
    verdict: Verdict
    why: str
    figures: dict[str, float] = field(default_factory=dict)
    is_guard: bool = False


@dataclass(frozen=True, slots=True)
class Levels:
    """What wealth has to reach, in logs: to fail, and to pass."""

    fail: float
    succeed: float

    @classmethod
    def of(cls, metric_alpha: float, alpha: float) -> "Levels":
        """Failing is split over the metrics, any of which ends a rollout; passing is not, as all of them have to."""
        return cls(-math.log(metric_alpha), -math.log(alpha))


class CellMetric:
    """Errors or violations, by bad cells.

    Parameters
    ----------
    kind : str
        The count of a side that makes a cell bad.
    is_paired : bool
        Whether both sides saw the same requests.
    """

    def __init__(self, name: str, kind: _CellKind, rule: CellRule, levels: Levels, *, is_paired: bool) -> None:
        self.name = name
        self._kind: _CellKind = kind
        self._levels = levels
        self._worse: CanaryNotWorse | PairedNotWorse
        self._worse = PairedNotWorse(ratio=rule.ratio) if is_paired else CanaryNotWorse(ratio=rule.ratio)
        self._ratio = RatioAtLeast(rule.margin)
        self._rate = MeanAtMost(-rule.tolerance, lowest=-1.0)
        self._tolerance, self._margin = rule.tolerance, rule.margin
        self._cells, self._bad = 0, 0
        self._is_failed = False

    def update(self, window: WindowCounts) -> None:
        """Takes a window."""
        ours, theirs = self._is_bad(window.canary), self._is_bad(window.stable)
        if isinstance(self._worse, PairedNotWorse):
            self._worse.update(ours, theirs)
            share_bp = 5_000
        else:
            share_bp = window.share_bp
            self._worse.update(ours, theirs, share_bp)
        self._ratio.update((ours, window.canary.requests), (theirs, window.stable.requests), share_bp)
        # A few cells say little of a rate: windows are put together until there are enough.
        self._cells += int((window.canary.requests > 0).sum())
        self._bad += int(ours.sum())
        if self._cells >= MIN_BUCKETS:
            self._rate.update(-min(1.0, self._bad / self._cells))
            self._cells = self._bad = 0
        self._is_failed = self._is_failed or self._worse.log_wealth >= self._levels.fail

    def verdict(self) -> MetricVerdict:
        """What it says now; a fail stays one."""
        figures = {
            "log_wealth_worse": self._worse.log_wealth,
            "log_wealth_ratio": self._ratio.log_wealth,
            "log_wealth_tolerance": self._rate.log_wealth,
            "needed_to_fail": self._levels.fail,
            "needed_to_pass": self._levels.succeed,
        }
        if self._is_failed:
            return MetricVerdict(self.name, Verdict.FAIL, "more of the canary's keys go bad than its share", figures)
        if self._rate.log_wealth >= self._levels.succeed:
            why = f"the canary's cells are bad less than {self._tolerance:g} of the time"
            return MetricVerdict(self.name, Verdict.PASS, why, figures)
        if self._ratio.log_wealth >= self._levels.succeed:
            why = f"the canary's cells are bad less than {self._margin:g} times as often as stable's"
            return MetricVerdict(self.name, Verdict.PASS, why, figures)
        return MetricVerdict(self.name, Verdict.INCONCLUSIVE, "too little evidence either way", figures)

    def state(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "worse": self._worse.state(),
            "ratio": self._ratio.state(),
            "rate": self._rate.state(),
            "cells": self._cells,
            "bad": self._bad,
            "is_failed": self._is_failed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self._worse.restore(state["worse"])
        self._ratio.restore(state["ratio"])
        self._rate.restore(state["rate"])
        self._cells, self._bad, self._is_failed = state["cells"], state["bad"], state["is_failed"]

    def _is_bad(self, side: SideCounts) -> np.ndarray[Any, np.dtype[np.bool_]]:
        counts: np.ndarray[Any, np.dtype[np.int64]] = getattr(side, self._kind)
        return counts > 0


class LatencyMetric:
    """Answers over the frozen edge, by the differences of both sides' shares in windows of enough answers."""

    name = "latency"

    def __init__(self, rule: LatencyRule, levels: Levels) -> None:
        self._rule, self._levels = rule, levels
        self._worse = MeanAtMost(rule.worse, lowest=-1.0)
        self._better = MeanAtMost(-rule.tolerance, lowest=-1.0)
        self._pending = [0, 0, 0, 0]
        self._is_failed = False

    def update(self, window: WindowCounts) -> None:
        """Takes a window; small ones are put together until the canary has answered enough."""
        ours, theirs = window.canary, window.stable
        seen = (ours.answers.sum(), ours.slow.sum(), theirs.answers.sum(), theirs.slow.sum())
        self._pending = [before + int(now) for before, now in zip(self._pending, seen, strict=True)]
        answers, slow, of_stable, slow_of_stable = self._pending
        if answers < self._rule.min_answers or of_stable < self._rule.min_answers:
            return
        # A reading may catch an answer between its two columns.
        difference = min(1.0, slow / answers) - min(1.0, slow_of_stable / of_stable)
        self._worse.update(difference)
        self._better.update(-difference)
        self._pending = [0, 0, 0, 0]
        self._is_failed = self._is_failed or self._worse.log_wealth >= self._levels.fail

    def verdict(self) -> MetricVerdict:
        """What it says now; a fail stays one."""
        figures = {
            "log_wealth_worse": self._worse.log_wealth,
            "log_wealth_tolerance": self._better.log_wealth,
            "needed_to_fail": self._levels.fail,
            "needed_to_pass": self._levels.succeed,
        }
        if self._is_failed:
            why = f"over the edge more than {self._rule.worse:g} above stable"
            return MetricVerdict(self.name, Verdict.FAIL, why, figures)
        if self._better.log_wealth >= self._levels.succeed:
            why = f"over the edge less than {self._rule.tolerance:g} above stable"
            return MetricVerdict(self.name, Verdict.PASS, why, figures)
        return MetricVerdict(self.name, Verdict.INCONCLUSIVE, "too little evidence either way", figures)

    def state(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "worse": self._worse.state(),
            "better": self._better.state(),
            "pending": list(self._pending),
            "is_failed": self._is_failed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self._worse.restore(state["worse"])
        self._better.restore(state["better"])
        self._pending, self._is_failed = list(state["pending"]), state["is_failed"]


class OutputMetric:
    """A figure of the outputs, decided at step ends alone."""

    def __init__(self, name: str, rule: OutputRule) -> None:
        self.name = name
        self._tolerance = rule.tolerance
        self._last: Bounds | None = None
        self._is_failed = False

    def update(self, bounds: Bounds | None) -> None:
        """Takes the figure at the end of a step, with bounds at this step's part of alpha; None says too little.

        Raises
        ------
        ValueError
            Where this step's part of alpha is spent: another look would be one look too many.
        """
        if self._last is not None:
            raise ValueError(f"{self.name} was judged in this step already")
        self._last = bounds
        self._is_failed = self._is_failed or (bounds is not None and bounds.lower > self._tolerance)

    @property
    def is_judged(self) -> bool:
        """Whether this step's part of alpha is spent."""
        return self._last is not None

    def begin_step(self) -> None:
        """What an earlier step showed does not pass for this one."""
        self._last = None

    def verdict(self) -> MetricVerdict:
        """What it says now; a fail stays one."""
        last = self._last
        figures = {} if last is None else {"value": last.value, "lower": last.lower, "upper": last.upper}
        if self._is_failed:
            return MetricVerdict(self.name, Verdict.FAIL, f"shown to be above {self._tolerance:g}", figures)
        if last is not None and last.upper <= self._tolerance:
            return MetricVerdict(self.name, Verdict.PASS, f"shown to be at most {self._tolerance:g}", figures)
        if last is None:
            return MetricVerdict(self.name, Verdict.INCONCLUSIVE, "decided at the end of the step", figures)
        why = (
            f"between {last.lower:.3g} and {last.upper:.3g}, which does not decide about {self._tolerance:g}; it is "
            "judged once a step, so only finish or abort go on from here"
        )
        return MetricVerdict(self.name, Verdict.INCONCLUSIVE, why, figures)

    def state(self) -> dict[str, Any]:
        """As JSON has it."""
        last = self._last
        kept = None if last is None else [last.value, last.lower, last.upper, last.buckets]
        return {"last": kept, "is_failed": self._is_failed}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self._last = None if state["last"] is None else Bounds(*state["last"])
        self._is_failed = state["is_failed"]
