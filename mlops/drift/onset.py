"""When a drift began: one change point over sub-blocks, by likelihood, with a confidence interval.

Counts of a sub-block are multinomial: before the change with the shares of the reference, after it with shares of
their own, which are estimated. The log-likelihood is divided by the variance inflation of the reference, since rows
depend on each other. The interval holds every boundary whose log-likelihood is within 3.68 of the best: for small
changes twice the difference to the truth is that of two Brownian motions with drift, whose maximum has the
distribution function (1 - exp(-x))^2 (D. Siegmund, "Boundary crossing probabilities and statistical applications",
Annals of Statistics 14, 1986).
"""

import math
from dataclasses import dataclass

import numpy as np

from mlops.drift.columns import Integers
from mlops.drift.figures import Floats

#: (1 - exp(-x))^2 = 0.95.
_WITHIN = -math.log1p(-math.sqrt(0.95))


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """Boundaries between sub-blocks: the change lies before sub-block `best`, between `low` and `high`, inclusive."""

    best: int
    low: int
    high: int


def change_point(reference: Integers, sub_blocks: Integers, inflation: float) -> ChangePoint:
    """The most likely boundary.

    Parameters
    ----------
    reference : int64, shape (cells,)
        Counts of the reference.
    sub_blocks : int64, shape (sub-blocks, cells)
        Counts in time order, at least one sub-block, the last of which are after the change.
    inflation : float
        Rows that count as one, at least 1.

    Returns
    -------
    ChangePoint
        Boundary k is before sub-block k; 0 says that everything was after the change.
    """
    prior = (reference + 0.5) / (reference + 0.5).sum()
    likelihood = np.array([_after(prior, sub_blocks, k) for k in range(len(sub_blocks))]) / max(inflation, 1.0)
    best = int(likelihood.argmax())
    near = np.flatnonzero(likelihood >= likelihood[best] - _WITHIN)
    return ChangePoint(best, int(near[0]), int(near[-1]))


def _after(prior: Floats, sub_blocks: Integers, k: int) -> float:
    """Log-likelihood ratio of a change at boundary k: only sub-blocks after it are not of the reference."""
    changed = sub_blocks[k:].sum(axis=0)
    total = float(changed.sum())
    if total <= 0:
        return 0.0
    present = changed > 0
    return float((changed[present] * np.log(changed[present] / total / prior[present])).sum())
