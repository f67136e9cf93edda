"""The way of one request: admit, route, then its job on the loop or on the pool; apart from how it arrived."""

import asyncio
import itertools
import os
import time
import traceback
from collections import deque
from concurrent.futures import Executor
from typing import TypeVar

from server.engine import texts
from server.engine.python.job import Codec, Job
from server.engine.python.recorder import Recorder
from server.engine.python.serving import NOTHING_INSTALLED, Installed, Serving
from tickserve.errors import PredictionError, TickserveError

#: A request that should take longer than this, or is larger, leaves the event loop for a thread of the pool.
_INLINE_NS = 200_000
_INLINE_BYTES = 64 << 10
_MAX_ID_BYTES = 64
#: What a stream may put around an answer.
FRAME_BYTES = 32

_Request = TypeVar("_Request")
_Pending = TypeVar("_Pending")


class Pipeline:
    """Answers requests on one event loop; every method runs on it.

    Invariants: between the checks and the answer of a request that runs inline there is no await, so bound buffers
    and the request itself need no lock; counts change on the loop only.
    """

    def __init__(
        self, pool: Executor, *, max_in_flight: int, max_in_flight_per_client: int, max_message_bytes: int
    ) -> None:
        self._pool = pool
        self._max_in_flight = max_in_flight
        self._max_per_client = max_in_flight_per_client
        self._bounds_clients = max_in_flight_per_client < max_in_flight
        self.max_answer_bytes = max_message_bytes - FRAME_BYTES
        self._boot = os.urandom(6).hex()
        self._drawn = itertools.count(1)
        self._clients: dict[str, int] = {}
        self.installed: Installed = NOTHING_INSTALLED
        self.recorder: Recorder | None = None
        self.is_draining = False
        self._idle = asyncio.Event()
        self.in_flight = 0
        self.lag_ns = 0
        self.refused: dict[tuple[str, str], int] = {}
        self.faults: deque[str] = deque(maxlen=32)
        self.fault_count = 0

    @property
    def asks_client(self) -> bool:
        """Whether `answer` needs to know the client of a call."""
        return self._bounds_clients or self.installed.knows_clients

    async def answer(
        self,
        codec: Codec[_Request, _Pending],
        request: _Request,
        size_bytes: int,
        arrived: int,
        deadline: int,
        client: str,
    ) -> bytes:
        """Answers one parsed request.

        Parameters
        ----------
        size_bytes : int
            Of its message.
        arrived, deadline : int
            On the monotonic clock, in nanoseconds.
        client : str
            Who asks; may be empty while `asks_client` says so.

        Raises
        ------
        PredictionError
            With the request's id; it is counted already.
        """
        serving: Serving | None = None
        pending: _Pending | None = None
        wait = 0
        job: Job[_Request, _Pending] | None = None
        drawn_id = f"{self._boot}-{next(self._drawn):x}"
        refusal: TickserveError
        self.in_flight += 1
        try:
            self._admit(client)
            serving, pending = codec.route(request, self.installed, drawn_id, client)
            wait, limits = self.lag_ns, serving.version.limits
            if limits.max_wait_us and wait > limits.max_wait_us * 1000:
                raise texts.OVERLOADED_WAIT.error(
                    wait_us=wait // 1000, model=serving.version.model, bound_us=limits.max_wait_us
                )
            shape = codec.shape(serving, pending)
            job = Job(codec, serving, pending, shape, arrived, deadline)
            if shape.values * serving.runtime.ns_per_value > _INLINE_NS or size_bytes > _INLINE_BYTES:
                answer = await self._in_pool(job)
            else:
                answer = job.run()
            if len(answer) > self.max_answer_bytes:
                # The client would get grpc's own refusal, which does not say that the model ran.
                raise texts.ANSWER_TOO_LONG.error(size=len(answer), bound=self.max_answer_bytes)
            job.count(wait)
            self._record(codec, serving, request, pending, drawn_id, job, wait)
        except asyncio.CancelledError:
            # The thread may be at it still.
            job = None
            raise
        except PredictionError as error:
            refusal = error
        except Exception:  # noqa: BLE001 - whatever it is, the client gets a status and the log the traceback
            self.keep_fault()
            refusal = texts.INTERNAL.error()
        else:
            return answer
        finally:
            self.in_flight -= 1
            if self.is_draining and not self.in_flight:
                self._idle.set()
            if client and self._bounds_clients:
                self._forget(client)
            if job is not None and job.call is not None and job.call.findings.violations:
                job.serving.tally.count_violations(job.call.findings.violations)
        refusal.request_id = texts.bounded(codec.identify(request, drawn_id), _MAX_ID_BYTES)
        if serving is not None:
            serving.tally.count_error(refusal.reason or "")
            self._record(codec, serving, request, pending, drawn_id, job, wait, refusal)
        else:
            self.count_refusal(refusal, codec.model(request))
        raise refusal

    async def drained(self) -> None:
        """Returns when nothing is in flight while draining."""
        if self.in_flight:
            await self._idle.wait()

    def count_refusal(self, error: TickserveError, model: str = "") -> None:
        """Counts a refusal that reached no version; only names that are known here become labels."""
        is_known = model in self.installed.models or model in self.installed.plan.not_loaded
        key = (model if is_known else "", error.reason or "")
        self.refused[key] = self.refused.get(key, 0) + 1

    def keep_fault(self) -> None:
        """Keeps the traceback of the exception that is being handled, for the log."""
        self.fault_count += 1
        self.faults.append(traceback.format_exc())

    def _record(
        self,
        codec: Codec[_Request, _Pending],
        serving: Serving,
        request: _Request,
        pending: _Pending | None,
        drawn_id: str,
        job: Job[_Request, _Pending] | None,
        wait: int,
        refusal: TickserveError | None = None,
    ) -> None:
        if self.recorder is None or pending is None:
            return
        try:
            self.recorder.record(serving, codec.ask(request, pending), drawn_id, job, wait, refusal)
        except Exception:  # noqa: BLE001 - a record that cannot be written costs no answer, and is in the log
            self.keep_fault()

    def _admit(self, client: str) -> None:
        if client and self._bounds_clients:
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

    async def _in_pool(self, job: Job[_Request, _Pending]) -> bytes:
        runtime = job.serving.runtime
        loop = asyncio.get_running_loop()
        running = self._pool.submit(job.run_in_pool, time.perf_counter_ns())
        # Until the thread is through with it, also where the request is cancelled meanwhile.
        runtime.in_flight += 1
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(runtime.release))
        return await asyncio.wrap_future(running)
