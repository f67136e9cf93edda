"""Trying a version in a process of its own before this one loads it: a crash in ONNX Runtime then costs no server."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, cast

import structlog

from server.plan import VersionPlan
from tickserve.errors import Code, ControlError, DamagedPackageError, PackageError, TickserveError

_log = structlog.get_logger()
#: Starting such a process takes as long as trying a small model many times, so it is kept for a while.
_IDLE_S = 60.0
_COMMAND = (sys.executable, "-P", "-m", "server.trial_process")


class Trials:
    """Tries versions in processes, as many at a time as there are callers; one is kept for the next version.

    Parameters
    ----------
    timeout_s : float
        How long one trial may take, in seconds. Its process is killed then, so that an endless load costs no thread.
    command : sequence of str
        What is run: see server/trial_process.py.
    """

    def __init__(
        self,
        timeout_s: float,
        *,
        command: Sequence[str] = _COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_s = timeout_s
        self._command = command
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: _Process | None = None
        self._idle_since = 0.0
        self._busy: set[_Process] = set()
        self._is_closed = False

    def run(self, plan: VersionPlan, room_bytes: int) -> None:
        """Tries one version. `room_bytes` is what its process may take for it; 0 is no bound.

        Raises
        ------
        PackageError
            Where it does not load or run, or ends its process.
        ControlError
            RESOURCE_EXHAUSTED where there is not the memory; DEADLINE_EXCEEDED where it takes too long.
        """
        request = {
            "model": plan.model,
            "path": str(plan.path),
            "digest": plan.digest.hex(),
            "room_bytes": room_bytes,
            # Its own clock is the second line: this process may end first.
            "timeout_s": self._timeout_s + 10.0,
        }
        process, answer = self._ask(json.dumps(request).encode() + b"\n")
        which = f"version {plan.version} of model {plan.model!r}"
        if answer is None:
            process.kill()
            raise ControlError(
                f"{which} was not tried within {self._timeout_s:g} s; its process was killed",
                code=Code.DEADLINE_EXCEEDED,
            )
        if not answer:
            raise PackageError(
                f"{which} ended the process that tried it, {_ending(process.kill())}; it would have ended the server",
                field="model.onnx",
            )
        self._keep(process)
        found = json.loads(answer)
        if found:
            raise _error(found)

    def tend(self) -> None:
        """Ends the process that waits for the next version, once it has for a while."""
        with self._lock:
            idle = self._idle
            if idle is None or self._clock() - self._idle_since < _IDLE_S:
                return
            self._idle = None
        idle.kill()

    def close(self) -> None:
        """Ends all of them; what is being tried fails."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, None
            for process in self._busy:
                # Whoever waits for it takes it away.
                process.end()
        if idle is not None:
            idle.kill()

    @property
    def busy(self) -> frozenset[int]:
        """The processes that are trying a version now."""
        with self._lock:
            return frozenset(process.pid for process in self._busy if process.has_begun)

    def _ask(self, request: bytes) -> "tuple[_Process, bytes | None]":
        """Asks a process: its answer, nothing where it ended, None where it ran out of time."""
        while True:
            process, is_new = self._take()
            end = time.monotonic() + self._timeout_s
            try:
                process.ask(request)
                begun = process.line(end)
                if begun:
                    process.has_begun = True
                    return process, process.line(end)
                if begun is None:
                    return process, None
            finally:
                with self._lock:
                    self._busy.discard(process)
            # It went before it began, which says nothing of the version.
            ending = process.kill()
            if is_new:
                raise ControlError(
                    f"the process that tries versions does not start: it ended {_ending(ending)}", code=Code.INTERNAL
                )

    def _take(self) -> "tuple[_Process, bool]":
        with self._lock:
            process, self._idle = self._idle, None
            is_new = process is None
            if process is None:
                if self._is_closed:
                    raise ControlError("the server is ending", code=Code.UNAVAILABLE)
                try:
                    process = _Process(self._command)
                except OSError as error:
                    raise ControlError(
                        f"no process to try a version in: {error.strerror}", code=Code.RESOURCE_EXHAUSTED
                    ) from None
            self._busy.add(process)
            return process, is_new

    def _keep(self, process: "_Process") -> None:
        with self._lock:
            if self._idle is None and not self._is_closed:
                process.has_begun = False
                self._idle, self._idle_since = process, self._clock()
                return
        process.kill()


class _Process:
    """One such process and the two pipes to it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._popen = subprocess.Popen(  # noqa: S603 - this interpreter, with nothing that anyone sent
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(os.environ),
            # Signals of a terminal are the server's; this one ends with its input. A session of its own would do as
            # well, but where the kernel groups by session (autogroup) niceness would then mean nothing to the server.
            process_group=0,
        )
        self.pid = self._popen.pid
        self.has_begun = False
        self._read = b""

    def ask(self, request: bytes) -> None:
        """Tells it what to try. Where it has ended, so does what it says."""
        pipe = cast(IO[bytes], self._popen.stdin)
        with contextlib.suppress(BrokenPipeError):
            pipe.write(request)
            pipe.flush()

    def line(self, end: float) -> bytes | None:
        """Its next line; empty where it ended instead, None where it said nothing until then (monotonic, seconds)."""
        descriptor = cast(IO[bytes], self._popen.stdout).fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while b"\n" not in self._read:
            if not poll.poll(max(0.0, end - time.monotonic()) * 1e3):
                return None
            data = os.read(descriptor, 65536)
            if not data:
                return b""
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line

    def end(self) -> None:
        """Ends it, and leaves the rest to whoever waits for its answer."""
        self._popen.kill()

    def kill(self) -> int:
        """Ends it, takes it away, and gives its exit code back, which is less than zero where it was a signal."""
        if self._popen.poll() is None and self._is_running():
            self._popen.kill()
        code = self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(BrokenPipeError):
                cast(IO[bytes], pipe).close()
        return code

    def _is_running(self) -> bool:
        """Not where it has closed its output: then it ends by itself, and the code to learn is its own."""
        pipe = cast(IO[bytes], self._popen.stdout)
        poll = select.poll()
        poll.register(pipe.fileno(), select.POLLIN)
        return not any(event & select.POLLHUP for _, event in poll.poll(0))


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's, with its search path: the process runs in the same folder, and must find the same code."""
    return {**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _ending(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def _error(found: dict[str, Any]) -> TickserveError:
    code = Code[found["code"]]
    if code is Code.DATA_LOSS:
        return DamagedPackageError(found["error"], field=found["field"])
    if code is Code.FAILED_PRECONDITION:
        return PackageError(found["error"], field=found["field"])
    return ControlError(found["error"], code=code, field=found["field"])
