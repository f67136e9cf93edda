"""The lossless counts of the servers here, window by window: differences of the counters pages of every boot."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.alerts.rates import Counts, difference
from mlops.tap import CATALOG, COUNTERS, BlockCounts, PageReader, boots, layout, read_catalog
from tickserve.errors import TickserveError

_Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """What the stable versions of a model counted in one window; `version` is the one that most requests went to."""

    model: str
    version: str
    start_ns: int
    end_ns: int
    counts: Counts


class RateWindows:
    """Looks at the pages of a tap's folder each time that a window is over.

    A block that changed hands began anew at zero. What was counted before the first look belongs to no window.

    Parameters
    ----------
    window_ns : int
        At most 5 min: a page keeps the counts of a version that left for no longer.
    clock : callable
        Unix time in nanoseconds.
    """

    def __init__(self, folder: Path, window_ns: int, clock: Callable[[], int]) -> None:
        self._folder = folder
        self._window_ns = window_ns
        self._clock = clock
        self._before: dict[_Key, NDArray[Any]] = {}
        self._since: int | None = None

    def poll(self) -> list[ModelCounts]:
        """The counts of each model in the window that is over; none before that."""
        now = self._clock()
        # A clock that was set back begins a window anew.
        if self._since is not None and 0 <= now - self._since < self._window_ns:
            return []
        start, self._since = self._since, now
        found, before = {}, self._before
        by_model: dict[str, dict[str, Counts]] = {}
        for key, model, version, block in self._blocks():
            found[key] = block.counts
            grown = difference(before.get(key, np.zeros_like(block.counts)), block.counts)
            versions = by_model.setdefault(model, {})
            versions[version] = versions[version] + grown if version in versions else grown
        is_first = start is None or now <= start
        self._before = found
        if is_first or start is None:
            return []
        return [_summed(model, versions, start, now) for model, versions in sorted(by_model.items())]

    def _blocks(self) -> Iterator[tuple[_Key, str, str, BlockCounts]]:
        for boot in boots(self._folder):
            # One that is just being made, or removed, is looked at next time.
            with contextlib.suppress(TickserveError, OSError):
                catalog = read_catalog(boot / CATALOG)
                page = PageReader(boot / COUNTERS)
                try:
                    blocks = page.snapshot()
                finally:
                    page.close()
                for block in blocks:
                    version = catalog.versions.get(block.identity.version)
                    if version is not None and block.identity.role == layout.STABLE_ROLE:
                        yield (boot.name, block.block, block.epoch), version.model, version.version, block


def _summed(model: str, versions: dict[str, Counts], start: int, end: int) -> ModelCounts:
    most = max(versions, key=lambda version: (int(versions[version][:, layout.REQUESTS].sum()), version))
    total = np.stack(list(versions.values())).sum(axis=0, dtype=np.uint64)
    return ModelCounts(model, most, start, end, total)
