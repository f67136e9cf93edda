"""What is computed from the rounds: ratios and differences of two servers measured side by side, with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
SEED = 11


@dataclass(frozen=True)
class Paired:
    """Median over rounds of what one server's figure is beside another's, with a 95% bootstrap interval."""

    median: float
    low: float
    high: float
    rounds: int


def ratio_of_rounds(figure: Sequence[float], reference: Sequence[float]) -> Paired:
    """The ratio of two figures, each (rounds,), paired round by round."""
    return _median(np.asarray(figure, dtype=float) / np.asarray(reference, dtype=float))


def difference_of_rounds(figure: Sequence[float], reference: Sequence[float]) -> Paired:
    """The difference of two figures, each (rounds,), paired round by round."""
    return _median(np.asarray(figure, dtype=float) - np.asarray(reference, dtype=float))


def _median(values: NDArray[np.float64]) -> Paired:
    # The percentile bootstrap of the median over rounds (Efron and Tibshirani, 1993, chapter 13).
    drawn = np.random.default_rng(SEED).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return Paired(float(np.median(values)), float(low), float(high), len(values))
