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
        Covers `value`, which is changed with it held. No disk is waited for with it held.
    value
        What the file says. A value is never changed in itself.
    write : callable
        Replaces the file. Raises OSError where the disk refuses.
    """

    def __init__(
        self, name: str, lock: AbstractContextManager[object], value: _Value, write: Callable[[_Value], None]
    ) -> None:
        self.value = value
        self._kept = value
        self._name = name
        self._lock = lock
        self._write = write
        #: One writes at a time, and what is newest then. Taken before `lock`, never with it held.
        self._disk = threading.Lock()
        self._is_refused = False

    def keep(self) -> OSError | None:
        """Writes it where that was not done yet; called without the lock. Returns what kept it from being written."""
        with self._disk:
            with self._lock:
                value = self.value
            if value is self._kept:
                return None
            try:
                self._write(value)
            except OSError as error:
                if not self._is_refused:
                    _log.error("decision_not_written", what=self._name, error=error.strerror)
                self._is_refused = True
                return error
            if self._is_refused:
                _log.info("decision_written", what=self._name)
            self._kept, self._is_refused = value, False
            return None
