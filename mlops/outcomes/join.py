"""Joining predictions of one version with outcomes, whichever comes first."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.outcomes.joined import JoinedRows, joined_rows
from mlops.outcomes.ledger import Key, Ledger
from mlops.outcomes.periods import period_starts
from mlops.outcomes.predictions import Predictions, predictions_of
from mlops.package import Manifest
from mlops.prediction_log import Batch

#: Rows that wait for an outcome; beyond it the oldest are let go, and counted.
MAX_WAITING = 200_000
#: Rows that have one.
MAX_JOINED = 1_000_000


class VersionJoin:
    """Predictions of one version: those that wait for an outcome, as they came, and those that have one.

    A row is named by its entity and event time where it has both, else by its request; of several predictions of one
    row the last in the log counts, being the one to act on. What an outcome is worth is the ledger's to say.

    Parameters
    ----------
    ledger : Ledger
        Shared by all versions.
    window : int
        Periods that figures are taken over: rows older than twice that are let go.
    """

    def __init__(
        self,
        manifest: Manifest,
        ledger: Ledger,
        *,
        window: int = 250,
        max_waiting: int = MAX_WAITING,
        max_joined: int = MAX_JOINED,
    ) -> None:
        self.manifest = manifest
        self.let_go = 0
        self._ledger = ledger
        self._window, self._max_waiting, self._max_joined = window, max_waiting, max_joined
        self._waiting: list[_Waiting] = []
        self._joined: dict[Key, _Row] = {}
        self._names: dict[Key, Key] = {}
        self._times: set[int] = set()

    @property
    def waiting(self) -> int:
        """Rows without an outcome."""
        return sum(len(chunk.rows) for chunk in self._waiting)

    @property
    def joined(self) -> int:
        """Rows with an outcome at any horizon."""
        return len(self._joined)

    def add(self, batch: Batch) -> int:
        """Takes in records of this version; returns how many of their rows have an outcome already."""
        rows = predictions_of(batch, self.manifest)
        if not len(rows):
            return 0
        is_known = self._may_be_known(rows)
        for place in np.flatnonzero(is_known).tolist():
            keys = _keys(self.manifest.name, rows, place)
            is_known[place] = keys[0] in self._joined or self._ledger.knows(keys)
            if is_known[place]:
                self._take(rows, place)
        waiting = rows.take(~is_known) if is_known.any() else rows
        if len(waiting):
            self._waiting.append(_Waiting(waiting))
            self._bound_waiting()
        self._bound_joined()
        return int(is_known.sum())

    def resolve(self, key: Key) -> bool:
        """Looks for the row of an outcome that the ledger has just learned; returns whether it is here."""
        names = {self._take(chunk.rows, place) for chunk in self._waiting for place in self._find(chunk, key)}
        for name in names - {key}:
            # The same row under another request, later in the log perhaps.
            for chunk in self._waiting:
                for place in self._find(chunk, name):
                    self._take(chunk.rows, place)
        self._bound_joined()
        return bool(names) or self.holds(key)

    def holds(self, key: Key) -> bool:
        """Whether a row that goes by this key has been joined."""
        return key in self._joined or key in self._names

    def rows(self, horizon: str) -> JoinedRows:
        """The rows whose outcome at this horizon is known."""
        found = [
            (row, value)
            for name, row in self._joined.items()
            if (value := self._ledger.value((name, *row.aliases), horizon)) is not None
        ]
        names = self.manifest.feature_names
        return joined_rows(
            [row.time_ns for row, _ in found],
            [row.entity for row, _ in found],
            [row.key for row, _ in found],
            [row.prediction for row, _ in found],
            [row.signal for row, _ in found],
            [value for _, value in found],
            np.array([row.features for row, _ in found], np.float64).reshape(len(found), len(names)),
            names,
        )

    def _may_be_known(self, rows: Predictions) -> NDArray[np.bool_]:
        times = self._ledger.times(self.manifest.name)
        found = np.isin(rows.event_time_ns, np.array([*times, *self._times], np.int64))
        if self._ledger.request_ids:
            shared = self._ledger.request_ids.intersection(rows.request_id.tolist())
            if shared:
                found |= np.fromiter((request in shared for request in rows.request_id), np.bool_, len(rows))
        return found

    def _find(self, chunk: "_Waiting", key: Key) -> list[int]:
        return list(chunk.find(self.manifest.name, key))

    def _take(self, rows: Predictions, place: int) -> Key:
        """Joins a row, under its name; of several the last in the log is what the name stands for."""
        name, *others = _keys(self.manifest.name, rows, place)
        before = self._joined.get(name)
        aliases = tuple(dict.fromkeys((*(before.aliases if before else ()), *others)))
        for alias in others:
            self._names[alias] = name
        if len(name) == 3:
            self._times.add(name[2])
        if before is not None and before.position > int(rows.position[place]):
            before.aliases = aliases
        else:
            self._joined[name] = _Row(rows, place, aliases)
        return name

    def _bound_waiting(self) -> None:
        while self._waiting and self.waiting > self._max_waiting:
            self.let_go += len(self._waiting.pop(0).rows)

    def _bound_joined(self) -> None:
        if len(self._joined) <= self._max_joined and len(self._joined) <= 2 * self._window:
            return
        per_year = self.manifest.outcomes.periods_per_year if self.manifest.outcomes else 252.0
        times = np.fromiter((row.time_ns for row in self._joined.values()), np.int64, len(self._joined))
        periods = period_starts(times, per_year)
        starts, counts = np.unique(periods, return_counts=True)
        held = np.cumsum(counts[::-1])[::-1]
        kept = (np.arange(len(starts))[::-1] < 2 * self._window) & (held <= self._max_joined)
        if kept.all() or not kept.any():
            return
        oldest = starts[kept.argmax()]
        for name, period in zip(list(self._joined), periods.tolist(), strict=True):
            if period < oldest:
                for alias in self._joined.pop(name).aliases:
                    self._names.pop(alias, None)
        self._times = {name[2] for name in self._joined if len(name) == 3}


class _Row:
    """A prediction that has an outcome."""

    __slots__ = ("aliases", "entity", "features", "key", "position", "prediction", "signal", "time_ns")

    def __init__(self, rows: Predictions, place: int, aliases: tuple[Key, ...]) -> None:
        self.position = int(rows.position[place])
        self.time_ns = int(rows.event_time_ns[place]) or int(rows.time_ns[place])
        self.entity: str = rows.entity[place]
        self.key = f"{rows.request_id[place]}/{rows.row[place]}"
        self.prediction = float(rows.prediction[place])
        self.signal = float(rows.signal[place])
        self.features: NDArray[Any] = rows.features[place].copy()
        self.aliases = aliases


class _Waiting:
    """Rows of one batch; what they can be found by is made when an outcome asks for it."""

    def __init__(self, rows: Predictions) -> None:
        self.rows = rows
        self._requests: dict[Key, list[int]] | None = None

    def find(self, model: str, key: Key) -> Iterator[int]:
        """Places of the rows that go by this key, in the order of the log."""
        if len(key) == 2:
            if self._requests is None:
                self._requests = {}
                for place, named in enumerate(zip(self.rows.request_id, self.rows.row.tolist(), strict=True)):
                    self._requests.setdefault(named, []).append(place)
            yield from self._requests.get(key, ())
        elif key[0] == model:
            for place in np.flatnonzero(self.rows.event_time_ns == key[2]).tolist():
                if self.rows.entity[place] == key[1]:
                    yield place


def _keys(model: str, rows: Predictions, place: int) -> tuple[Key, ...]:
    """What a row is named by, then what else it goes by."""
    request: Key = (rows.request_id[place], int(rows.row[place]))
    entity, time = rows.entity[place], int(rows.event_time_ns[place])
    return ((model, entity, time), request) if entity and time else (request,)
