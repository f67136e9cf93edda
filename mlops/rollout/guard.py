"""Business outcome as a guard rail: it may end a rollout, and never passes one.

What predictions earn is seen late and through much noise: to tell a Sharpe ratio of 1.8 from one of 1.0 takes decades.
So a rollout does not wait for it; but where the canary is shown to earn less, it goes.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from mlops.rollout.metrics import MetricVerdict, Verdict
from mlops.rollout.spec import OutcomeRule
from mlops.statistics.directions import HIGHER_IS_BETTER

#: The chance to see a drop, that the power is stated for.
_POWER = 0.8


@dataclass(frozen=True, slots=True)
class LiveFigure:
    """One figure of outcomes of one version, with its HAC standard error; `n` periods are behind it."""

    value: float
    standard_error: float
    n: int


@dataclass(frozen=True, slots=True)
class Drop:
    """How much lower the canary's figure lies than stable's: the drop, the lower bound of it, and what could be seen.

    `seen_from` is the drop that would have been found, above what is allowed, with a chance of 80%.
    """

    value: float
    lower: float
    seen_from: float


def drop_of(rule: OutcomeRule, canary: LiveFigure, stable: LiveFigure, alpha: float) -> Drop:
    """The drop with a one-sided bound at `alpha`.

    The errors of both add up as if versions were independent. They trade the same market, so their difference varies
    less: the bound errs to the safe side.
    """
    from scipy.special import stdtrit

    sign = 1 if HIGHER_IS_BETTER[rule.figure.partition(":")[0]] else -1
    value = sign * (stable.value - canary.value)
    error = math.hypot(canary.standard_error, stable.standard_error)
    width = float(stdtrit(min(canary.n, stable.n) - 1, 1 - alpha)) * error
    return Drop(value, value - width, rule.worse + width + NormalDist().inv_cdf(_POWER) * error)


class OutcomeGuard:
    """Looked at at step ends alone, at this step's part of alpha."""

    name = "outcome"

    def __init__(self, rule: OutcomeRule) -> None:
        self._rule = rule
        self._last: Drop | None = None
        self._is_failed = False
        self.is_judged = False

    def begin_step(self) -> None:
        """The next look is another step's."""
        self.is_judged = False

    def update(self, canary: LiveFigure, stable: LiveFigure, alpha: float) -> None:
        """Takes what is known at the end of a step. Raises ValueError where this step was judged already."""
        if self.is_judged:
            raise ValueError(f"{self.name} was judged in this step already")
        self.is_judged = True
        self._last = drop_of(self._rule, canary, stable, alpha)
        self._is_failed = self._is_failed or self._last.lower > self._rule.worse

    def verdict(self) -> MetricVerdict:
        """Fail or inconclusive; a fail stays one."""
        figure, last = self._rule.figure, self._last
        if last is None:
            return MetricVerdict(self.name, Verdict.INCONCLUSIVE, f"no {figure} of both versions yet", is_guard=True)
        figures = {"drop": last.value, "lower": last.lower, "seen_from": last.seen_from}
        if self._is_failed:
            why = f"{figure} of the canary is shown to lie more than {self._rule.worse:g} below stable's"
            return MetricVerdict(self.name, Verdict.FAIL, why, figures, is_guard=True)
        why = f"a drop of {figure} is seen from {last.seen_from:.3g} on"
        return MetricVerdict(self.name, Verdict.INCONCLUSIVE, why, figures, is_guard=True)

    def state(self) -> dict[str, Any]:
        """As JSON has it."""
        last = self._last
        kept = None if last is None else [last.value, last.lower, last.seen_from]
        return {"last": kept, "is_failed": self._is_failed, "is_judged": self.is_judged}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self._last = None if state["last"] is None else Drop(*state["last"])
        self._is_failed, self.is_judged = state["is_failed"], state["is_judged"]
