"""A real gRPC server that answers Prediction, Health and Control by a script, and keeps what it was asked."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import grpc

from tickserve.v1 import control_pb2, control_pb2_grpc, prediction_pb2_grpc
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import health_pb2

DIGEST = bytes(range(32))


@dataclass(frozen=True)
class Refusal:
    """A status with trailers, instead of an answer."""

    code: grpc.StatusCode
    message: str = "no"
    trailers: tuple[tuple[str, str], ...] = ()


def describe(
    names: Sequence[str] = ("a", "b", "c"), *, model: str = "m", version: str = "1", digest: bytes = DIGEST
) -> pb.ModelInfo:
    """A model that takes `names` and answers with them, as the echo does."""
    return pb.ModelInfo(
        model=model,
        version=version,
        digest=digest,
        role="ROLE_STABLE",
        plan_generation=7,
        feature_names=names,
        feature_digest=hashlib.sha256(b"".join(name.encode() + b"\0" for name in names)).digest() if names else b"",
        inputs=[pb.TensorSpec(name="features", datatype="FP32", shape=[-1, len(names)])],
        outputs=[pb.TensorSpec(name="echo", datatype="FP32", shape=[-1, len(names)])],
        value_names=[f"echo_{name}" for name in names],
        limits=pb.Limits(max_rows=100, default_deadline_us=1, max_wait_us=2, latency_budget_us=3),
        has_signal=True,
        requires_event_time=True,
        max_age_ns=5,
        max_future_ns=6,
    )


@dataclass
class Script:
    """What the server will say. `refusals` are used up one a request for a prediction; then it echoes the features.

    A stream ends in place of the answer to a sequence that is in `stream_ends`: with that status, or OK for None.
    """

    models: dict[str, pb.ModelInfo] = field(default_factory=lambda: {"m": describe()})
    refusals: deque[Refusal] = field(default_factory=deque)
    get_model_refusal: Refusal | None = None
    control_refusal: Refusal | None = None
    edit: Callable[[pb.PredictResponse], None] = lambda answer: None
    health: deque[int] = field(default_factory=deque)
    status: control_pb2.StatusResponse = field(default_factory=control_pb2.StatusResponse)
    gate: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)
    requests: list[pb.PredictRequest] = field(default_factory=list)
    described: list[pb.GetModelRequest] = field(default_factory=list)
    controlled: list[Any] = field(default_factory=list)
    seconds_left: list[float] = field(default_factory=list)
    streams: list[grpc.ServicerContext] = field(default_factory=list)
    stream_ends: dict[int, Refusal | None] = field(default_factory=dict)
    stream_edit: Callable[[pb.PredictStreamResponse], None] = lambda response: None

    def __post_init__(self) -> None:
        self.gate.set()


class ScriptedServer:
    """Listens on a free port of the loopback interface, or where it is told."""

    def __init__(self, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None) -> None:
        self.script = Script()
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        prediction_pb2_grpc.add_PredictionServicer_to_server(_Prediction(self.script), self._server)
        control_pb2_grpc.add_ControlServicer_to_server(_Control(self.script), self._server)
        self._server.add_generic_rpc_handlers((_health(self.script),))
        port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        """Lets whoever waits go, and ends."""
        self.script.gate.set()
        self.script.is_over.set()
        self._server.stop(0).wait()


class _Prediction(prediction_pb2_grpc.PredictionServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        self._script.seconds_left.append(context.time_remaining())
        answer = self._answer(request)
        if isinstance(answer, Refusal):
            _refuse(context, answer)
        return answer

    def PredictStream(
        self, requests: Iterator[pb.PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.PredictStreamResponse]:
        script = self._script
        script.streams.append(context)
        for message in requests:
            if message.sequence in script.stream_ends:
                refusal = script.stream_ends[message.sequence]
                if refusal is not None:
                    _refuse(context, refusal)
                return
            answer = self._answer(message.predict)
            if isinstance(answer, Refusal):
                response = pb.PredictStreamResponse(sequence=message.sequence, error=_in_band(answer))
            else:
                response = pb.PredictStreamResponse(sequence=message.sequence, answer=answer)
            script.stream_edit(response)
            yield response

    def _answer(self, request: pb.PredictRequest) -> "pb.PredictResponse | Refusal":
        script = self._script
        script.requests.append(request)
        script.gate.wait()
        if script.refusals:
            return script.refusals.popleft()
        info = script.models[request.model]
        if request.feature_digest not in (b"", info.feature_digest):
            return changed(executed="0")
        rows = request.rows or 1
        answer = pb.PredictResponse(
            request_id=request.request_id,
            model=request.model,
            version=info.version,
            digest=info.digest,
            role="ROLE_STABLE",
            plan_generation=info.plan_generation,
            values=request.features or [value.value for value in request.named],
            rows=rows,
            signal=[0.5] * rows,
            position_scale=0.25,
            server_duration_ns=1234,
        )
        script.edit(answer)
        return answer

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.ModelInfo:
        self._script.described.append(request)
        self._script.gate.wait()
        if self._script.get_model_refusal is not None:
            _refuse(context, self._script.get_model_refusal)
        return self._script.models[request.model]


class _Control(control_pb2_grpc.ControlServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def Status(self, request: Any, context: grpc.ServicerContext) -> control_pb2.StatusResponse:
        return self._answer(request, context, self._script.status)

    def Halt(self, request: Any, context: grpc.ServicerContext) -> control_pb2.HaltResponse:
        models = [request.model] if request.model else sorted(self._script.models)
        return self._answer(request, context, control_pb2.HaltResponse(models=models, plan_generation=8))

    def Resume(self, request: Any, context: grpc.ServicerContext) -> control_pb2.ResumeResponse:
        models = [request.model] if request.model else sorted(self._script.models)
        return self._answer(request, context, control_pb2.ResumeResponse(models=models, plan_generation=9))

    def Drain(self, request: Any, context: grpc.ServicerContext) -> control_pb2.DrainResponse:
        return self._answer(request, context, control_pb2.DrainResponse())

    def _answer(self, request: Any, context: grpc.ServicerContext, answer: Any) -> Any:
        self._script.controlled.append(request)
        if self._script.control_refusal is not None:
            _refuse(context, self._script.control_refusal)
        return answer


def changed(*, executed: str) -> Refusal:
    """The refusal of a feature digest."""
    trailers = (("tickserve-reason", "FEATURES_CHANGED"), ("tickserve-executed", executed))
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, "other order", trailers)


def _health(script: Script) -> grpc.GenericRpcHandler:
    def check(_request: Any, _context: grpc.ServicerContext) -> Any:
        status = script.health.popleft() if len(script.health) > 1 else script.health[0]
        return health_pb2.HealthCheckResponse(status=status)

    def watch(_request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        said = None
        while context.is_active() and not script.is_over.is_set():
            status = script.health[-1] if script.health else health_pb2.HealthCheckResponse.SERVING
            if status != said:
                said = status
                yield health_pb2.HealthCheckResponse(status=status)
            script.is_over.wait(0.002)

    coding = {
        "request_deserializer": health_pb2.HealthCheckRequest.FromString,
        "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
    }
    return grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health",
        {
            "Check": grpc.unary_unary_rpc_method_handler(check, **coding),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, **coding),
        },
    )


def _in_band(refusal: Refusal) -> pb.Error:
    said = dict(refusal.trailers)
    return pb.Error(
        code=refusal.code.value[0],
        message=refusal.message,
        reason=f"REASON_{said['tickserve-reason']}" if "tickserve-reason" in said else "REASON_UNSPECIFIED",
        executed=said.get("tickserve-executed") != "0",
        field=unquote(said.get("tickserve-field", "")),
    )


def _refuse(context: grpc.ServicerContext, refusal: Refusal) -> None:
    context.set_trailing_metadata(refusal.trailers)
    context.abort(refusal.code, refusal.message)
