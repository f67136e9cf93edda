"""Shares of requests from the server's counters, with an interval that counts keys and not requests.

Requests of one routing key resemble each other, so the unit is the key bucket: the share is a ratio of sums over
buckets, its error that of a ratio estimator (Cochran, Sampling Techniques, 6.4), with Student's t. One key that sends
nothing but bad requests then moves the estimate and not the lower bound.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.tap import layout

#: Fewer buckets with requests say nothing about keys.
LEAST_BUCKETS = 20
#: On each side of an interval.
LEVEL = 0.025
Counts = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its interval; None where it is undefined, or rests on too few buckets. `n` are requests."""

    figure: str
    value: float | None
    lower: float | None
    upper: float | None
    n: int
    buckets: int


def rates(counts: Counts) -> tuple[Rate, ...]:
    """The figures of one window.

    Parameters
    ----------
    counts : numpy.ndarray
        uint64 of shape (256, 8): what was counted in the window, by key bucket and column of the counters page.
    """
    requests = counts[:, layout.REQUESTS]
    answers = requests - np.minimum(counts[:, layout.ERRORS], requests)
    return (
        rate("error_rate", counts[:, layout.FAILURES], requests),
        rate("violation_rate", counts[:, layout.OUTPUT_VIOLATIONS], requests),
        rate("slow_rate", counts[:, layout.OVER_BUDGET], answers),
    )


def rate(figure: str, events: Counts, requests: Counts) -> Rate:
    """The share of requests with an event, both by key bucket."""
    used = requests > 0
    n, buckets = int(requests.sum()), int(used.sum())
    if n == 0:
        return Rate(figure, None, None, None, 0, 0)
    hits, sizes = events[used].astype(np.float64), requests[used].astype(np.float64)
    value = float(hits.sum() / n)
    if buckets < LEAST_BUCKETS:
        return Rate(figure, value, None, None, n, buckets)
    from scipy.special import stdtrit

    residuals = hits - value * sizes
    error = math.sqrt(float((residuals**2).sum()) * buckets / (buckets - 1)) / n
    reach = float(stdtrit(buckets - 1, 1 - LEVEL)) * error
    return Rate(figure, value, max(0.0, value - reach), min(1.0, value + reach), n, buckets)


def difference(before: NDArray[Any], after: NDArray[Any]) -> Counts:
    """What was counted between two looks at one block with one epoch.

    Numbers of one row may be apart by the request that is counted just then, never below what was there.
    """
    return np.where(after >= before, after - before, 0).astype(np.uint64)
