"""Whether stable's shadow does what stable does: one that is broken itself would explain every bad answer."""

from typing import Any

from mlops.rollout.cells import CanaryNotWorse
from mlops.rollout.counts import SideCounts


class ShadowTrust:
    """Trust in stable's shadow of the canary's requests, until its cells go bad more than those of stable itself.

    Which keys the canary has is random, so what stable makes of them is, by key, what it makes of its own: the same
    bet that judges the canary, with the shadow in its place. What was lost stays lost.

    Parameters
    ----------
    level : float
        What the log of the wealth has to reach; each of failures and broken rules has it.
    """

    def __init__(self, level: float) -> None:
        self._level = level
        self._failures, self._violations = CanaryNotWorse(), CanaryNotWorse()
        #: Whether it may explain anything.
        self.is_kept = True

    def update(self, shadow: SideCounts, stable: SideCounts, share_bp: int) -> None:
        """Takes a window, in which the canary had this share of the keys, in 1/10,000."""
        self._failures.update(shadow.failures > 0, stable.failures > 0, share_bp)
        self._violations.update(shadow.violations > 0, stable.violations > 0, share_bp)
        wealth = max(self._failures.log_wealth, self._violations.log_wealth)
        self.is_kept = self.is_kept and wealth < self._level

    def state(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "failures": self._failures.state(),
            "violations": self._violations.state(),
            "is_kept": self.is_kept,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self._failures.restore(state["failures"])
        self._violations.restore(state["violations"])
        self.is_kept = state["is_kept"]
