"""Joining predictions of one version with outcomes, whichever comes first."""

import json
from collections import Counter
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.outcomes.joined import JoinedRows, joined_rows
from mlops.outcomes.ledger import Key, Ledger
from mlops.outcomes.packing import Columns, texts
from mlops.outcomes.periods import period_starts
from mlops.outcomes.predictions import Predictions, concatenated, predictions_of
from mlops.outcomes.waiting import Waiting, keys_of
from mlops.package import Manifest
from mlops.prediction_log import Batch

_COLUMNS = tuple(each.name for each in fields(Predictions))
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
        self._waiting: list[Waiting] = []
        self._joined: dict[Key, _Row] = {}
        self._names: dict[Key, Key] = {}
        self._times: set[int] = set()
        self._periods: Counter[int] = Counter()
        self._per_year = manifest.outcomes.periods_per_year if manifest.outcomes else 252.0

    @property
    def waiting(self) -> int:
        """Rows without an outcome."""
        return sum(len(chunk) for chunk in self._waiting)

    @property
    def joined(self) -> int:
        """Rows with an outcome at any horizon."""
        return len(self._joined)

    def add(self, batch: Batch) -> int:
        """Takes in records of this version; returns how many of their rows have an outcome already."""
        return self._add(predictions_of(batch, self.manifest))

    def _add(self, rows: Predictions) -> int:
        if not len(rows):
            return 0
        is_known = self._may_be_known(rows)
        for place in np.flatnonzero(is_known).tolist():
            keys = keys_of(self.manifest.name, rows, place)
            is_known[place] = keys[0] in self._joined or self._ledger.knows(keys)
            if is_known[place]:
                self._take(rows, place)
        waiting = rows.take(~is_known) if is_known.any() else rows
        if len(waiting):
            self._append(waiting)
            self._bound_waiting()
        self._bound_joined()
        return int(is_known.sum())

    def resolve(self, key: Key) -> bool:
        """Looks for the row of an outcome that the ledger has just learned; returns whether it is here."""
        names = self._take_all(key)
        for name in names - {key}:
            # The same row under another request, later in the log perhaps.
            self._take_all(name)
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

    def state(self) -> tuple[Columns, dict[str, Any]]:
        """Everything held but the ledger: what a new join of the same package goes on from with `restore`."""
        waiting = concatenated([chunk.left for chunk in self._waiting], len(self.manifest.feature_names))
        rows = list(self._joined.values())
        columns = {f"waiting.{name}": getattr(waiting, name) for name in _COLUMNS}
        columns |= {
            "joined.position": np.array([row.position for row in rows], np.int64),
            "joined.time_ns": np.array([row.time_ns for row in rows], np.int64),
            "joined.entity": texts(row.entity for row in rows),
            "joined.key": texts(row.key for row in rows),
            "joined.prediction": np.array([row.prediction for row in rows], np.float64),
            "joined.signal": np.array([row.signal for row in rows], np.float64),
            "joined.features": np.array([row.features for row in rows]).reshape(len(rows), waiting.features.shape[1]),
            "joined.names": texts(json.dumps([name, *row.aliases]) for name, row in self._joined.items()),
        }
        return columns, {"let_go": self.let_go}

    def restore(self, columns: Columns, facts: dict[str, Any]) -> None:
        """Takes up what `state` gave, and joins what the ledger has learned since.

        Raises KeyError or ValueError where that is not whole.
        """
        waiting = Predictions(*(columns[f"waiting.{name}"] for name in _COLUMNS))
        self._waiting = []
        self.let_go = int(facts["let_go"])
        for place, named in enumerate(columns["joined.names"]):
            name, *aliases = [_key(parts) for parts in json.loads(named)]
            row = _Row(
                position=int(columns["joined.position"][place]),
                time_ns=int(columns["joined.time_ns"][place]),
                entity=columns["joined.entity"][place],
                key=columns["joined.key"][place],
                prediction=float(columns["joined.prediction"][place]),
                signal=float(columns["joined.signal"][place]),
                features=columns["joined.features"][place],
                aliases=tuple(aliases),
                per_year=self._per_year,
            )
            self._joined[name] = row
            self._periods[row.period] += 1
            self._names |= dict.fromkeys(aliases, name)
            if len(name) == 3:
                self._times.add(name[2])
        self._add(waiting)

    def _may_be_known(self, rows: Predictions) -> NDArray[np.bool_]:
        times = self._ledger.times(self.manifest.name)
        found = np.isin(rows.event_time_ns, np.array([*times, *self._times], np.int64))
        if self._ledger.request_ids:
            shared = self._ledger.request_ids.intersection(rows.request_id.tolist())
            if shared:
                found |= np.fromiter((request in shared for request in rows.request_id), np.bool_, len(rows))
        return found

    def _take_all(self, key: Key) -> set[Key]:
        """Joins every waiting row that goes by this key; returns their names."""
        names = set()
        for chunk in self._waiting:
            for place in chunk.find(self.manifest.name, key):
                names.add(self._take(chunk.rows, place))
                chunk.take(place)
        return names

    def _take(self, rows: Predictions, place: int) -> Key:
        """Joins a row, under its name; of several the last in the log is what the name stands for."""
        name, *others = keys_of(self.manifest.name, rows, place)
        before = self._joined.get(name)
        aliases = tuple(dict.fromkeys((*(before.aliases if before else ()), *others)))
        for alias in others:
            self._names[alias] = name
        if len(name) == 3:
            self._times.add(name[2])
        if before is not None and before.position > int(rows.position[place]):
            before.aliases = aliases
            return name
        row = self._joined[name] = _row(rows, place, aliases, self._per_year)
        self._periods[row.period] += 1
        if before is not None:
            self._periods[before.period] -= 1
        return name

    def _append(self, rows: Predictions) -> None:
        """Each chunk stays more than twice as long as the next, so that there are few to look through."""
        while self._waiting and len(self._waiting[-1]) <= 2 * len(rows):
            rows = concatenated([self._waiting.pop().left, rows], rows.features.shape[1])
        self._waiting.append(Waiting(rows))

    def _bound_waiting(self) -> None:
        # To the row, so that it does not matter how the log was cut.
        spare = self.waiting - self._max_waiting
        self.let_go += max(spare, 0)
        while spare > 0:
            first = self._waiting.pop(0).left
            if len(first) > spare:
                self._waiting.insert(0, Waiting(first.take(np.arange(spare, len(first)))))
            spare -= len(first)

    def _bound_joined(self) -> None:
        if len(self._joined) <= self._max_joined and len(self._periods) <= 2 * self._window:
            return
        starts = sorted(self._periods, reverse=True)
        held = np.cumsum([self._periods[start] for start in starts])
        kept = max(1, min(2 * self._window, int((held <= self._max_joined).sum())))
        oldest = starts[kept - 1]
        for name in [name for name, row in self._joined.items() if row.period < oldest]:
            row = self._joined.pop(name)
            self._periods[row.period] -= 1
            for alias in row.aliases:
                self._names.pop(alias, None)
        self._periods = +self._periods
        self._times = {name[2] for name in self._joined if len(name) == 3}


class _Row:
    """A prediction that has an outcome."""

    __slots__ = ("aliases", "entity", "features", "key", "period", "position", "prediction", "signal", "time_ns")

    def __init__(
        self,
        *,
        position: int,
        time_ns: int,
        entity: str,
        key: str,
        prediction: float,
        signal: float,
        features: NDArray[Any],
        aliases: tuple[Key, ...],
        per_year: float,
    ) -> None:
        self.position, self.time_ns, self.entity, self.key = position, time_ns, entity, key
        self.prediction, self.signal, self.features, self.aliases = prediction, signal, features, aliases
        self.period = _period(time_ns, per_year)


@lru_cache(4096)
def _period(time_ns: int, per_year: float) -> int:
    return int(period_starts(np.array([time_ns], np.int64), per_year)[0])


def _row(rows: Predictions, place: int, aliases: tuple[Key, ...], per_year: float) -> _Row:
    return _Row(
        position=int(rows.position[place]),
        time_ns=int(rows.event_time_ns[place]) or int(rows.time_ns[place]),
        entity=rows.entity[place],
        key=f"{rows.request_id[place]}/{rows.row[place]}",
        prediction=float(rows.prediction[place]),
        signal=float(rows.signal[place]),
        features=rows.features[place].copy(),
        aliases=aliases,
        per_year=per_year,
    )


def _key(parts: list[Any]) -> Key:
    return (parts[0], int(parts[1])) if len(parts) == 2 else (parts[0], parts[1], int(parts[2]))
