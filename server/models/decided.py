"""A decision of this server and its file: obeyed first, written after that, and again where a disk refused it."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

import structlog

_log = structlog.get_logger()
_Value = TypeVar("_Value")


class Decided(Generic[_Value]):
    """What counts is `value`; the file follows it.

    Parameters
    ----------
    lock : context manager
        Covers `value`. No disk is waited for with it held.
    write : callable
        Replaces the file. Raises OSError where the disk refuses.
    """

    def __init__(
        self, name: str, lock: AbstractContextManager[object], value: _Value, write: Callable[[_Value], None]
    ) -> None:
        self.value = value
        self._name = name
        self._lock = lock
        self._write = write
        #: One writes at a time, and what is newest then. Taken before `lock`, never with it held.
        self._disk = threading.Lock()
        self._is_written = True
        self._is_refused = False

    def change(self, value: _Value) -> None:
        """Decides otherwise; called with the lock held."""
        self.value = value
        self._is_written = False

    def keep(self) -> OSError | None:
        """Writes it where that was not done yet; called without the lock. Returns what kept it from being written."""
        with self._disk:
            with self._lock:
                value, is_written, self._is_written = self.value, self._is_written, True
            if is_written:
                return None
            try:
                self._write(value)
            except OSError as error:
                with self._lock:
                    self._is_written = False
                if not self._is_refused:
                    _log.error("decision_not_written", what=self._name, error=error.strerror)
                self._is_refused = True
                return error
            if self._is_refused:
                _log.info("decision_written", what=self._name)
            self._is_refused = False
            return None
