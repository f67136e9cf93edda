"""What came of predictions, as it was reported: appended, in one order, on disk before it is acknowledged."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tickserve.errors import DamagedLogError

OUTCOMES_FILE = "outcomes.db"
#: What the reporter of a strategy's profit and loss names as the horizon; its entity is the strategy.
PNL = "pnl"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS outcomes (
    "order" INTEGER PRIMARY KEY AUTOINCREMENT,
    outcome_id TEXT NOT NULL UNIQUE,
    request_id TEXT NOT NULL,
    row INTEGER NOT NULL,
    model TEXT NOT NULL,
    entity TEXT NOT NULL,
    event_time_ns INTEGER NOT NULL,
    horizon TEXT NOT NULL,
    value REAL NOT NULL,
    available_at_ns INTEGER NOT NULL,
    recorded_at_ns INTEGER NOT NULL
)
"""
_COLUMNS = "outcome_id, request_id, row, model, entity, event_time_ns, horizon, value, available_at_ns, recorded_at_ns"
#: SQLite takes at least this many parameters.
_PARAMETERS = 900
_PAGE = 10_000


class ReportedOutcome(NamedTuple):
    """One outcome as reported: by request and row, or by model, entity and event time; the others are empty or 0.

    `value` is finite; `available_at_ns` says when it became known, Unix nanoseconds.
    """

    outcome_id: str
    request_id: str
    row: int
    model: str
    entity: str
    event_time_ns: int
    horizon: str
    value: float
    available_at_ns: int


class StoredOutcome(NamedTuple):
    """The same as stored. `order` rises by outcome, and `recorded_at_ns` never falls with it."""

    outcome_id: str
    request_id: str
    row: int
    model: str
    entity: str
    event_time_ns: int
    horizon: str
    value: float
    available_at_ns: int
    recorded_at_ns: int
    order: int

    @property
    def prediction(self) -> tuple[str, int, str, str, int, str]:
        """Which row of which prediction at which horizon it is about."""
        return self.request_id, self.row, self.model, self.entity, self.event_time_ns, self.horizon


class OutcomeStore:
    """The one writer of the outcomes of a log; any thread.

    Parameters
    ----------
    now_ns : callable
        Wall clock, Unix nanoseconds. One that is set back does not make `recorded_at_ns` fall.

    Raises
    ------
    DamagedLogError
        Where the file is no database.
    OSError
        Where it cannot be opened now, such as on a disk that is full.
    """

    def __init__(self, folder: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            folder / OUTCOMES_FILE, isolation_level=None, check_same_thread=False, timeout=10.0
        )
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            # Acknowledged means that it survives the machine, not the process alone.
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(_SCHEMA)
            row = self._connection.execute('SELECT max("order"), max(recorded_at_ns) FROM outcomes').fetchone()
        except sqlite3.OperationalError as error:
            self._connection.close()
            raise OSError(f"{folder / OUTCOMES_FILE}: {error}") from None
        except sqlite3.DatabaseError as error:
            self._connection.close()
            path = folder / OUTCOMES_FILE
            raise DamagedLogError(
                f"{path} is no database of outcomes: {error}; move it away, and report outcomes again", field=str(path)
            ) from None
        #: The order of the last outcome.
        self.last_order = int(row[0] or 0)
        self._recorded_at_ns = int(row[1] or 0)

    def add(self, outcomes: Sequence[ReportedOutcome]) -> list[StoredOutcome]:
        """Stores those whose id is new, all or none, on disk when this returns; returns them.

        Raises sqlite3.Error where they cannot be written.
        """
        with self._lock:
            known = self._known({outcome.outcome_id for outcome in outcomes})
            new: dict[str, ReportedOutcome] = {}
            for outcome in outcomes:
                if outcome.outcome_id not in known:
                    new.setdefault(outcome.outcome_id, outcome)
            if not new:
                return []
            recorded_at_ns = max(self._now_ns(), self._recorded_at_ns)
            first = self.last_order + 1
            # A figure of -0 would come back as 0.
            stored = [
                StoredOutcome(
                    *outcome[:7], outcome.value + 0.0, outcome.available_at_ns, recorded_at_ns, first + number
                )
                for number, outcome in enumerate(new.values())
            ]
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(
                    f'INSERT INTO outcomes ({_COLUMNS}, "order") VALUES (?,?,?,?,?,?,?,?,?,?,?)',  # noqa: S608
                    stored,
                )
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            self.last_order, self._recorded_at_ns = stored[-1].order, recorded_at_ns
            return stored

    def read(self, after_order: int = -1) -> Iterator[StoredOutcome]:
        """What was stored after an order, in its order."""
        return read_outcomes(self._folder, after_order=after_order)

    def forget(self, before_ns: int, needed_from: int) -> int:
        """Removes what was recorded before a time, but from the order `needed_from` on; returns how many."""
        with self._lock:
            done = self._connection.execute(
                'DELETE FROM outcomes WHERE recorded_at_ns < ? AND "order" < ?', (before_ns, needed_from)
            )
            return done.rowcount

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def _known(self, ids: Collection[str]) -> set[str]:
        found: set[str] = set()
        wanted = list(ids)
        for start in range(0, len(wanted), _PARAMETERS):
            part = wanted[start : start + _PARAMETERS]
            marks = ",".join("?" * len(part))
            query = f"SELECT outcome_id FROM outcomes WHERE outcome_id IN ({marks})"  # noqa: S608 - marks alone
            found.update(name for (name,) in self._connection.execute(query, part))
        return found


def read_outcomes(
    folder: Path, *, after_order: int = -1, until_recorded_ns: int | None = None
) -> Iterator[StoredOutcome]:
    """The outcomes of a log in their order: all, or those that had been recorded by a time ("as known at").

    Parameters
    ----------
    folder : Path
        Of the log.
    after_order : int
        Those behind this order alone.
    until_recorded_ns : int, optional
        Those that were recorded at or before this time alone.
    """
    path = folder / OUTCOMES_FILE
    if not path.exists():
        return
    until = (1 << 63) - 1 if until_recorded_ns is None else until_recorded_ns
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
    try:
        while True:
            rows = connection.execute(
                f'SELECT {_COLUMNS}, "order" FROM outcomes WHERE "order" > ? AND recorded_at_ns <= ? '  # noqa: S608
                'ORDER BY "order" LIMIT ?',
                (after_order, until, _PAGE),
            ).fetchall()
            for row in rows:
                yield StoredOutcome(*row)
            if len(rows) < _PAGE:
                return
            after_order = rows[-1][-1]
    finally:
        connection.close()


def last_known(outcomes: Iterable[StoredOutcome]) -> list[StoredOutcome]:
    """Of several for one prediction and horizon the one that became known last, in their order; the later of equals."""
    kept: dict[tuple[str, int, str, str, int, str], StoredOutcome] = {}
    for outcome in outcomes:
        before = kept.get(outcome.prediction)
        if before is None or (outcome.available_at_ns, outcome.order) > (before.available_at_ns, before.order):
            kept[outcome.prediction] = outcome
    return sorted(kept.values(), key=lambda outcome: outcome.order)
