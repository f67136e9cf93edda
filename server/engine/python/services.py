"""What the data listener offers: every service's methods, each bound to what answers it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from server.engine import texts
from server.engine.python import metadata, oip, prediction
from server.engine.python.abort import Context, abort
from server.engine.python.job import Codec
from server.engine.python.pipeline import Pipeline
from server.engine.python.reflection import SERVICES, Reflection
from server.engine.python.statistics import model_statistics
from server.engine.python.streams import AnswerMessage, Streams
from tickserve.errors import TickserveError
from tickserve.v1 import control_pb2

_Request = TypeVar("_Request")
_Pending = TypeVar("_Pending")
Handlers = dict[str, "grpc.RpcMethodHandler[Any, Any]"]


class Services:
    """Binds the methods to the pipeline; keeps readiness and tells those who watch it. On the engine's loop only."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._changed = asyncio.Event()
        self.streams = Streams(pipeline)
        self.is_ready = False

    def set_ready(self, is_ready: bool) -> None:
        """Changes what readiness and health say."""
        self.is_ready = is_ready
        self._wake()

    def refuse(self) -> None:
        """Refuses new requests from now on, and ends what waits for one."""
        self._pipeline.is_draining = True
        self.set_ready(is_ready=False)
        self.streams.end_reading()

    async def drained(self) -> None:
        """Returns when nothing is in flight and every stream has ended, once requests are refused."""
        await self.streams.drained()
        await self._pipeline.drained()

    def handlers(self) -> list[grpc.GenericRpcHandler[Any, Any]]:
        """One generic handler a service."""
        services = {
            "inference.GRPCInferenceService": self._inference(),
            "tickserve.v1.Prediction": {
                "Predict": self._answering(prediction.CODEC),
                "PredictStream": self._streaming(self.streams.predict),
                "GetModel": self._describing(lambda data: prediction.describe(data, self._pipeline.installed)),
            },
            "tickserve.v1.Control": _denied(),
            "grpc.health.v1.Health": {
                "Check": self._describing(lambda data: metadata.health(data, self.is_ready)),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        }
        reflection = Reflection([*services, *SERVICES])

        async def reflect(data: bytes, _arrived: int, _deadline: int, _client: str) -> bytes:
            return reflection.answer(data)

        services |= {name: {"ServerReflectionInfo": self._streaming(reflect)} for name in SERVICES}
        return [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]

    def _inference(self) -> Handlers:
        pipeline = self._pipeline
        return {
            "ServerLive": self._describing(lambda _: metadata.server_live()),
            "ServerReady": self._describing(lambda _: metadata.server_ready(self.is_ready)),
            "ModelReady": self._describing(lambda data: metadata.model_ready(data, pipeline.installed)),
            "ServerMetadata": self._describing(lambda _: metadata.server_metadata()),
            "ModelMetadata": self._describing(lambda data: metadata.model_metadata(data, pipeline.installed)),
            "ModelConfig": self._describing(lambda data: metadata.model_config(data, pipeline.installed)),
            "ModelStatistics": self._describing(lambda data: model_statistics(data, pipeline.installed)),
            "RepositoryIndex": self._describing(lambda data: metadata.repository_index(data, pipeline.installed)),
            "ModelInfer": self._answering(oip.CODEC),
            "ModelStreamInfer": self._streaming(self.streams.infer),
            "RepositoryModelLoad": _deny(),
            "RepositoryModelUnload": _deny(),
        }

    def _answering(self, codec: Codec[_Request, _Pending]) -> grpc.RpcMethodHandler[Any, Any]:
        pipeline = self._pipeline

        async def handle(data: bytes, context: Context) -> bytes:
            arrived = time.perf_counter_ns()
            client = _client(context) if pipeline.asks_client else ""
            try:
                request = codec.parse(data)
            except TickserveError as error:
                pipeline.count_refusal(error)
                raise await abort(context, error) from None
            try:
                return await pipeline.answer(codec, request, len(data), arrived, _deadline_ns(context), client)
            except TickserveError as error:
                raise await abort(context, error) from None

        return grpc.unary_unary_rpc_method_handler(handle)

    def _describing(self, answer: Callable[[bytes], bytes]) -> grpc.RpcMethodHandler[Any, Any]:
        pipeline = self._pipeline

        async def handle(data: bytes, context: Context) -> bytes:
            try:
                description = answer(data)
                if len(description) > pipeline.max_answer_bytes:
                    raise texts.DESCRIPTION_TOO_LONG.error(size=len(description), bound=pipeline.max_answer_bytes)
            except TickserveError as error:
                raise await abort(context, error) from None
            except Exception:  # noqa: BLE001 - whatever it is, the client gets a status and the log the traceback
                pipeline.keep_fault()
                raise await abort(context, texts.FAULT.error()) from None
            return description

        return grpc.unary_unary_rpc_method_handler(handle)

    def _streaming(self, answer: AnswerMessage) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(_requests: Any, context: Context) -> None:
            # Always: a plan that asks for it may come while the stream is open.
            await self.streams.serve(context, answer, _deadline_ns(context), _client(context))

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _watch(self, data: bytes, context: Context) -> None:
        told = b""
        while True:
            changed = self._changed
            try:
                status = metadata.watched_health(data, self.is_ready)
            except TickserveError as error:
                raise await abort(context, error) from None
            if status != told:
                await context.write(status)
                told = status
            if self._pipeline.is_draining:
                raise await abort(context, texts.DRAINING.error())
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _deny() -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(_refuse_here)


def _denied() -> Handlers:
    return {
        method.name: grpc.unary_stream_rpc_method_handler(_refuse_here) if method.server_streaming else _deny()
        for method in control_pb2.DESCRIPTOR.services_by_name["Control"].methods
    }


async def _refuse_here(_data: bytes, context: Context) -> Any:
    raise await abort(context, texts.ADMIN_ONLY.error())


def _deadline_ns(context: Context) -> int:
    """The call's own deadline on the monotonic clock, in nanoseconds."""
    remaining = context.time_remaining()
    return sys.maxsize if remaining is None else time.perf_counter_ns() + int(remaining * 1e9)


def _client(context: Context) -> str:
    """Who asks: the subject of the client's certificate, else the peer's address without its port."""
    subject = b"".join(context.auth_context().get("x509_subject", ()))
    if subject:
        return f"subject:{subject.decode(errors='replace')}"
    return str(context.peer()).rpartition(":")[0] or "unknown"
