"""What is known of outcomes: the last known value of each prediction and horizon, or the one known at some time."""

from collections.abc import Callable
from itertools import islice
from typing import Protocol

import numpy as np

from mlops.outcomes.packing import Columns, texts

#: Names a predicted row: model, entity and event time, or request id and row.
Key = tuple[str, str, int] | tuple[str, int]


class Outcome(Protocol):
    """One outcome as it was stored; a request id that is empty means that entity and event time name the row."""

    @property
    def outcome_id(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def row(self) -> int: ...
    @property
    def model(self) -> str: ...
    @property
    def entity(self) -> str: ...
    @property
    def event_time_ns(self) -> int: ...
    @property
    def horizon(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def available_at_ns(self) -> int: ...
    @property
    def recorded_at_ns(self) -> int: ...
    @property
    def order(self) -> int: ...


def key_of(outcome: Outcome) -> Key:
    """Which row an outcome is of."""
    if outcome.request_id:
        return outcome.request_id, outcome.row
    return outcome.model, outcome.entity, outcome.event_time_ns


class Ledger:
    """Values by prediction and horizon; of several the one that became available last, then the one written last.

    So corrections replace what they correct, in whatever order outcomes arrive.

    Parameters
    ----------
    as_of_ns : int, optional
        Knows only what was recorded and available by then: what anybody could have known. Otherwise the last known.
    """

    def __init__(self, as_of_ns: int | None = None) -> None:
        self._as_of_ns = as_of_ns
        self._known: dict[Key, dict[str, tuple[int, int, float]]] = {}
        self._request_ids: set[str] = set()
        self._times: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, outcome: Outcome) -> Key | None:
        """Takes an outcome in and returns its key; None where nobody could have known it yet."""
        if self._as_of_ns is not None and max(outcome.recorded_at_ns, outcome.available_at_ns) > self._as_of_ns:
            return None
        key = key_of(outcome)
        found = (outcome.available_at_ns, outcome.order, outcome.value)
        values = self._known.setdefault(key, {})
        if outcome.horizon not in values or values[outcome.horizon][:2] < found[:2]:
            values[outcome.horizon] = found
        if outcome.request_id:
            self._request_ids.add(outcome.request_id)
        else:
            self._times.setdefault(outcome.model, set()).add(outcome.event_time_ns)
        return key

    def value(self, keys: tuple[Key, ...], horizon: str) -> float | None:
        """The value of a row that goes by several keys; the latest of what is known under any of them."""
        found = [self._known[key][horizon] for key in keys if key in self._known and horizon in self._known[key]]
        return max(found)[2] if found else None

    def knows(self, keys: tuple[Key, ...]) -> bool:
        """Whether there is any outcome of this row."""
        return any(key in self._known for key in keys)

    def series(self, model: str, horizon: str) -> list[tuple[str, int, float]]:
        """All (entity, event time, value) of a horizon that were named by entity: in order of time, then entity."""
        found = [
            (key[1], key[2], values[horizon][2])
            for key, values in self._known.items()
            if len(key) == 3 and key[0] == model and horizon in values
        ]
        return sorted(found, key=lambda each: (each[1], each[0]))

    @property
    def request_ids(self) -> set[str]:
        """Requests that any outcome names."""
        return self._request_ids

    def times(self, model: str) -> set[int]:
        """Event times that outcomes of a model name."""
        return self._times.get(model, set())

    def bound(self, keys: int, is_held: Callable[[Key], bool]) -> int:
        """Lets outcomes go that no row here has, those learned first before others, until at most so many keys remain.

        Returns
        -------
        int
            How many were let go.
        """
        spare = len(self._known) - keys
        gone = list(islice((key for key in self._known if not is_held(key)), max(spare, 0)))
        for key in gone:
            del self._known[key]
        if gone:
            self._index()
        return len(gone)

    def state(self) -> Columns:
        """Everything known, for a checkpoint."""
        known = [(key, horizon, found) for key, values in self._known.items() for horizon, found in values.items()]
        return {
            "ledger.name": texts(key[0] for key, _, _ in known),
            "ledger.entity": texts(key[1] if len(key) == 3 else "" for key, _, _ in known),
            "ledger.number": np.array([key[-1] for key, _, _ in known], np.int64),
            "ledger.is_request": np.array([len(key) == 2 for key, _, _ in known], np.bool_),
            "ledger.horizon": texts(horizon for _, horizon, _ in known),
            "ledger.available": np.array([found[0] for _, _, found in known], np.int64),
            "ledger.order": np.array([found[1] for _, _, found in known], np.int64),
            "ledger.value": np.array([found[2] for _, _, found in known], np.float64),
        }

    def restore(self, columns: Columns) -> None:
        """Takes up what `state` gave, into an empty ledger."""
        names = ("name", "entity", "number", "is_request", "horizon", "available", "order", "value")
        for name, entity, number, is_request, horizon, available, order, value in zip(
            *(columns[f"ledger.{each}"].tolist() for each in names), strict=True
        ):
            key: Key = (name, number) if is_request else (name, entity, number)
            self._known.setdefault(key, {})[horizon] = (available, order, value)
        self._index()

    def _index(self) -> None:
        self._request_ids = {key[0] for key in self._known if len(key) == 2}
        self._times = {}
        for key in self._known:
            if len(key) == 3:
                self._times.setdefault(key[0], set()).add(key[2])
