"""Answers and what a shadow answered to the same request, joined by request id within what fits into memory."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Requests of a model that wait for their other answer; more, and the oldest go unpaired.
MAX_WAITING = 65_536


class Answered(NamedTuple):
    """One request as one version answered it: the signs of its rows' signals."""

    time_ns: int
    key_bucket: int
    version: str
    signs: NDArray[np.int8]


class Pair(NamedTuple):
    """Rows of one request that both answered; how many had signals of opposite signs. The rest is of the live one."""

    boot: str
    time_ns: int
    key_bucket: int
    version: str
    rows: int
    flips: int


@dataclass(eq=False)
class Signals:
    """Answers of one version in the order of the log.

    Parameters
    ----------
    sign : int8
        For each row; `first` and `after` say for each record which are its.
    """

    version: str
    boot: NDArray[Any]
    request_id: NDArray[Any]
    time_ns: NDArray[np.int64]
    key_bucket: NDArray[np.uint8]
    first: NDArray[np.int64]
    after: NDArray[np.int64]
    sign: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.request_id)

    def each(self) -> Iterator[tuple[tuple[str, str], Answered]]:
        """Every record by boot and request id."""
        columns = (self.boot, self.request_id, self.time_ns, self.key_bucket, self.first, self.after)
        for boot, name, time_ns, bucket, first, after in zip(*(each.tolist() for each in columns), strict=True):
            yield (boot, name), Answered(time_ns, bucket, self.version, self.sign[first:after])


class Pairs:
    """The requests of one model that wait for their other answer.

    What waits is lost with the process: a few requests go unpaired then, as those do that came too far apart.
    """

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        #: Live answers that were not looked up yet: without a shadow they never are.
        self._chunks: deque[Signals] = deque()
        self._in_chunks = 0
        self._live: dict[tuple[str, str], Answered] = {}
        self._shadow: dict[tuple[str, str], Answered] = {}

    def add_live(self, signals: Signals) -> list[Pair]:
        """Takes answers that clients got."""
        self._chunks.append(signals)
        self._in_chunks += len(signals)
        while self._in_chunks > self._max_waiting and len(self._chunks) > 1:
            self._in_chunks -= len(self._chunks.popleft())
        return self._join() if self._shadow else []

    def add_shadow(self, signals: Signals) -> list[Pair]:
        """Takes answers of a shadow."""
        self._shadow.update(signals.each())
        return self._join()

    def _join(self) -> list[Pair]:
        for chunk in self._chunks:
            self._live.update(chunk.each())
        self._chunks.clear()
        self._in_chunks = 0
        found = []
        for key in self._shadow.keys() & self._live.keys():
            live, shadow = self._live.pop(key), self._shadow.pop(key)
            if len(live.signs) == len(shadow.signs):
                flips = int((live.signs * shadow.signs < 0).sum())
                found.append(Pair(key[0], live.time_ns, live.key_bucket, live.version, len(live.signs), flips))
        for waiting in (self._live, self._shadow):
            for key in list(waiting)[: max(0, len(waiting) - self._max_waiting)]:
                del waiting[key]
        return found
