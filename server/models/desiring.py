"""Writing desired state for callers who do not wait for a source that does not answer."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from tickserve.errors import Code, ControlError

_Result = TypeVar("_Result")

#: Each holds a thread of the admin listener, of which a halt needs one at once.
_WAITS = 4


class Desiring:
    """Changes of desired state on threads of their own; by `run` one after the other, so that what hangs holds one.

    Parameters
    ----------
    source : str
        How what is waited for is called, such as `registry`.
    within_s : float
        How long a caller waits.
    """

    def __init__(self, source: str, within_s: float) -> None:
        self.source = source
        self.within_s = within_s
        self._turn = threading.Lock()
        self._waits = threading.BoundedSemaphore(_WAITS)

    def start(self, write: Callable[[], _Result]) -> "Future[_Result]":
        """Begins a change that must be made in the end, whatever is under way."""
        result: Future[_Result] = Future()

        def run() -> None:
            try:
                result.set_result(write())
            except Exception as error:  # noqa: BLE001 - raised by whoever waits
                result.set_exception(error)

        threading.Thread(target=run, name="desire", daemon=True).start()
        return result

    def run(self, model: str, write: Callable[[], _Result], late: Callable[[BaseException], None]) -> _Result:
        """Returns what the change gives; what it raises after that time goes to `late`.

        Raises
        ------
        ControlError
            DEADLINE_EXCEEDED where it is still under way; UNAVAILABLE where it was not begun, because others are.
        """
        if not self._waits.acquire(blocking=False):
            raise ControlError(
                f"{_WAITS} changes of desired state are waited for already; nothing was written of model {model!r}",
                code=Code.UNAVAILABLE,
            )
        try:
            return self._run(model, write, late)
        finally:
            self._waits.release()

    def _run(self, model: str, write: Callable[[], _Result], late: Callable[[BaseException], None]) -> _Result:
        end = time.monotonic() + self.within_s
        silent = f"the {self.source} has not answered for {self.within_s:g} s"
        if not self._turn.acquire(timeout=self.within_s):
            raise ControlError(
                f"{silent}, where an earlier change waits; nothing was written of model {model!r}",
                code=Code.UNAVAILABLE,
            )
        try:
            writing = self.start(write)
        except BaseException:
            self._turn.release()
            raise
        writing.add_done_callback(lambda _: self._turn.release())
        try:
            return writing.result(max(0.0, end - time.monotonic()))
        except TimeoutError:
            if writing.done():
                return writing.result()

        def tell(done: "Future[_Result]") -> None:
            error = done.exception()
            if error is not None:
                late(error)

        writing.add_done_callback(tell)
        raise ControlError(
            f"{silent}: the change of model {model!r} may be written, now or later, or not; "
            "its revision tells (`tickserve status`), and the event `desired` or `not_desired`",
            code=Code.DEADLINE_EXCEEDED,
        )
