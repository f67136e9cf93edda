"""A bet against "the mean is at most this", window by window, for values that are bounded.

The wealth is the mean over fixed bets b of the products of 1 + b (x - bound). Under the hypothesis its expectation
never rises, whatever the dependence between the values, so it reaches 1/alpha with probability at most alpha, however
often one looks (Ville). I. Waudby-Smith and A. Ramdas, Estimating means of bounded random variables by betting, JRSS B
86 (2024); V. Vovk and R. Wang, E-values: calibration, combination and applications, Annals of Statistics 49 (2021).
"""

import math
from typing import Any

import numpy as np

from mlops.rollout.wealth import log_mean

#: Bets as parts of the largest that can never lose everything.
_PARTS = 0.98 * 0.5 ** np.arange(8)


class MeanAtMost:
    """Evidence against "each value's mean, given those before, is at most `bound`".

    Parameters
    ----------
    bound : float
        Of the mean.
    lowest : float
        No value is below; less than `bound`.

    Examples
    --------
    >>> bet = MeanAtMost(0.1, lowest=0.0)
    >>> for _ in range(20):
    ...     bet.update(0.9)
    >>> bet.log_wealth > math.log(1000)
    True
    """

    def __init__(self, bound: float, *, lowest: float) -> None:
        if not lowest < bound:
            raise ValueError(f"a mean of at most {bound} is no hypothesis about values from {lowest}")
        self._bound, self._lowest = bound, lowest
        self._bets = _PARTS / (bound - lowest)
        self._logs = np.zeros(len(_PARTS))

    def update(self, value: float) -> None:
        """Takes the next value. Raises ValueError where it is below `lowest` or not finite."""
        if not self._lowest <= value < math.inf:
            raise ValueError(f"value {value} is not from {self._lowest} on")
        self._logs = self._logs + np.log1p(self._bets * (value - self._bound))

    @property
    def log_wealth(self) -> float:
        """Log of the evidence; 0 is none."""
        return log_mean(self._logs)

    def state(self) -> dict[str, Any]:
        """As JSON has it; floats keep every bit there."""
        return {"logs": self._logs.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state()` of the same parameters."""
        self._logs = np.array(state["logs"], np.float64)


def windows_to_reach(alpha: float, bound: float, lowest: float, value: float) -> int:
    """How many windows of one and the same value take the wealth to 1/alpha; 0 where no number does."""
    growth = np.log1p(_PARTS / (bound - lowest) * (value - bound))
    if growth.max() <= 0:
        return 0
    low, high = 1, 1
    while log_mean(high * growth) < -math.log(alpha):
        high *= 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if log_mean(middle * growth) >= -math.log(alpha) else (middle + 1, high)
    return low
