"""The way of one request: admit, parse, route, decode, check, run, check, encode, record; apart from how it arrived."""

import asyncio
import itertools
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from server.engine import texts
from server.engine.python.rules import Array
from server.engine.python.runtime import Call
from server.engine.python.serving import NOTHING_INSTALLED, Installed, Serving
from tickserve.errors import PredictionError

#: A request that should run longer than this leaves the event loop for a thread of the pool.
_INLINE_NS = 200_000

_Request = TypeVar("_Request")
_Pending = TypeVar("_Pending")


@dataclass(frozen=True, slots=True)
class Codec(Generic[_Request, _Pending]):
    """How one protocol reads requests and writes answers; all but `encode` raise PredictionError.

    `parse` makes a message of bytes; `model` is the name it asks for; `identify` gives the id that answers and errors
    carry, the drawn one where the protocol wants one and the client sent none; `route` finds the version; `read` makes
    a call of a routed request; `encode` writes the outputs, with the time spent so far in nanoseconds.
    """

    parse: Callable[[bytes], _Request]
    model: Callable[[_Request], str]
    identify: Callable[[_Request, str], str]
    route: Callable[[_Request, Installed, str], tuple[Serving, _Pending]]
    read: Callable[[Serving, _Pending], Call]
    encode: Callable[[Serving, Call, Sequence[Array], int], bytes]


class Pipeline:
    """Answers requests on one event loop; every method runs on it.

    Invariant: between the checks and the answer of a request that runs inline there is no await, so bound buffers,
    counts and the request itself need no lock.
    """

    def __init__(self, pool: Executor, *, max_in_flight: int, max_in_flight_per_client: int) -> None:
        self._pool = pool
        self._max_in_flight = max_in_flight
        self._max_per_client = max_in_flight_per_client
        self._boot = os.urandom(6).hex()
        self._drawn = itertools.count(1)
        self._clients: dict[str, int] = {}
        self.installed: Installed = NOTHING_INSTALLED
        self.is_draining = False
        self.in_flight = 0
        self.lag_ns = 0
        self.refused: dict[tuple[str, str], int] = {}
        self.faults: deque[str] = deque(maxlen=32)
        self.fault_count = 0

    @property
    def bounds_clients(self) -> bool:
        """Whether `answer` needs to know the client."""
        return self._max_per_client < self._max_in_flight

    async def answer(
        self, codec: Codec[_Request, _Pending], request: _Request, arrived: int, deadline: int, client: str
    ) -> bytes:
        """Answers one parsed request.

        Parameters
        ----------
        arrived, deadline : int
            On the monotonic clock, in nanoseconds.
        client : str
            Who asks, where clients are bounded; else empty.

        Raises
        ------
        PredictionError
            With the request's id; it is counted already.
        """
        serving: Serving | None = None
        drawn_id = f"{self._boot}-{next(self._drawn):x}"
        self.in_flight += 1
        try:
            self._admit(client)
            serving, pending = codec.route(request, self.installed, drawn_id)
            call = codec.read(serving, pending)
            runtime, tally, limits = serving.runtime, serving.tally, serving.version.limits
            wait = self.lag_ns
            decoded = time.perf_counter_ns()
            if limits.max_wait_us and wait > limits.max_wait_us * 1000:
                raise texts.OVERLOADED_WAIT.error(
                    wait_us=wait // 1000, model=serving.version.model, bound_us=limits.max_wait_us
                )
            timeout_us = call.timeout_us or limits.default_deadline_us
            if timeout_us:
                deadline = min(deadline, arrived + timeout_us * 1000)
            runtime.check_inputs(call, tally, time.time_ns())
            checked = time.perf_counter_ns()
            if checked > deadline:
                raise texts.DEADLINE.error()
            outputs: Sequence[Array]
            if runtime.run_time_ns * call.rows > _INLINE_NS:
                outputs = await self._run_in_pool(serving, call, deadline)
            elif call.rows == 1:
                outputs = runtime.session.run_one(call.arrays)
            else:
                outputs = runtime.session.run(call.arrays)
            ran = time.perf_counter_ns()
            runtime.check_outputs(call, outputs, tally)
            validated = time.perf_counter_ns()
            answer = codec.encode(serving, call, outputs, validated - arrived)
            done = time.perf_counter_ns()
            stages = tally.stages
            stages["wait"].record(wait)
            stages["decode"].record(decoded - arrived)
            stages["validate_input"].record(checked - decoded)
            stages["run"].record(ran - checked)
            stages["validate_output"].record(validated - ran)
            stages["encode"].record(done - validated)
            stages["total"].record(done - arrived)
            tally.answered += 1
            tally.rows += call.rows
            tally.last_answer_unix_ns = time.time_ns()
            if limits.latency_budget_us and done - arrived > limits.latency_budget_us * 1000:
                tally.slow += 1
        except PredictionError as error:
            refusal = error
        except Exception:  # noqa: BLE001 - whatever it is, the client gets a status and the log the traceback
            self.fault_count += 1
            self.faults.append(traceback.format_exc())
            refusal = texts.INTERNAL.error()
        else:
            return answer
        finally:
            self.in_flight -= 1
            if client:
                self._forget(client)
        refusal.request_id = codec.identify(request, drawn_id)
        if serving is not None:
            serving.tally.count_error(refusal.reason or "")
        else:
            self.count_refusal(refusal, codec.model(request))
        raise refusal

    def count_refusal(self, error: PredictionError, model: str = "") -> None:
        """Counts a refusal that reached no version; only names that are known here become labels."""
        is_known = model in self.installed.models or model in self.installed.plan.not_loaded
        key = (model if is_known else "", error.reason or "")
        self.refused[key] = self.refused.get(key, 0) + 1

    def _admit(self, client: str) -> None:
        if client:
            self._clients[client] = count = self._clients.get(client, 0) + 1
            if count > self._max_per_client:
                raise texts.CLIENT_IN_FLIGHT.error(count=count, bound=self._max_per_client)
        if self.is_draining:
            raise texts.DRAINING.error()
        if self.in_flight > self._max_in_flight:
            raise texts.OVERLOADED_IN_FLIGHT.error(count=self.in_flight, bound=self._max_in_flight)

    def _forget(self, client: str) -> None:
        left = self._clients[client] - 1
        if left:
            self._clients[client] = left
        else:
            del self._clients[client]

    async def _run_in_pool(self, serving: Serving, call: Call, deadline: int) -> list[Array]:
        runtime = serving.runtime
        loop = asyncio.get_running_loop()
        running = self._pool.submit(_run_unless_late, serving, call, deadline)
        # Until the thread is through with it, also where the request is cancelled meanwhile.
        runtime.in_flight += 1
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(runtime.release))
        outputs = await asyncio.wrap_future(running)
        if time.perf_counter_ns() > deadline:
            raise texts.DEADLINE_RAN.error()
        return outputs


def _run_unless_late(serving: Serving, call: Call, deadline: int) -> list[Any]:
    if time.perf_counter_ns() > deadline:
        raise texts.DEADLINE.error()
    return serving.runtime.session.run(call.arrays)
