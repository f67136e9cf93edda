"""The load generator of the native wheel: encoded requests at a constant rate, or so many in flight.

It knows no models. `tickserve bench` gives it what a server takes, the benchmarks what they measure.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tickserve.address import is_unix, split_host
from tickserve.errors import ConfigurationError, TickserveError, UnreachableError

#: What `times` has of each request, in nanoseconds since the start: when it was meant to be sent, when the generator
#: turned to it, when it was handed to the connection, when it was over; and the index of its outcome.
TIMES = np.dtype([("intended", "<u8"), ("began", "<u8"), ("sent", "<u8"), ("done", "<u8"), ("outcome", "<u8")])
#: Outcome of a request that was answered.
ANSWERED = "OK"

MISSING = (
    "the load generator is part of tickserve-native, which is not installed here, or is too old; "
    "`make native` builds it where cargo is"
)


class Travel(StrEnum):
    """How requests travel: a call each, or as messages of one stream on each connection."""

    UNARY = "unary"
    PREDICT_STREAM = "predict stream"
    INFER_STREAM = "infer stream"


@dataclass(frozen=True)
class OpenLoop:
    """`rate` requests a second, whatever becomes of the answers; none is sent while `max_in_flight` are unanswered."""

    rate: float
    max_in_flight: int = 10_000


@dataclass(frozen=True)
class ClosedLoop:
    """`in_flight` requests at any time, each sent when one was answered."""

    in_flight: int = 1


@dataclass(frozen=True)
class Idle:
    """One request on each connection, which then says nothing more until the run is stopped."""


@dataclass(frozen=True)
class Pem:
    """TLS: the authorities to trust, and the own certificate and its key where the server asks for them."""

    roots: bytes
    identity: tuple[bytes, bytes] | None = None


@dataclass(frozen=True)
class Load:
    """One run.

    Parameters
    ----------
    address : str
        `host:port` or `unix:/path`.
    path : str
        The method, `/package.Service/Method`.
    messages : sequence of bytes
        Encoded requests, sent in turn. On streams they are those of unary calls, without id or sequence.
    pacing : OpenLoop, ClosedLoop or Idle
        When they are sent.
    connections : int
        Which requests take in turn.
    warmup_s, duration_s : float
        Time at the start that is not measured, and time after it that is.
    deadline_s : float
        After it a request counts as unanswered. Unary calls tell it to the server.
    interval_s : float
        Width of `Result.intervals`.
    keeps_times : bool
        Whether `Result.times` is kept: 40 bytes a request.
    cpu : int or None
        The one CPU to run on.
    """

    address: str
    path: str
    messages: Sequence[bytes]
    pacing: OpenLoop | ClosedLoop | Idle
    travel: Travel = Travel.UNARY
    tls: Pem | None = None
    connections: int = 1
    warmup_s: float = 0.0
    duration_s: float = 10.0
    deadline_s: float = 10.0
    interval_s: float = 1.0
    keeps_times: bool = False
    cpu: int | None = None


@dataclass(frozen=True)
class Distribution:
    """Durations in microseconds, to three significant digits; `buckets` are pairs of upper edge in ns and count."""

    count: int
    mean_us: float
    min_us: float
    max_us: float
    quantiles: Mapping[str, float]
    buckets: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, found: dict[str, Any] | None) -> Self | None:
        """From what the generator says; None where nothing was counted."""
        if found is None:
            return None
        quantiles = {name.removesuffix("_us"): value for name, value in found.items() if name.startswith("p")}
        return cls(
            found["count"], found["mean_us"], found["min_us"], found["max_us"], quantiles, tuple(found["buckets"])
        )


@dataclass(frozen=True)
class Interval:
    """What came back in one piece of the measured time; latencies are of those answered, 0 where there are none."""

    start_s: float
    answered: int
    failed: int
    p50_us: float
    p99_us: float
    max_us: float


@dataclass(frozen=True)
class Result:
    """What became of the requests.

    `counts` and `warmup_counts` are by outcome: `OK`, a status with its reason, or what failed in between. Latencies
    (`latency` from when a request was meant to be sent, `service_time` from when it was) are of those answered alone.
    `times` is one of TIMES for each request, warm-up included, where they were kept.
    """

    outcomes: Sequence[str]
    counts: Mapping[str, int]
    warmup_counts: Mapping[str, int]
    broken: int
    missed: int
    answered_in_time: int
    measured_s: float
    is_stopped: bool
    latency: Distribution | None
    service_time: Distribution | None
    lateness: Distribution | None
    intervals: Sequence[Interval]
    times: NDArray[np.void]
    cpu_s: float
    wall_s: float
    most_in_flight: int
    stream_limit: int | None
    reconnections: int

    @property
    def requests(self) -> int:
        """Measured requests that were sent."""
        return sum(self.counts.values())

    @property
    def answered(self) -> int:
        """Measured requests that were answered, the late ones included."""
        return self.counts.get(ANSWERED, 0)

    @property
    def requests_per_s(self) -> float:
        """Requests answered within the measured time, over that time."""
        return self.answered_in_time / self.measured_s if self.measured_s > 0 else 0.0


class Run:
    """A run on a thread of its own, which waits for sockets without the interpreter.

    Raises ConfigurationError where the native wheel is missing, or an option is out of its range.
    """

    def __init__(self, load: Load) -> None:
        self._address = load.address
        self._native = _native(load)
        self._cpu = load.cpu
        self._found: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._ready, self._over = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="load", daemon=True).start()

    def wait_ready(self) -> None:
        """Waits until all connections are open, and answered once where they are to be idle; raises as `result`."""
        self._ready.wait()
        self._raise()

    def stop(self) -> None:
        """Sends no more, and waits for what is unanswered; the second time it does not wait either."""
        self._native.stop()

    def result(self) -> Result:
        """Waits for the end. Raises UnreachableError where no connection could be opened at the start."""
        # Not join: in CPython 3.11 and 3.12 a thread whose join was interrupted once counts as ended.
        self._over.wait()
        self._raise()
        return _result(self._found)

    def _run(self) -> None:
        try:
            if self._cpu is not None:
                os.sched_setaffinity(threading.get_native_id(), {self._cpu})
            self._found = self._native.run(self._ready.set)
        except BaseException as error:  # noqa: BLE001 - the one who waits raises it
            self._error = error
        finally:
            self._ready.set()
            self._over.set()

    def _raise(self) -> None:
        if self._error is not None:
            raise _translated(self._error, self._address) from None


def run(load: Load, on_start: Callable[[Run], None] | None = None) -> Result:
    """Runs to the end; as `Run` and `Run.result` raise. The first Ctrl-C ends the sending, the second the waiting."""
    started = Run(load)
    if on_start is not None:
        on_start(started)
    for _ in range(2):
        try:
            return started.result()
        except KeyboardInterrupt:
            started.stop()
    return started.result()


@dataclass(frozen=True)
class Answer:
    """What one call brought: its outcome, the server's text where it refuses, and the answer's bytes."""

    outcome: str
    is_answered: bool
    message: str
    body: bytes


def ask(load: Load) -> Answer:
    """Sends the first message once. Raises as `Run` and `Run.result` do."""
    native = _native(load)
    try:
        return Answer(*native.call())
    except OSError as error:
        raise _translated(error, load.address) from None


def _native(load: Load) -> Any:
    try:
        from tickserve_native import Load as NativeLoad
    except ImportError:
        raise ConfigurationError(MISSING) from None
    address = load.address.removeprefix("unix:") if is_unix(load.address) else split_host(load.address)
    match load.pacing:
        case OpenLoop(rate, in_flight):
            pacing: dict[str, Any] = {"rate": rate, "in_flight": in_flight, "is_idle": False}
        case ClosedLoop(in_flight):
            pacing = {"rate": None, "in_flight": in_flight, "is_idle": False}
        case Idle():
            pacing = {"rate": None, "in_flight": 1, "is_idle": True}
    try:
        return NativeLoad(
            address=address,
            tls=None if load.tls is None else (load.tls.roots, load.tls.identity),
            path=load.path,
            messages=list(load.messages),
            travel=str(load.travel),
            connections=load.connections,
            warmup_s=load.warmup_s,
            duration_s=load.duration_s,
            deadline_s=load.deadline_s,
            interval_s=load.interval_s,
            keeps_times=load.keeps_times,
            **pacing,
        )
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"the load generator refuses: {error}") from None


def _translated(error: BaseException, address: str) -> BaseException:
    if isinstance(error, ConnectionError):
        return UnreachableError(f"no server answered at {address} ({error}); is it running there?")
    if isinstance(error, OSError):
        return TickserveError(f"the load generator failed: {error}")
    return error


def _result(found: dict[str, Any]) -> Result:
    outcomes = tuple(found["outcomes"])
    return Result(
        outcomes=outcomes,
        counts=_counted(outcomes, found["counts"]),
        warmup_counts=_counted(outcomes, found["warmup_counts"]),
        broken=found["broken"],
        missed=found["missed"],
        answered_in_time=found["answered_in_time"],
        measured_s=found["measured_s"],
        is_stopped=found["is_stopped"],
        latency=Distribution.of(found["latency"]),
        service_time=Distribution.of(found["service_time"]),
        lateness=Distribution.of(found["lateness"]),
        intervals=tuple(Interval(*each) for each in found["intervals"]),
        times=np.frombuffer(found["times"], TIMES),
        cpu_s=found["cpu_s"],
        wall_s=found["wall_s"],
        most_in_flight=found["most_in_flight"],
        stream_limit=found["stream_limit"],
        reconnections=found["reconnections"],
    )


def _counted(outcomes: Sequence[str], counts: Sequence[int]) -> dict[str, int]:
    # An outcome of both a refusal and our own texts keeps one line.
    found: dict[str, int] = {}
    for outcome, count in zip(outcomes, counts, strict=True):
        if count:
            found[outcome] = found.get(outcome, 0) + count
    return found
