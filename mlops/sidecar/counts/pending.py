"""What waits to be written: bounded, and never put together once it may have been written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlops.rollout.sums import MIXED_SHARE, CountedWindow
from mlops.rollout.sums.write import Progress

#: Windows of one model at one boot that wait one by one; more are put together into one of a mixed share.
MAX_WINDOWS = 120
#: Rows of outputs that wait; more, and the oldest are lost, and counted.
MAX_OUTPUTS = 1_000
OutputRow = Mapping[str, Any]
_OUTPUT_KEY = ("boot", "model", "version", "role", "start_ns")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Windows of one model at one boot, and how far it is with the last of them."""

    windows: tuple[tuple[CountedWindow, ...], ...]
    progress: Progress

    def followed(self, windows: tuple[CountedWindow, ...], progress: Progress) -> "Waiting":
        """With the window that comes next."""
        found = (*self.windows, windows)
        return Waiting((merged(found),) if len(found) > MAX_WINDOWS else found, progress)


class Pending:
    """Under one lock of the caller's.

    Invariant: what `attempt` gave stays as it is until `done`, because a transaction that seemed to fail may have been
    committed; written again it replaces itself, put together with other windows it would be there twice.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], Waiting] = {}
        self._attempted: dict[tuple[str, str], Waiting] = {}
        self._outputs: dict[tuple[Any, ...], OutputRow] = {}
        self._attempted_outputs: dict[tuple[Any, ...], OutputRow] = {}
        self.lost_outputs = 0

    def add(self, windows: tuple[CountedWindow, ...], progress: Progress) -> None:
        """Takes a window that is over."""
        key = progress.boot, progress.model
        before = self._waiting.get(key)
        self._waiting[key] = Waiting((windows,), progress) if before is None else before.followed(windows, progress)

    def add_outputs(self, rows: Sequence[OutputRow]) -> None:
        """Takes rows of outputs; one of a known key takes its place."""
        for row in rows:
            key = tuple(row[name] for name in _OUTPUT_KEY)
            self._outputs.pop(key, None)
            self._outputs[key] = row
        while len(self._outputs) > MAX_OUTPUTS:
            self._outputs.pop(next(iter(self._outputs)))
            self.lost_outputs += 1

    def attempt(self) -> tuple[list[Waiting], list[OutputRow]]:
        """What is to be written now, together: what was tried and not done, or else everything."""
        if not self.is_attempted:
            self._attempted, self._waiting = self._waiting, {}
            self._attempted_outputs, self._outputs = self._outputs, {}
        return list(self._attempted.values()), list(self._attempted_outputs.values())

    @property
    def is_attempted(self) -> bool:
        """Whether something was tried and not done."""
        return bool(self._attempted or self._attempted_outputs)

    def done(self) -> None:
        """What `attempt` gave is written."""
        self._attempted, self._attempted_outputs = {}, {}

    def windows(self, model: str) -> int:
        """How many windows of a model wait."""
        return sum(
            len(waiting.windows)
            for place in (self._waiting, self._attempted)
            for (_, of), waiting in place.items()
            if of == model
        )

    def has(self, boot: str) -> bool:
        """Whether anything of a boot waits."""
        return any(key[0] == boot for place in (self._waiting, self._attempted) for key in place)


def merged(windows: Sequence[Sequence[CountedWindow]]) -> tuple[CountedWindow, ...]:
    """One window of windows that follow one another, of a mixed share."""
    rows = [row for window in windows for row in window]
    if not rows:
        return ()
    start_ns, end_ns = min(row.start_ns for row in rows), max(row.end_ns for row in rows)
    found: dict[tuple[int, int, int], CountedWindow] = {}
    for row in rows:
        key = row.version, row.role, row.edge_ns
        counts = found[key].counts + row.counts if key in found else row.counts
        found[key] = replace(row, start_ns=start_ns, window_ns=end_ns - start_ns, share_bp=MIXED_SHARE, counts=counts)
    return tuple(found.values())
