"""Work that yields the processor to the threads that serve."""

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
_NICENESS = 10


def run_yielding(work: Callable[[], T]) -> T:
    """Runs `work` on a thread of its own at low priority, and returns or raises what it does.

    A thread of its own, because one that may not raise its priority keeps what it was lowered to. For work that leaves
    the interpreter: while it holds the interpreter's lock, those that wait for the lock wait at its priority.
    """
    done: Future[T] = Future()

    def run() -> None:
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            # On Linux this is the priority of one thread.
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            done.set_exception(error)

    # A daemon, as the threads that load are: the end of the process waits for no load.
    threading.Thread(target=run, name="load-yielding", daemon=True).start()
    return done.result()
