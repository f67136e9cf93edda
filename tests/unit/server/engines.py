"""A running python engine with a channel to it, for tests of what the conformance suite cannot see from outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

import grpc

from mlops.routing import MAX_HASH
from server.engine.python import PythonEngine
from server.plan import ModelPlan, Plan, Role, Segment, Split, VersionPlan

BOUND_S = 60.0
PREDICT = "/tickserve.v1.Prediction/Predict"
PREDICT_STREAM = "/tickserve.v1.Prediction/PredictStream"
GET_MODEL = "/tickserve.v1.Prediction/GetModel"
INFER = "/inference.GRPCInferenceService/ModelInfer"
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@contextmanager
def running(*versions: VersionPlan, **bounds: int) -> Iterator[tuple[PythonEngine, str]]:
    """An engine that serves each version as its model's only one, and its address."""
    defaults = {"pool_threads": 1, "max_in_flight": 8, "max_in_flight_per_client": 8, "max_message_bytes": 4 << 20}
    engine = PythonEngine(["127.0.0.1:0"], **(defaults | bounds))  # type: ignore[arg-type]
    (address,) = engine.start()
    models = {}
    for version in versions:
        engine.prepare(version)
        segments = (Segment(MAX_HASH, version.version, Role.STABLE),)
        models[version.model] = ModelPlan(version.model, {version.version: version}, Split(b"", segments))
    engine.install(Plan(1, MappingProxyType(models)))
    engine.set_ready(is_ready=True)
    try:
        yield engine, address
    finally:
        engine.stop(1.0)


@contextmanager
def connection(address: str, **options: int) -> Iterator[grpc.Channel]:
    """A connection that no other channel shares."""
    given = [(f"grpc.{name}", value) for name, value in options.items()]
    with grpc.insecure_channel(address, options=OWN_CONNECTION + given) as channel:
        yield channel


def refused(channel: grpc.Channel, method: str, data: bytes) -> tuple[str, str, str, str]:
    """Status, reason, executed and text of a call that must be refused."""
    try:
        channel.unary_unary(method)(data, timeout=BOUND_S)
    except grpc.RpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        reason, executed = trailers.get("tickserve-reason", ""), trailers.get("tickserve-executed", "")
        return error.code().name, reason, executed, error.details()
    raise AssertionError("it was answered")
