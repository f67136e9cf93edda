"""Frees retired versions on a thread of its own: dropping a large session takes tens of milliseconds."""

import contextlib
import ctypes
import gc
import threading
from collections.abc import Sequence

from server.engine.python.runtime import Runtime

_POLL_S = 0.1
#: A request that has just finished may still hold its runtime for the rest of its frame's life.
_QUIET_POLLS = 5


class Reaper:
    """Holds retired runtimes until no request uses them, then drops them and returns their memory to the system."""

    def __init__(self) -> None:
        self._retired: list[tuple[Runtime, int]] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def retire(self, runtimes: Sequence[Runtime]) -> None:
        """Takes runtimes that no installed plan names any more."""
        with self._lock:
            self._retired += [(runtime, 0) for runtime in runtimes]
        self._work.set()

    def stop(self) -> None:
        """Ends the thread; what is still held goes with the process."""
        self._stopping.set()
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._work.wait()
            if self._stopping.wait(_POLL_S):
                return
            if self._drop_idle():
                gc.collect()
                _trim()

    def _drop_idle(self) -> bool:
        with self._lock:
            kept = [
                (runtime, quiet + 1 if runtime.in_flight == 0 else 0)
                for runtime, quiet in self._retired
                if runtime.in_flight or quiet < _QUIET_POLLS
            ]
            dropped = [runtime for runtime, quiet in self._retired if not runtime.in_flight and quiet >= _QUIET_POLLS]
            self._retired = kept
            if not kept:
                self._work.clear()
        # The sessions are freed as this list goes, here and not on a thread that answers requests.
        return bool(dropped)


def _trim() -> None:
    """Hands freed pages back to the system where the C library is glibc, which keeps them otherwise."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
