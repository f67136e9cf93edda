"""Windows of counts and outputs as tests make them."""

from typing import Any

import numpy as np

from mlops import histogram
from mlops.rollout.counts import SideCounts
from mlops.rollout.sums import CountedOutputs, CountedWindow
from mlops.tap.layout import BUCKETS

SECOND = 1_000_000_000
BOOT = "00" * 16


def side(requests: int = 1, **counts: int) -> SideCounts:
    """So many requests in each of 256 key buckets, and so many of these in the first."""
    found = SideCounts(*(np.zeros(BUCKETS, np.int64) for _ in range(5)))
    found.requests[:] = found.answers[:] = requests
    for name, count in counts.items():
        getattr(found, name)[0] = count
    return found


def window(**fields: Any) -> CountedWindow:
    """Ten seconds of stable, but for these fields."""
    usual: dict[str, Any] = {
        "reporter": "here",
        "boot": BOOT,
        "version": 1,
        "role": 1,
        "edge_ns": 0,
        "start_ns": 10 * SECOND,
        "window_ns": 10 * SECOND,
        "share_bp": 9_000,
        "counts": side(),
    }
    return CountedWindow(**(usual | fields))


def outputs(**fields: Any) -> CountedOutputs:
    """Ten seconds of stable's outputs, one row in each key bucket and cell, but for these fields."""
    usual: dict[str, Any] = {
        "reporter": "here",
        "boot": BOOT,
        "version": 1,
        "role": 1,
        "start_ns": 10 * SECOND,
        "window_ns": 10 * SECOND,
        "answers": 768,
        "bins": np.ones((BUCKETS, 3), np.int64),
        "unbinned": 0,
        "total_ns": np.ones(histogram.BUCKETS, np.int64),
        "run_ns": np.ones(histogram.BUCKETS, np.int64),
        "pairs": np.zeros(BUCKETS, np.int64),
        "flips": np.zeros(BUCKETS, np.int64),
        "positions": (0, 767),
        "missed": (0, 0),
    }
    return CountedOutputs(**(usual | fields))
