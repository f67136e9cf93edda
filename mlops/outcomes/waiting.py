"""Predicted rows that wait for an outcome, as they came; what finds them is made when an outcome asks."""

from functools import cached_property

import numpy as np

from mlops.outcomes.ledger import Key
from mlops.outcomes.predictions import Predictions
from mlops.statistics.rows import Integers


class Waiting:
    """A run of rows; what they can be found by is made when an outcome asks for it."""

    def __init__(self, rows: Predictions) -> None:
        self.rows = rows
        self._is_taken = np.zeros(len(rows), np.bool_)
        self._names: dict[int, dict[str, list[int]]] = {}

    @property
    def left(self) -> Predictions:
        """The rows that have no outcome yet."""
        return self.rows.take(~self._is_taken) if self._is_taken.any() else self.rows

    def __len__(self) -> int:
        return len(self.rows) - int(self._is_taken.sum())

    def take(self, place: int) -> None:
        """Says that a row has an outcome; it is found until the run is made anew."""
        self._is_taken[place] = True

    def find(self, model: str, key: Key) -> list[int]:
        """Places of the rows that go by this key, in the order of the log."""
        if len(key) == 2:
            return self._requests.get(key, [])
        if key[0] != model:
            return []
        return self._at(key[2]).get(key[1], [])

    def _at(self, time_ns: int) -> dict[str, list[int]]:
        """Places of the rows of one event time by entity; outcomes of one time come together."""
        if time_ns not in self._names:
            order, times = self._by_time
            first, last = np.searchsorted(times, time_ns, "left"), np.searchsorted(times, time_ns, "right")
            found: dict[str, list[int]] = {}
            for place in order[first:last].tolist():
                found.setdefault(self.rows.entity[place], []).append(place)
            self._names[time_ns] = found
        return self._names[time_ns]

    @cached_property
    def _requests(self) -> dict[Key, list[int]]:
        found: dict[Key, list[int]] = {}
        for place, named in enumerate(zip(self.rows.request_id.tolist(), self.rows.row.tolist(), strict=True)):
            found.setdefault(named, []).append(place)
        return found

    @cached_property
    def _by_time(self) -> tuple[Integers, Integers]:
        order = np.argsort(self.rows.event_time_ns, kind="stable").astype(np.int64)
        return order, self.rows.event_time_ns[order]


def keys_of(model: str, rows: Predictions, place: int) -> tuple[Key, ...]:
    """What a row is named by, then what else it goes by."""
    request: Key = (rows.request_id[place], int(rows.row[place]))
    entity, time = rows.entity[place], int(rows.event_time_ns[place])
    return ((model, entity, time), request) if entity and time else (request,)
