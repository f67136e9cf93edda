"""Latency: the 99th percentile of one row in this process, with an interval, against the budget."""

import math
from collections.abc import Callable

import numpy as np

from mlops.package import Golden
from mlops.package.runtime import Run
from mlops.registry.gates.policy import LatencyLevels
from mlops.registry.gates.report import Fact, GateResult, Verdict
from mlops.registry.gates.sample_rows import take

#: Nanoseconds from a monotonic clock.
Clock = Callable[[], int]

_NAME = "smoke.latency"
_QUANTILE = 0.99
#: Of each side of the interval.
_LEVEL = 0.025


def latency_gate(
    golden: Golden, run: Run, levels: LatencyLevels, declared_us: int, clock: Clock, *, is_by_row: bool
) -> GateResult:
    """Times the package's session on golden rows, one row a run, from arrays to arrays.

    The interval is that of order statistics: exact for independent runs, too narrow where a busy machine slows many
    runs in a row.

    Parameters
    ----------
    declared_us : int
        The package's own budget, 0 for none.
    is_by_row : bool
        False where the model only takes batches of one fixed size, which are timed whole.
    """
    budget_us = levels.budget_us or declared_us
    if not budget_us:
        return GateResult(_NAME, "inconclusive", "neither the package nor the policy has a latency budget")
    rows = len(next(iter(golden.inputs.values()))) if is_by_row else 1
    batches = [take(golden.inputs, slice(row, row + 1)) for row in range(rows)] if is_by_row else [dict(golden.inputs)]
    for place in range(levels.warm_up):
        run(batches[place % rows])
    elapsed = np.empty(levels.runs, np.int64)
    for place in range(levels.runs):
        batch = batches[place % rows]
        started = clock()
        run(batch)
        elapsed[place] = clock() - started
    p50, p99, low, high = (value / 1e3 for value in _quantiles(np.sort(elapsed)))
    facts: dict[str, Fact] = {"p99_us": p99, "low": low, "high": high, "p50_us": p50, "n": levels.runs}
    verdict: Verdict = "pass" if high <= budget_us else "fail" if low > budget_us else "inconclusive"
    what = "row" if is_by_row else "batch"
    text = (
        f"p99 of one {what} is {p99:.1f} us over {levels.runs} runs, from {low:.1f} to {high:.1f} at "
        f"{1 - 2 * _LEVEL:.0%}; the budget is {budget_us} us"
    )
    return GateResult(_NAME, verdict, text, facts, float(budget_us))


def _quantiles(ordered: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[float, float, float, float]:
    """Median, 99th percentile, and the order statistics that hold the latter between them."""
    from scipy.stats import binom

    n = len(ordered)
    low, high = (int(binom.ppf(level, n, _QUANTILE)) for level in (_LEVEL, 1 - _LEVEL))
    places = (n // 2, math.ceil(_QUANTILE * n) - 1, max(low - 1, 0), min(high, n - 1))
    p50, p99, least, most = (float(ordered[place]) for place in places)
    return p50, p99, least, most
