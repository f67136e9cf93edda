"""The registry's side of counting, on a thread of its own: the log and the looks never wait for a database."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import Connection

from mlops.registry.database import Database
from mlops.rollout.sums import CountedWindow
from mlops.rollout.sums.write import (
    Progress,
    forget,
    read_progress,
    require_name,
    touch,
    write_outputs,
    write_progress,
    write_windows,
)
from mlops.sidecar.counts.pending import OutputRow, Pending
from tickserve.errors import TickserveError, UnknownError

_log = structlog.get_logger()
#: The least time between two transactions, and the longest while nothing is written.
_STEP_S, _TOUCH_S = 0.5, 10.0
#: What failed is tried again after this long, doubled each time up to the longest.
_SHORTEST_S, _LONGEST_S = 1.0, 30.0
_FORGET_S = 600.0
#: At the end of the process a registry that does not answer is waited for so long.
_LAST_S = 5.0
Lengths = Callable[[Connection], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Reached:
    """What is said of all boots that are followed: up to when the log's outputs are given, and what it has lost."""

    boots: frozenset[str] = frozenset()
    outputs_to_ns: int = 0
    dropped: int = 0


class SumsWriter:
    """Writes windows in the order in which they were closed, with how far that is, in one transaction at a time.

    So a process that is killed between any two steps finds how far it was where the windows are. Thread-safe.

    Parameters
    ----------
    open_database : callable
        Raises UnknownError while there is no registry, and whatever else while it cannot be opened.
    writer : str
        Who this is: the same after a restart, another one for each sidecar.
    lengths : callable
        Reads how long the windows of a model are to be, where not the usual.
    keep_ns : int
        How long windows are kept.
    """

    def __init__(
        self,
        open_database: Callable[[], Database],
        reporter: str,
        writer: str,
        *,
        lengths: Lengths,
        keep_ns: int,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._open, self._reporter, self._writer = open_database, reporter, writer
        self._read_lengths, self._keep_ns, self._clock = lengths, keep_ns, clock
        self._lock = threading.Lock()
        self._pending = Pending()
        self._database: Database | None = None
        self._progress: dict[tuple[str, str], Progress] | None = None
        self._reached = self._attempted = Reached()
        self._touch_at = self._forget_at = 0.0
        self._wait_s = _STEP_S
        self._error = ""
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self.lengths: Mapping[str, int] = {}
        #: Whether there is a registry, as far as is known.
        self.has_registry = True
        self.written: dict[str, int] = {}
        self.complete_to_ns: dict[str, int] = {}
        #: What ended the thread; it is for whoever ticks.
        self.fault: Exception | None = None

    @property
    def error(self) -> str:
        """Why nothing can be written now; empty where it can."""
        return self._error

    @property
    def progress(self) -> Mapping[tuple[str, str], Progress] | None:
        """How far each boot was when this process began, by boot and model; None until that could be read."""
        return self._progress

    @property
    def lost_outputs(self) -> int:
        """Rows of outputs that had no room to wait."""
        return self._pending.lost_outputs

    def pending(self, model: str) -> int:
        """Windows of a model that wait."""
        with self._lock:
            return self._pending.windows(model)

    def is_written(self, boot: str) -> bool:
        """Whether nothing of a boot waits."""
        with self._lock:
            return not self._pending.has(boot)

    def add(self, windows: tuple[CountedWindow, ...], progress: Progress) -> None:
        """Takes a window that is over, and how far its boot is with it."""
        with self._lock:
            self._pending.add(windows, progress)

    def reach(self, rows: Sequence[OutputRow], reached: Reached) -> None:
        """Takes rows of outputs, and what is true once they are written."""
        with self._lock:
            self._pending.add_outputs(rows)
            self._reached = reached

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="counts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Writes what waits if the registry takes it soon, and ends; what it does not take is counted again later."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_LAST_S)
        if (self._thread is None or not self._thread.is_alive()) and self._database is not None:
            self._database.close()

    def step(self) -> None:
        """One turn: opens, reads and writes what there is to do now."""
        try:
            database = self._opened()
            if self._progress is None:
                with database.read() as connection:
                    require_name(connection, self._reporter, self._writer)
                    found = read_progress(connection, self._reporter)
                self._progress = found
            with database.read() as connection:
                self.lengths = dict(self._read_lengths(connection))
            self._write(database)
            self._forget(database)
        except UnknownError as error:
            if self.has_registry:
                _log.info("counts_have_no_registry", reason=error.message)
            self.has_registry, self._wait_s = False, _LONGEST_S / 3
        except TickserveError as error:
            self._failed(error)
        else:
            if self._error:
                _log.info("counts_written_again")
            self._error, self._wait_s = "", _STEP_S

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                self.step()
                self._ending.wait(self._wait_s)
            self.step()
        except Exception as error:  # noqa: BLE001 - raised by whoever ticks, so that it is logged and exported
            self.fault = error

    def _opened(self) -> Database:
        if self._database is None:
            self._database = self._open()
            self.has_registry = True
        return self._database

    def _write(self, database: Database) -> None:
        with self._lock:
            if not self._pending.is_attempted:
                # Of one moment with what is written: it is not true of what came since.
                self._attempted = self._reached
            waiting, outputs = self._pending.attempt()
        reached, now = self._attempted, time.monotonic()
        if not waiting and not outputs and (now < self._touch_at or not reached.boots):
            return

        def change(connection: Connection) -> None:
            require_name(connection, self._reporter, self._writer)
            for each in waiting:
                for windows in each.windows:
                    write_windows(connection, each.progress.model, windows)
                progress = replace(each.progress, outputs_to_ns=reached.outputs_to_ns, dropped=reached.dropped)
                write_progress(connection, self._reporter, self._writer, progress)
            write_outputs(connection, outputs)
            touch(connection, self._reporter, reached.boots, reached.outputs_to_ns, reached.dropped)

        database.write(change)
        with self._lock:
            self._pending.done()
        self._touch_at = now + _TOUCH_S
        for each in waiting:
            model = each.progress.model
            self.written[model] = self.written.get(model, 0) + len(each.windows)
            self.complete_to_ns[model] = each.progress.complete_to_ns

    def _forget(self, database: Database) -> None:
        if time.monotonic() >= self._forget_at:
            database.write(lambda connection: forget(connection, self._clock() - self._keep_ns))
            self._forget_at = time.monotonic() + _FORGET_S

    def _failed(self, error: TickserveError) -> None:
        if error.message != self._error:
            _log.error("counts_not_written", error=error.message)
        self._error = error.message
        self._wait_s = max(_SHORTEST_S, min(2 * self._wait_s, _LONGEST_S))
