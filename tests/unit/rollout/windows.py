"""Windows of counts for tests: two sides with the same requests in every bucket, but for what is given."""

from typing import Any

import numpy as np

from mlops.rollout import SideCounts, WindowCounts
from mlops.tap.layout import BUCKETS


def side(requests: int = 10, buckets: int = BUCKETS, **bad: dict[int, int]) -> SideCounts:
    """So many requests in each of the first buckets, all answered but for failures; `bad` are counts by bucket."""
    asked = np.zeros(BUCKETS, np.int64)
    asked[:buckets] = requests
    found: dict[str, Any] = {name: np.zeros(BUCKETS, np.int64) for name in ("failures", "violations", "slow")}
    for name, counts in bad.items():
        for bucket, count in counts.items():
            found[name][bucket] = count
    return SideCounts(requests=asked, answers=asked - found["failures"], **found)


def window(share_bp: int = 1_000, canary: SideCounts | None = None, stable: SideCounts | None = None) -> WindowCounts:
    """One window; clean unless sides are given."""
    return WindowCounts(share_bp, canary or side(), stable or side())
