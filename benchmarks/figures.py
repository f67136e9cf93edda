"""What is computed from the rounds: medians, and ratios of two servers measured side by side with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
SEED = 11


@dataclass(frozen=True)
class Ratio:
    """Median over rounds of one server's figure over another's, with a 95% bootstrap interval."""

    median: float
    low: float
    high: float
    rounds: int


def ratio_of_rounds(figure: Sequence[float], reference: Sequence[float]) -> Ratio:
    """The ratio of two figures, each (rounds,), paired round by round.

    The interval is the percentile bootstrap of the median over rounds (Efron and Tibshirani, 1993, chapter 13).
    """
    ratios = np.asarray(figure, dtype=float) / np.asarray(reference, dtype=float)
    drawn = np.random.default_rng(SEED).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))
