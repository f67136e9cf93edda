"""Log-linear histograms of durations: integer counts that merge without loss.

Each power of two from 64 ns up is cut into 32 equal buckets, so a bucket is at most 1/32 of its lower edge wide.
Bucket 0 takes what is below 64 ns, the last one what is at or above `TOP_NS` (about 60 s). The layout is shared with
every engine and documented in docs/formats/histogram.md.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BOTTOM_NS = 64
TOP_NS = 56 << 30
_OVERFLOW = 953
#: Number of buckets of every histogram.
BUCKETS = _OVERFLOW + 1


def bucket(duration_ns: int) -> int:
    """The index of the bucket that takes `duration_ns`."""
    if duration_ns < BOTTOM_NS:
        return 0
    shift = duration_ns.bit_length() - 6
    index = (shift << 5) + (duration_ns >> shift) - 63
    return index if index < _OVERFLOW else _OVERFLOW


def lower_edges_ns() -> NDArray[np.int64]:
    """The inclusive lower edge of every bucket, in nanoseconds; shape (BUCKETS,)."""
    fine = [(32 + step) << octave for octave in range(1, 31) for step in range(32)]
    return np.array([0, *fine[: _OVERFLOW - 1], TOP_NS], dtype=np.int64)


class Histogram:
    """Counts of one kind of duration. One writer; readers copy `counts` and may be one record behind."""

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.sum_ns = 0

    def record(self, duration_ns: int) -> None:
        """Counts one duration, in nanoseconds."""
        # The same as bucket(), without a call: this runs several times a request.
        if duration_ns < BOTTOM_NS:
            index = 0
        else:
            shift = duration_ns.bit_length() - 6
            index = (shift << 5) + (duration_ns >> shift) - 63
            if index > _OVERFLOW:
                index = _OVERFLOW
        self.counts[index] += 1
        self.sum_ns += duration_ns


def quantile_ns(counts: Sequence[int] | NDArray[np.int64], q: float) -> float | None:
    """The q-quantile of the counted durations, in nanoseconds, at its bucket's middle; None without any.

    The nearest-rank definition: the smallest duration with at least `ceil(q * n)` at or below it.
    """
    index = quantile_bucket(counts, q)
    if index is None:
        return None
    edges = lower_edges_ns()
    if index == _OVERFLOW:
        return float(TOP_NS)
    return float(edges[index] + edges[index + 1]) / 2


def quantile_bucket(counts: Sequence[int] | NDArray[np.int64], q: float) -> int | None:
    """The bucket that holds the q-quantile, as `quantile_ns`; None without any."""
    cumulative = np.cumsum(np.asarray(counts, dtype=np.int64))
    total = int(cumulative[-1])
    if total == 0:
        return None
    return int(np.searchsorted(cumulative, max(1, int(np.ceil(q * total)))))


def exposition_buckets() -> list[tuple[float, int]]:
    """The classic Prometheus buckets: upper edge in seconds, and the index one past the last bucket below it.

    Every edge is an edge of the fine buckets, so the exposition is exact.
    """
    edges_ns = [1 << 10, 1 << 11]
    for octave in range(12, 23):
        edges_ns += [1 << octave, 3 << (octave - 1)]
    edges_ns += [1 << octave for octave in range(23, 31)] + [1 << 33]
    return [(edge / 1e9, bucket(edge)) for edge in edges_ns]
