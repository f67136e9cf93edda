"""Wealth of bets, in logs."""

import math

import numpy as np
from numpy.typing import NDArray


def log_mean(logs: NDArray[np.float64]) -> float:
    """Log of the mean of numbers that are given by their logs: a mixture of e-processes is one."""
    largest = float(logs.max())
    if not math.isfinite(largest):
        return largest
    return largest + math.log(float(np.exp(logs - largest).mean()))
