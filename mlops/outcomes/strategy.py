"""What trading the signals would have earned, period by period."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.statistics.rows import Floats, Integers


@dataclass(frozen=True, eq=False)
class PeriodReturns:
    """Returns of periods, oldest first, after costs; arrays of shape (periods,).

    `market` is what holding every name with a position of 1 would have returned, free of cost.
    """

    start_ns: Integers
    strategy: Floats
    market: Floats


def period_returns(
    position: Floats, value: Floats, *, entity: NDArray[Any], period: Integers, horizon: int, cost_bp: float
) -> PeriodReturns:
    """Each period's sum of position x value less costs.

    Capital is in equal parts over the names of a period. An outcome over h periods occupies its part for h periods, so
    1/h of it starts with every period, and is moved from what was decided h decisions before; every move costs, the
    first entry from flat too. Positions are valued at the end, not sold.

    Parameters
    ----------
    position, value : numpy.ndarray
        float64 of shape (n,), rows ordered by event time.
    cost_bp : float
        Basis points of what is moved.
    """
    moved = np.abs(position - _decided_before(position, entity, horizon))
    earned = position * value - cost_bp / 1e4 * moved
    starts, group = np.unique(period, return_inverse=True)
    names = np.zeros(len(starts))
    np.add.at(
        names, np.array([place for place, _ in {*zip(group.tolist(), entity.tolist(), strict=True)}], np.int64), 1.0
    )
    share = names * horizon

    def total(values: Floats) -> Floats:
        return np.bincount(group, values, minlength=len(starts)).astype(np.float64) / share

    return PeriodReturns(starts, total(earned), total(value))


def _decided_before(position: Floats, entity: NDArray[Any], lag: int) -> Floats:
    """The same name's position so many decisions before; 0 before its first."""
    code = np.unique(entity.astype(str), return_inverse=True)[1] if len(entity) else np.empty(0, np.int64)
    order = np.argsort(code, kind="stable")
    ordered, by_name = position[order], code[order]
    before = np.zeros(len(position))
    if len(position) > lag:
        is_same = by_name[lag:] == by_name[:-lag]
        before[lag:] = np.where(is_same, ordered[:-lag], 0.0)
    found = np.empty(len(position))
    found[order] = before
    return found
