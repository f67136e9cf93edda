"""The way of one request: admit, route, then its job on the loop or on the pool; apart from how it arrived."""

import asyncio
import itertools
import os
import time
import traceback
from collections import deque
from concurrent.futures import Executor
from typing import Any, TypeVar

from server.engine import texts
from server.engine.python.call import Asked
from server.engine.python.job import Codec, Job, Retry
from server.engine.python.recorder import Recorder
from server.engine.python.serving import NOTHING_INSTALLED, Installed, Serving
from server.engine.python.shadows import Copy, Shadows, compared_columns, shadow_of
from tickserve.errors import PredictionError, Reason, TickserveError

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
        self,
        pool: Executor,
        *,
        max_in_flight: int,
        max_in_flight_per_client: int,
        max_message_bytes: int,
        shadows: Shadows,
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
        self.shadows = shadows
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
        shadow: Serving | None = None
        asked: Asked | None = None
        answer: bytes | None = None
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
            if serving.shadow is not None:
                asked = codec.ask(request, pending)
                shadow = _sampled(serving, asked, drawn_id, job)
            if shape.values * serving.runtime.ns_per_value > _INLINE_NS or size_bytes > _INLINE_BYTES:
                answer = await self._in_pool(job)
            else:
                answer = job.run()
            if len(answer) > self.max_answer_bytes:
                # The client would get grpc's own refusal, which does not say that the model ran.
                too_long = texts.ANSWER_TOO_LONG.error(size=len(answer), bound=self.max_answer_bytes)
                answer = None
                raise job.unsent(too_long)
            if job.refusal is not None:
                # Of the version that was asked first; the fallback answered.
                raise job.refusal
            job.count(wait)
            self._record(codec, serving, request, pending, asked, drawn_id, job, wait)
            if shadow is not None and asked is not None:
                self._copy(codec, serving, shadow, pending, asked, drawn_id, size_bytes, job)
        except asyncio.CancelledError:
            # The thread may be at it still.
            job = None
            if shadow is not None:
                shadow.runtime.give_back()
            raise
        except PredictionError as error:
            refusal = error
        except Exception:  # noqa: BLE001 - whatever it is, the client gets a status and the log the traceback
            self.keep_fault()
            answer, refusal = None, texts.INTERNAL.error()
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
            self._record(codec, serving, request, pending, asked, drawn_id, job, wait, refusal)
            if job is not None and job.retry is not None:
                self._count_retry(codec, job.retry, request, pending, asked, drawn_id, wait)
            if shadow is not None and asked is not None and job is not None and pending is not None:
                self._copy(codec, serving, shadow, pending, asked, drawn_id, size_bytes, job, refusal)
        else:
            self.count_refusal(refusal, codec.model(request))
        if answer is not None:
            return answer
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
        self._keep(traceback.format_exc())

    def _keep(self, fault: str) -> None:
        self.fault_count += 1
        self.faults.append(fault)

    def _record(
        self,
        codec: Codec[_Request, _Pending],
        serving: Serving,
        request: _Request,
        pending: _Pending | None,
        asked: Asked | None,
        drawn_id: str,
        job: Job[_Request, _Pending] | None,
        wait: int,
        refusal: TickserveError | None = None,
    ) -> None:
        if self.recorder is None or pending is None:
            return
        try:
            self.recorder.record(serving, asked or codec.ask(request, pending), drawn_id, job, wait, refusal)
        except Exception:  # noqa: BLE001 - a record that cannot be written costs no answer, and is in the log
            self.keep_fault()

    def _count_retry(
        self,
        codec: Codec[_Request, _Pending],
        retry: Retry,
        request: _Request,
        pending: _Pending | None,
        asked: Asked | None,
        drawn_id: str,
        wait: int,
    ) -> None:
        """Counts and records what a fallback made of a request."""
        job, tally = retry.job, retry.serving.tally
        if job is not None and job.call is not None:
            tally.count_violations(job.call.findings.violations)
        if retry.fault:
            self._keep(retry.fault)
        if retry.refusal is not None:
            tally.count_error(retry.refusal.reason or "")
        elif job is not None:
            job.count(wait)
        self._record(codec, retry.serving, request, pending, asked, drawn_id, job, wait, retry.refusal)

    def _copy(
        self,
        codec: Codec[_Request, _Pending],
        serving: Serving,
        shadow: Serving,
        pending: _Pending,
        asked: Asked,
        drawn_id: str,
        size_bytes: int,
        job: Job[_Request, _Pending],
        refusal: TickserveError | None = None,
    ) -> None:
        """Hands a request to its shadow in the loop's next turn: once the answer has left.

        Not where the model was not asked, nor where it was too late: a shadow has no deadline to be late for.
        """
        if not job.has_run or (refusal is not None and refusal.reason is Reason.DEADLINE):
            shadow.runtime.give_back()
            return
        copy = Copy(
            shadow=shadow,
            codec=codec,
            pending=pending,
            asked=asked,
            drawn_id=drawn_id,
            size_bytes=size_bytes,
            compared=None if serving.tapped is None else serving.tapped.compared,
            live=compared_columns(serving, job, refusal),
            checked_at_unix_ns=job.checked_at_unix_ns,
            at=time.perf_counter_ns(),
        )
        asyncio.get_running_loop().call_soon(self.shadows.offer, copy)

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
        fallback = job.serving.fallback
        runtimes = [job.serving.runtime] if fallback is None else [job.serving.runtime, fallback.runtime]
        loop = asyncio.get_running_loop()
        running = self._pool.submit(job.run_in_pool, time.perf_counter_ns())
        # Until the thread is through with it, also where the request is cancelled meanwhile.
        for runtime in runtimes:
            runtime.take()
            running.add_done_callback(lambda _, runtime=runtime: loop.call_soon_threadsafe(runtime.release))  # type: ignore[misc]
        return await asyncio.wrap_future(running)


def _sampled(serving: Serving, asked: Asked, drawn_id: str, job: Job[Any, Any]) -> Serving | None:
    """The shadow that is to get a copy of this request, if any; makes ready what is compared then."""
    shadow = shadow_of(serving, asked, drawn_id)
    if shadow is not None:
        shadow.runtime.take()
        job.is_timed = serving.model.latency_edge_ns > 0
    return shadow
