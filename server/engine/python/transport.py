"""The data listener of the python engine: grpc.aio over bytes, and the way of one request through the stages."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar
from urllib.parse import quote

import grpc

from server.engine import texts
from server.engine.python import metadata, oip, prediction
from server.engine.python.rules import Array
from server.engine.python.runtime import Call
from server.engine.python.serving import NOTHING_INSTALLED, Installed, Serving
from tickserve.errors import Code, ControlError, PredictionError, TickserveError
from tickserve.v1 import control_pb2
from tickserve.wire import find_service

#: A request that should run longer than this leaves the event loop for a thread of the pool.
_INLINE_NS = 200_000
_LAG_PERIOD_S = 0.01
_STATUS = {code.value[0]: code for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext[Any, Any]
_Pending = TypeVar("_Pending")


class Transport:
    """Answers requests on the event loop that `start` is awaited on. Its other methods run on that loop too.

    Invariant: between the checks and the answer of a request that runs inline there is no await, so bound buffers,
    counts and the request itself need no lock.
    """

    def __init__(self, listeners: Sequence[str], pool: Executor, *, max_in_flight: int, max_message_bytes: int) -> None:
        self._listeners = listeners
        self._pool = pool
        self._max_in_flight = max_in_flight
        self._max_message_bytes = max_message_bytes
        self._boot = os.urandom(6).hex()
        self._drawn = itertools.count(1)
        self._server: grpc.aio.Server | None = None
        self._lag_task: asyncio.Task[None] | None = None
        self.installed = NOTHING_INSTALLED
        self.is_ready = False
        self.is_draining = False
        self.in_flight = 0
        self.lag_ns = 0
        self.refused: dict[tuple[str, str], int] = {}
        self.faults: deque[str] = deque(maxlen=32)
        self.fault_count = 0

    async def start(self) -> list[str]:
        """Opens the listeners and returns their addresses. Raises RuntimeError naming one that cannot be bound."""
        options = [
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", self._max_message_bytes),
            ("grpc.max_concurrent_streams", 128),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(self._handlers())
        addresses = []
        for listener in self._listeners:
            port = self._server.add_insecure_port(listener)
            addresses.append(listener if listener.startswith("unix:") else f"{listener.rpartition(':')[0]}:{port}")
        await self._server.start()
        self._lag_task = asyncio.create_task(self._sample_lag())
        return addresses

    async def stop(self, grace_s: float) -> None:
        """Refuses new requests, waits for those in flight, closes."""
        self.is_draining = True
        self.is_ready = False
        if self._server is not None:
            await self._server.stop(grace_s)
        if self._lag_task is not None:
            self._lag_task.cancel()

    async def _infer(self, data: bytes, context: Context) -> bytes:
        return await self._answer(oip.route, oip.decode, oip.encode, data, context)

    async def _predict(self, data: bytes, context: Context) -> bytes:
        return await self._answer(prediction.route, prediction.decode, prediction.encode, data, context)

    async def _answer(
        self,
        route: Callable[[bytes, Installed, str], tuple[Serving, _Pending]],
        decode: Callable[[Serving, _Pending], Call],
        encode: Callable[[Serving, Call, Sequence[Array], int], bytes],
        data: bytes,
        context: Context,
    ) -> bytes:
        arrived = time.perf_counter_ns()
        serving: Serving | None = None
        drawn_id = f"{self._boot}-{next(self._drawn):x}"
        self.in_flight += 1
        try:
            if self.is_draining:
                raise texts.DRAINING.error()
            if self.in_flight > self._max_in_flight:
                raise texts.OVERLOADED_IN_FLIGHT.error(count=self.in_flight, bound=self._max_in_flight)
            serving, pending = route(data, self.installed, drawn_id)
            call = decode(serving, pending)
            runtime, tally = serving.runtime, serving.tally
            wait = self.lag_ns
            decoded = time.perf_counter_ns()
            limits = serving.version.limits
            if limits.max_wait_us and wait > limits.max_wait_us * 1000:
                raise texts.OVERLOADED_WAIT.error(
                    wait_us=wait // 1000, model=serving.version.model, bound_us=limits.max_wait_us
                )
            deadline = _deadline_ns(arrived, call.timeout_us or limits.default_deadline_us, context)
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
            answer = encode(serving, call, outputs, validated - arrived)
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
        self._count(serving, refusal)
        raise await _abort(context, refusal)

    async def _run_in_pool(self, serving: Serving, call: Call, deadline: int) -> list[Array]:
        runtime = serving.runtime
        runtime.in_flight += 1
        try:
            loop = asyncio.get_running_loop()
            outputs = await loop.run_in_executor(self._pool, _run_unless_late, serving, call, deadline)
        finally:
            runtime.in_flight -= 1
        if time.perf_counter_ns() > deadline:
            raise texts.DEADLINE_RAN.error()
        return outputs

    def _count(self, serving: Serving | None, error: PredictionError) -> None:
        reason = error.reason or ""
        if serving is not None:
            serving.tally.count_error(reason)
        else:
            self.refused["", reason] = self.refused.get(("", reason), 0) + 1

    async def _sample_lag(self) -> None:
        """Keeps `lag_ns`: how long one pass of the loop takes, which is how long a request that arrives waits.

        The pass is timed from a callback to the next pass's; a timer's own lateness is mostly rounding.
        """
        while True:
            await asyncio.sleep(_LAG_PERIOD_S)
            start = time.perf_counter_ns()
            await asyncio.sleep(0)
            self.lag_ns = time.perf_counter_ns() - start

    def _handlers(self) -> list[grpc.GenericRpcHandler[Any, Any]]:
        described = {
            "ServerLive": lambda data: metadata.server_live(),
            "ServerReady": lambda data: metadata.server_ready(self.is_ready),
            "ModelReady": lambda data: metadata.model_ready(data, self.installed),
            "ServerMetadata": lambda data: metadata.server_metadata(),
            "ModelMetadata": lambda data: metadata.model_metadata(data, self.installed),
            "ModelConfig": lambda data: metadata.model_config(data, self.installed),
        }
        inference = {name: _unary(self._describing(answer)) for name, answer in described.items()}
        inference["ModelInfer"] = _unary(self._infer)
        for name in ("RepositoryModelLoad", "RepositoryModelUnload"):
            inference[name] = _unary(_deny)
        predictions = {
            "Predict": _unary(self._predict),
            "GetModel": _unary(self._describing(lambda data: prediction.describe(data, self.installed))),
        }
        health = {"Check": _unary(self._describing(lambda data: metadata.health(data, self.is_ready)))}
        control = {
            method.name: grpc.unary_stream_rpc_method_handler(_deny_stream)
            if method.server_streaming
            else _unary(_deny)
            for method in control_pb2.DESCRIPTOR.services_by_name["Control"].methods
        }
        services = {
            find_service("inference.GRPCInferenceService").full_name: inference,
            find_service("grpc.health.v1.Health").full_name: health,
            "tickserve.v1.Prediction": predictions,
            "tickserve.v1.Control": control,
        }
        return [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]

    def _describing(self, answer: Callable[[bytes], bytes]) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handler(data: bytes, context: Context) -> bytes:
            try:
                return answer(data)
            except TickserveError as error:
                raise await _abort(context, error) from None

        return handler


def _run_unless_late(serving: Serving, call: Call, deadline: int) -> list[Array]:
    if time.perf_counter_ns() > deadline:
        raise texts.DEADLINE.error()
    return serving.runtime.session.run(call.arrays)


def _deadline_ns(arrived: int, timeout_us: int, context: Context) -> int:
    """The earlier of the call's own deadline and the one asked for, on the monotonic clock."""
    deadline = arrived + timeout_us * 1000 if timeout_us else sys.maxsize
    remaining = context.time_remaining()
    if remaining is not None:
        deadline = min(deadline, time.perf_counter_ns() + int(remaining * 1e9))
    return deadline


async def _abort(context: Context, error: TickserveError) -> Exception:
    """Ends the call with the error's status; raises, and returns only for the type checker's sake."""
    trailers = [("tickserve-executed", "1" if error.executed else "0")]
    if error.reason is not None:
        trailers.append(("tickserve-reason", error.reason.value))
    if error.field:
        trailers.append(("tickserve-field", quote(error.field)))
    await context.abort(_STATUS[error.code], error.message, tuple(trailers))
    return error


async def _deny(_data: bytes, context: Context) -> bytes:
    raise await _abort(context, ControlError(metadata.ADMIN_ONLY, code=Code.PERMISSION_DENIED))


async def _deny_stream(_data: bytes, context: Context) -> None:
    raise await _abort(context, ControlError(metadata.ADMIN_ONLY, code=Code.PERMISSION_DENIED))


def _unary(handler: Callable[[bytes, Context], Awaitable[bytes]]) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(handler)
