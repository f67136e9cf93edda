"""Distributions of outputs and latencies by window, from batches of the log."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlops import histogram
from mlops.prediction_log.batch import STAGES, Batch
from mlops.rollout.sums import CountedOutputs
from mlops.rollout.sums.body import pack, unpack
from mlops.sidecar.counts.pairs import Pair, Pairs
from mlops.sidecar.counts.reading import OutputReader
from mlops.tap import Why
from mlops.tap.layout import BUCKETS, CANARY_ROLE, COMPARED_ROLE, SHADOW_ROLE, STABLE_ROLE

#: A window is held for records that come late for so long, by the times of the version's records.
HOLD_NS = 60_000_000_000
_EDGES_NS = histogram.lower_edges_ns()
_RUN = STAGES.index("run")
_ROLES = (STABLE_ROLE, CANARY_ROLE, SHADOW_ROLE)
_WHYS = (Why.SPLIT, Why.SHADOW)


class _Cells(NamedTuple):
    """The cell of each row of outputs, how many there are, and which records have rows."""

    cells: NDArray[np.int64]
    width: int
    has: NDArray[np.bool_]

    def bins(self, batch: Batch, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Rows of the chosen records by key bucket and cell."""
        rows = chosen[batch.output_records]
        bucket = batch.key_bucket[batch.output_records][rows].astype(np.int64)
        flat = np.bincount(bucket * self.width + self.cells[rows], minlength=BUCKETS * self.width)
        return flat.reshape(BUCKETS, self.width).astype(np.int64)


class Key(NamedTuple):
    """Which window: its version in its role at one boot."""

    boot: str
    model: str
    version: str
    role: int
    start_ns: int


class OutputWindows:
    """What came in which window. A function of the batches that were added, but for pairs over a restart.

    Invariant: a window is held until records of its version are `HOLD_NS` further on; one that comes later still is
    counted as late and left out, so that what was written is never written over by a part of it.

    Parameters
    ----------
    readers : callable
        What of a version's outputs is counted (model, version, digest); None where its package cannot be had.
    keep_ns : int
        How long windows are kept: older records are not counted.
    """

    def __init__(
        self,
        reporter: str,
        window_ns: int,
        readers: Callable[[str, str, str], OutputReader | None],
        clock: Callable[[], int] = time.time_ns,
        keep_ns: int = 1 << 62,
    ) -> None:
        self._reporter, self._window_ns, self._readers, self._clock = reporter, window_ns, readers, clock
        self._windows: dict[Key, CountedOutputs] = {}
        self._changed: set[Key] = set()
        #: By boot, model and version: the newest time, and up to where windows were let go.
        self._newest: dict[tuple[str, str, str], int] = {}
        self._let_go: dict[tuple[str, str, str], int] = {}
        self._pairs: dict[str, Pairs] = {}
        #: What is from before it is not counted: nobody would keep it, or it was counted before.
        self._from_ns = self._start(clock() - keep_ns)
        self.late = 0

    def __len__(self) -> int:
        """Windows that are held."""
        return len(self._windows)

    def add(self, batch: Batch) -> None:
        """Takes records of one version."""
        wanted = (batch.status == 0) & np.isin(batch.role, _ROLES) & np.isin(batch.why, _WHYS)
        wanted &= batch.time_ns >= self._from_ns
        if not wanted.any():
            return
        reader = self._readers(batch.model, batch.version, batch.digest)
        starts = batch.time_ns // self._window_ns * self._window_ns
        cells = None if reader is None else _cells(reader, batch)
        for boot in np.unique(batch.boot[wanted]).tolist():
            of_boot = wanted & (batch.boot == boot)
            stream = boot, batch.model, batch.version
            is_late = of_boot & (starts < self._bound(stream))
            self.late += int(is_late.sum())
            of_boot &= ~is_late
            for role in np.unique(batch.role[of_boot]).tolist():
                for start in np.unique(starts[of_boot & (batch.role == role)]).tolist():
                    chosen = of_boot & (batch.role == role) & (starts == start)
                    key = Key(boot, batch.model, batch.version, role, start)
                    self._count(key, batch, chosen, cells)
        if reader is not None:
            self._pair(batch, wanted, reader)
        self._hold(batch, wanted)

    def changed(self, before_ns: int) -> list[tuple[str, CountedOutputs]]:
        """The windows, with their models, that end by a time and were not given since they changed; once each."""
        keys = sorted(key for key in self._changed if key.start_ns + self._window_ns <= before_ns)
        self._changed.difference_update(keys)
        found = [(key.model, self._windows[key]) for key in keys]
        for key in keys:
            self._release(key)
        return found

    def checkpoint(self) -> bytes:
        """Everything but what waits for its pair."""
        arrays: dict[str, NDArray[np.int64]] = {}
        for place, window in enumerate(self._windows.values()):
            arrays |= {f"{place} {name}": each for name, each in window.arrays().items()}
        head = {
            "window_ns": self._window_ns,
            "windows": [[*key] for key in self._windows],
            "changed": [[*key] for key in self._changed],
            "newest": [[*stream, time] for stream, time in self._newest.items()],
            "let_go": [[*stream, time] for stream, time in self._let_go.items()],
            "late": self.late,
        }
        text = json.dumps(head).encode()
        return len(text).to_bytes(4, "little") + text + pack(arrays)

    def restore(self, data: bytes) -> None:
        """Takes up what `checkpoint` gave; after windows of another length it begins with now. Raises ValueError."""
        try:
            size = int.from_bytes(data[:4], "little")
            head, arrays = json.loads(data[4 : 4 + size]), unpack(data[4 + size :])
            by_place: dict[int, dict[str, NDArray[np.int64]]] = {}
            for name, each in arrays.items():
                place, _, field = name.partition(" ")
                by_place.setdefault(int(place), {})[field] = each
            window_ns = int(head["window_ns"])
            windows = {
                Key(*key): self._of(Key(*key), window_ns, by_place[place]) for place, key in enumerate(head["windows"])
            }
            newest = {(boot, model, version): int(time) for boot, model, version, time in head["newest"]}
            let_go = {(boot, model, version): int(time) for boot, model, version, time in head["let_go"]}
            changed, late = {Key(*key) for key in head["changed"]}, int(head["late"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a checkpoint of outputs: {error}") from None
        if window_ns != self._window_ns:
            # What was written under the other length must not be there under this one too.
            self._from_ns = self._start(self._clock())
            return
        self._windows, self._changed = windows, changed
        self._newest, self._let_go, self.late = newest, let_go, late

    def _start(self, time_ns: int) -> int:
        return time_ns // self._window_ns * self._window_ns

    def _count(self, key: Key, batch: Batch, chosen: NDArray[np.bool_], cells: "_Cells | None") -> None:
        window = self._windows.get(key) or self._empty(key)
        total = _histogram(batch.stage_ns[chosen].sum(axis=1, dtype=np.int64))
        run = _histogram(batch.stage_ns[chosen, _RUN].astype(np.int64))
        answers = int(chosen.sum())
        bins, unbinned = window.bins, window.unbinned
        found = None if cells is None else cells.bins(batch, chosen)
        if cells is None or found is None or (bins is not None and bins.shape != found.shape):
            unbinned += answers
        else:
            bins = found if bins is None else bins + found
            unbinned += answers - int((chosen & cells.has).sum())
        self._put(
            key,
            window,
            batch.position[chosen],
            batch.missed[chosen],
            answers=window.answers + answers,
            bins=bins,
            unbinned=unbinned,
            total_ns=window.total_ns + total,
            run_ns=window.run_ns + run,
        )

    def _pair(self, batch: Batch, wanted: NDArray[np.bool_], reader: OutputReader) -> None:
        is_shadow = batch.role == SHADOW_ROLE
        pairs = self._pairs.setdefault(batch.model, Pairs())
        found: list[Pair] = []
        for chosen, add in ((wanted & ~is_shadow, pairs.add_live), (wanted & is_shadow, pairs.add_shadow)):
            signals = reader.signals(batch, chosen) if chosen.any() else None
            if signals is not None:
                found += add(signals)
        for pair in found:
            stream = pair.boot, batch.model, pair.version
            start = self._start(pair.time_ns)
            if start < self._bound(stream):
                self.late += 1
                continue
            key = Key(*stream, COMPARED_ROLE, start)
            window = self._windows.get(key) or self._empty(key)
            # Its own: another window of the same start may hold what it had before.
            pairs_by_bucket, flips = window.pairs.copy(), window.flips.copy()
            pairs_by_bucket[pair.key_bucket] += pair.rows
            flips[pair.key_bucket] += pair.flips
            self._put(key, window, batch.position, batch.missed, pairs=pairs_by_bucket, flips=flips)

    def _put(
        self, key: Key, window: CountedOutputs, position: NDArray[np.int64], missed: NDArray[np.int64], **fields: Any
    ) -> None:
        is_new = key not in self._windows
        self._windows[key] = replace(
            window,
            positions=_span(None if is_new else window.positions, position),
            missed=_span(None if is_new else window.missed, missed),
            **fields,
        )
        self._changed.add(key)

    def _hold(self, batch: Batch, wanted: NDArray[np.bool_]) -> None:
        for boot in np.unique(batch.boot[wanted]).tolist():
            stream = boot, batch.model, batch.version
            newest = int(batch.time_ns[wanted & (batch.boot == boot)].max())
            self._newest[stream] = max(self._newest.get(stream, 0), newest)
            self._let_go_before(stream, self._newest[stream] - HOLD_NS)

    def let_go(self, before_ns: int) -> None:
        """Lets go of windows from before a time, whatever came since; for who knows that nothing is on its way."""
        for stream in list(self._newest):
            self._let_go_before(stream, before_ns - HOLD_NS)

    def _let_go_before(self, stream: tuple[str, str, str], time_ns: int) -> None:
        bound = self._start(time_ns)
        if bound <= self._let_go.get(stream, 0):
            return
        self._let_go[stream] = bound
        for key in [key for key in self._windows if key[:3] == stream]:
            self._release(key)

    def _release(self, key: Key) -> None:
        """Forgets a window that nothing may be added to any more, once it was given."""
        if key not in self._changed and key.start_ns < self._bound(key[:3]):
            del self._windows[key]

    def _bound(self, stream: tuple[str, str, str]) -> int:
        # A clock that was ahead for a while must not make everything late until it is there again.
        return min(self._let_go.get(stream, 0), self._clock() - HOLD_NS)

    def _empty(self, key: Key) -> CountedOutputs:
        zeros = {
            "answers": np.array(0),
            "unbinned": np.array(0),
            "total_ns": np.zeros(histogram.BUCKETS, np.int64),
            "run_ns": np.zeros(histogram.BUCKETS, np.int64),
            "pairs": np.zeros(BUCKETS, np.int64),
            "flips": np.zeros(BUCKETS, np.int64),
            "positions": np.zeros(2, np.int64),
            "missed": np.zeros(2, np.int64),
        }
        return self._of(key, self._window_ns, zeros)

    def _of(self, key: Key, window_ns: int, arrays: Mapping[str, NDArray[np.int64]]) -> CountedOutputs:
        return CountedOutputs.of_arrays(
            arrays,
            {
                "reporter": self._reporter,
                "boot": key.boot,
                "version": int(key.version),
                "role": key.role,
                "start_ns": key.start_ns,
                "window_ns": window_ns,
            },
        )


def _cells(reader: OutputReader, batch: Batch) -> _Cells | None:
    cells = reader.cells(batch)
    if cells is None:
        return None
    has = np.zeros(len(batch), np.bool_)
    has[batch.output_records] = True
    return _Cells(cells, reader.width, has)


def _histogram(durations_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    places = np.searchsorted(_EDGES_NS, durations_ns, side="right") - 1
    return np.bincount(places, minlength=histogram.BUCKETS).astype(np.int64)


def _span(before: tuple[int, int] | None, values: NDArray[np.int64]) -> tuple[int, int]:
    first, last = int(values.min()), int(values.max())
    return (first, last) if before is None else (min(before[0], first), max(before[1], last))
