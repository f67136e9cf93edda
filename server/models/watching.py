"""What is desired, as it was read last: from the source, or from what an earlier process kept of it."""

import threading
import time
from collections.abc import Callable

import structlog

from server.models.events import EventLog
from server.models.source import Source
from server.models.values import Desired
from tickserve.errors import PackageError, TickserveError

_log = structlog.get_logger()
#: A source that has not answered for this long is said to be away.
_LATE_S = 5.0


class DesiredWatch:
    """Reads the source on one thread; everything else on any."""

    def __init__(self, source: Source, events: EventLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._events = events
        self._clock = clock
        self._lock = threading.Lock()
        self._desired: Desired | None = None
        self._read_at = clock()
        self._asked_at: float | None = None
        self._error = ""

    def refresh(self) -> None:
        """Reads the source. Where that fails, what was read last stands; at first, what an earlier process read."""
        with self._lock:
            self._asked_at = self._clock()
        try:
            self._read()
        finally:
            with self._lock:
                self._asked_at = None

    def fall_back(self) -> bool:
        """Obeys what an earlier process read where nothing was read yet; whether there is anything to obey."""
        if self.desired is not None:
            return True
        kept = self._source.last_good()
        if kept is None:
            return False
        with self._lock:
            if self._desired is not None:
                return True
            self._desired = kept
        _log.warning("last_good_state", source=self._source.name, revision=kept.revision)
        self._events.add("last_good_state", message=f"revision {kept.revision} of desired state, as kept on disk")
        return True

    def _read(self) -> None:
        try:
            desired = self._source.read()
            if not desired.models and self._desired is not None and self._desired.models:
                # More likely a volume that went away than a wish to serve nothing.
                raise PackageError(f"every model is gone from the {self._source.name}; the served ones go on")
        except TickserveError as error:
            self._miss(error)
            return
        except Exception as error:  # noqa: BLE001 - whatever a source does, what is served goes on
            _log.exception("source_fault", source=self._source.name)
            self._miss(PackageError(f"{type(error).__name__}: {error}"))
            return
        with self._lock:
            self._desired = desired
            self._read_at = self._clock()
            before, self._error = self._error, ""
        if before:
            _log.info("source_back", source=self._source.name)
            self._events.add("source_back", message=f"desired state is read from the {self._source.name} again")

    @property
    def desired(self) -> Desired | None:
        """What was read last; None before anything was."""
        with self._lock:
            return self._desired

    @property
    def age_s(self) -> float:
        """Since it was read, or since the start; in seconds."""
        with self._lock:
            return self._clock() - self._read_at

    @property
    def error(self) -> str:
        """Why it cannot be read now; empty where it can."""
        with self._lock:
            waited_s = 0.0 if self._asked_at is None else self._clock() - self._asked_at
            if waited_s >= _LATE_S:
                return f"the {self._source.name} has not answered for {waited_s:.0f} s"
            return self._error

    def _miss(self, error: TickserveError) -> None:
        with self._lock:
            is_new = error.message != self._error
            self._error = error.message
        if is_new:
            _log.error("source_failed", source=self._source.name, error=error.message)
            self._events.add("source_failed", message=error.message)
        self.fall_back()
