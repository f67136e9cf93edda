"""One routed request from its message to its answer: read, check, run, check, encode, on whichever thread; and once
more by the fallback where an output rule asks for it.
"""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from server.engine import texts
from server.engine.python.call import Asked, Call, Shape
from server.engine.python.rules import Array, Finding
from server.engine.python.serving import Installed, Serving
from server.plan import Role
from tickserve.errors import PredictionError, TickserveError

_Request = TypeVar("_Request")
_Pending = TypeVar("_Pending")


@dataclass(frozen=True, slots=True)
class Codec(Generic[_Request, _Pending]):
    """How one protocol reads requests and writes answers; all but `encode` raise PredictionError.

    `parse` makes a message of bytes; `model` is the name it asks for; `identify` gives the id that answers and errors
    carry, the drawn one where the protocol wants one and the client sent none; `route` finds the version; `shape`
    holds the request's shapes against it, in a time that no client can stretch; `ask` says what the tap keeps of it;
    `read` makes a call of it, in a time that grows with the message; `encode` writes the outputs, with the time spent
    so far in nanoseconds.
    """

    parse: Callable[[bytes], _Request]
    model: Callable[[_Request], str]
    identify: Callable[[_Request, str], str]
    route: Callable[[_Request, Installed, str, str], tuple[Serving, _Pending]]
    shape: Callable[[Serving, _Pending], Shape]
    ask: Callable[[_Request, _Pending], Asked]
    read: Callable[[Serving, _Pending, Shape], Call]
    encode: Callable[[Serving, Call, Sequence[Array], int], bytes]


class Job(Generic[_Request, _Pending]):
    """A request that is routed and whose shapes are in order. Runs once; counts nothing until told to, on the loop."""

    __slots__ = (
        "_arrived",
        "_broken_inputs",
        "_codec",
        "_deadline",
        "_pending",
        "call",
        "checked_at_unix_ns",
        "cpu_ns",
        "durations",
        "has_run",
        "is_timed",
        "outputs",
        "refusal",
        "retry",
        "serving",
        "shape",
        "total_ns",
    )

    def __init__(
        self,
        codec: Codec[_Request, _Pending],
        serving: Serving,
        pending: _Pending,
        shape: Shape,
        arrived: int,
        deadline: int,
    ) -> None:
        self.serving = serving
        #: The request as read, as soon as it is; its findings hold what was broken.
        self.call: Call | None = None
        #: What the model gave, as soon as it has.
        self.outputs: Sequence[Array] | None = None
        #: Of the stages from decode to encode, in nanoseconds, once it is answered.
        self.durations: tuple[int, ...] = ()
        #: Their sum.
        self.total_ns = 0
        self.shape = shape
        #: Whether the model was asked, whatever came of it.
        self.has_run = False
        #: Whether the run's CPU time is measured, which is `cpu_ns` then.
        self.is_timed = False
        self.cpu_ns = 0
        #: When event times were held against the clock.
        self.checked_at_unix_ns = 0
        #: What the fallback made of it, where it was asked, and why it was.
        self.retry: Retry | None = None
        self.refusal: TickserveError | None = None
        self._broken_inputs = 0
        self._codec = codec
        self._pending = pending
        self._arrived = arrived
        self._deadline = deadline

    def run(self) -> bytes:
        """The encoded answer, on the engine's own thread. Raises PredictionError."""
        return self._answer(Job._run_inline, arrived=self._arrived)

    def run_in_pool(self, submitted: int) -> bytes:
        """The same on any other thread; `submitted` is when it was queued. A deadline that passes in the run counts."""
        started = time.perf_counter_ns()
        if started > self._deadline:
            raise texts.DEADLINE.error()
        return self._answer(Job._run_long, arrived=self._arrived, queued=started - submitted)

    def count(self, wait: int) -> None:
        """Counts the answer. On the engine's thread, after a run that raised nothing."""
        tally, limits = self.serving.tally, self.serving.version.limits
        decode, validate_input, run, validate_output, encode = self.durations
        total = self.total_ns
        stages = tally.stages
        stages["wait"].record(wait)
        stages["decode"].record(decode)
        stages["validate_input"].record(validate_input)
        stages["run"].record(run)
        stages["validate_output"].record(validate_output)
        stages["encode"].record(encode)
        stages["total"].record(total)
        tally.answered += 1
        tally.rows += self.shape.rows
        tally.last_answer_unix_ns = time.time_ns()
        if (
            limits.latency_budget_us
            and total > limits.latency_budget_us * 1000
            and self.serving.role is not Role.SHADOW
        ):
            tally.slow += 1

    def unsent(self, error: TickserveError) -> TickserveError:
        """The refusal of an answer that cannot be sent for `error`: where it is the fallback's, it failed too."""
        if self.retry is None or self.refusal is None:
            return error
        self.retry.refusal = error
        return self.refusal

    @property
    def has_broken_output(self) -> bool:
        """Whether an output rule was broken, whatever its policy."""
        call = self.call
        return call is not None and self.outputs is not None and call.findings.times_broken > self._broken_inputs

    def _run_inline(self, arrays: Sequence[Array]) -> Sequence[Array]:
        session = self.serving.runtime.session
        return self._ask(session.run_one if self.shape.rows == 1 else session.run, arrays)

    def _run_long(self, arrays: Sequence[Array]) -> Sequence[Array]:
        outputs = self._ask(self.serving.runtime.session.run, arrays)
        if time.perf_counter_ns() > self._deadline:
            raise texts.DEADLINE_RAN.error()
        return outputs

    def _begin(self, call: Call) -> None:
        """What is due once the request is read."""
        timeout_us = call.timeout_us or self.serving.version.limits.default_deadline_us
        if timeout_us:
            self._deadline = min(self._deadline, self._arrived + timeout_us * 1000)
        self.checked_at_unix_ns = time.time_ns()

    def _answer(self, run: "_Run", *, arrived: int, queued: int = 0) -> bytes:
        """Reads, checks, runs, checks and encodes; the stage of decoding begins at `arrived`."""
        serving, codec = self.serving, self._codec
        runtime = serving.runtime
        call = self.call = codec.read(serving, self._pending, self.shape)
        decoded = time.perf_counter_ns()
        self._begin(call)
        runtime.check_inputs(call, self.checked_at_unix_ns)
        checked = time.perf_counter_ns()
        if checked > self._deadline:
            raise texts.DEADLINE.error()
        self._broken_inputs = call.findings.times_broken
        self.has_run = True
        outputs = self.outputs = run(self, call.arrays)
        ran = time.perf_counter_ns()
        try:
            runtime.check_outputs(call, outputs)
        except PredictionError as error:
            answer = self._fall_back(run, call.fallback, error)
            if answer is None:
                raise
            return answer
        validated = time.perf_counter_ns()
        answer = codec.encode(serving, call, outputs, validated - self._arrived)
        done = time.perf_counter_ns()
        self.total_ns = done - self._arrived
        # Time in the queue of the pool counts as running, which it waits for.
        self.durations = (
            decoded - arrived - queued,
            checked - decoded,
            ran - checked + queued,
            validated - ran,
            done - validated,
        )
        return answer

    def _ask(self, model: Callable[[Sequence[Array]], Sequence[Array]], arrays: Sequence[Array]) -> Sequence[Array]:
        """The model's outputs; where that is asked for, with the CPU time that they took on this thread."""
        if not self.is_timed:
            return model(arrays)
        started = time.thread_time_ns()
        try:
            return model(arrays)
        finally:
            self.cpu_ns = time.thread_time_ns() - started

    def _fall_back(self, run: "_Run", broken: Finding | None, error: TickserveError) -> bytes | None:
        """The fallback's answer to the inputs as received; None where there is none, or no time for it."""
        serving = self.serving.fallback
        started = time.perf_counter_ns()
        if broken is None or serving is None or started + serving.runtime.run_time_ns > self._deadline:
            return None
        retry, self.refusal = Retry(serving), error
        self.retry = retry
        try:
            shape = self._codec.shape(serving, self._pending)
            retry.job = Repeat(self._codec, serving, self._pending, shape, self._arrived, self._deadline)
            retry.job.checked_at_unix_ns, retry.job.leads = self.checked_at_unix_ns, broken
            return retry.job._answer(run, arrived=started)
        except PredictionError as failure:
            retry.refusal = failure
        except Exception:  # noqa: BLE001 - the client gets the first version's refusal, the log the traceback
            retry.refusal, retry.fault = texts.INTERNAL.error(), traceback.format_exc()
        return None


_Run = Callable[[Job[Any, Any], Sequence[Array]], Sequence[Array]]


class Repeat(Job[_Request, _Pending]):
    """A request that another version has had before: a fallback's or a shadow's.

    It has no deadline but the one that it is given, and event times are held against the clock as it was then.
    """

    __slots__ = ("leads",)

    def __init__(
        self,
        codec: Codec[_Request, _Pending],
        serving: Serving,
        pending: _Pending,
        shape: Shape,
        arrived: int,
        deadline: int = sys.maxsize,
    ) -> None:
        super().__init__(codec, serving, pending, shape, arrived, deadline)
        #: What is found on it before anything else.
        self.leads: Finding | None = None

    def run_on(self, executor: Executor) -> bytes:
        """The encoded answer, with the model's own run on another thread. Raises PredictionError."""
        return self._answer(
            lambda job, arrays: executor.submit(Job._run_inline, job, arrays).result(), arrived=self._arrived
        )

    def _begin(self, call: Call) -> None:
        if self.leads is not None:
            call.findings.lead(self.leads)


class Retry:
    """What a fallback made of a request: an answer, or the refusal that nobody sees; `fault` is a traceback."""

    __slots__ = ("fault", "job", "refusal", "serving")

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.job: Repeat[Any, Any] | None = None
        self.refusal: TickserveError | None = None
        self.fault = ""
