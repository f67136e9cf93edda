"""One routed request from its message to its answer: read, check, run, check, encode, on whichever thread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.engine import texts
from server.engine.python.call import Asked, Call, Shape
from server.engine.python.rules import Array
from server.engine.python.serving import Installed, Serving

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
        "durations",
        "outputs",
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
        self._broken_inputs = 0
        self._codec = codec
        self._pending = pending
        self._arrived = arrived
        self._deadline = deadline

    def run(self) -> bytes:
        """The encoded answer, on the engine's own thread. Raises PredictionError."""
        return self._answer(self._run_inline, queued=0)

    def run_in_pool(self, submitted: int) -> bytes:
        """The same on any other thread; `submitted` is when it was queued. A deadline that passes in the run counts."""
        started = time.perf_counter_ns()
        if started > self._deadline:
            raise texts.DEADLINE.error()
        return self._answer(self._run_long, queued=started - submitted)

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
        if limits.latency_budget_us and total > limits.latency_budget_us * 1000:
            tally.slow += 1

    @property
    def has_broken_output(self) -> bool:
        """Whether an output rule was broken, whatever its policy."""
        call = self.call
        return call is not None and self.outputs is not None and call.findings.times_broken > self._broken_inputs

    def _run_inline(self, arrays: Sequence[Array]) -> Sequence[Array]:
        session = self.serving.runtime.session
        return session.run_one(arrays) if self.shape.rows == 1 else session.run(arrays)

    def _run_long(self, arrays: Sequence[Array]) -> Sequence[Array]:
        outputs = self.serving.runtime.session.run(arrays)
        if time.perf_counter_ns() > self._deadline:
            raise texts.DEADLINE_RAN.error()
        return outputs

    def _answer(self, run: Callable[[Sequence[Array]], Sequence[Array]], *, queued: int) -> bytes:
        serving, codec, arrived = self.serving, self._codec, self._arrived
        runtime = serving.runtime
        call = self.call = codec.read(serving, self._pending, self.shape)
        decoded = time.perf_counter_ns()
        timeout_us = call.timeout_us or serving.version.limits.default_deadline_us
        if timeout_us:
            self._deadline = min(self._deadline, arrived + timeout_us * 1000)
        runtime.check_inputs(call, time.time_ns())
        checked = time.perf_counter_ns()
        if checked > self._deadline:
            raise texts.DEADLINE.error()
        self._broken_inputs = call.findings.times_broken
        outputs = self.outputs = run(call.arrays)
        ran = time.perf_counter_ns()
        runtime.check_outputs(call, outputs)
        validated = time.perf_counter_ns()
        answer = codec.encode(serving, call, outputs, validated - arrived)
        done = time.perf_counter_ns()
        self.total_ns = done - arrived
        # Time in the queue of the pool counts as running, which it waits for.
        self.durations = (
            decoded - arrived - queued,
            checked - decoded,
            ran - checked + queued,
            validated - ran,
            done - validated,
        )
        return answer
