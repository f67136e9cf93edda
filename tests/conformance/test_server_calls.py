"""Everything on the data listener but predictions: liveness, readiness, description, and what is not offered there."""

import pytest

from server.plan import Halt
from tests.conformance.conftest import Bench
from tests.support.models import echo_model, version_plan
from tickserve.v1 import control_pb2
from tickserve.wire import grpc_service_pb2 as oip
from tickserve.wire import health_pb2

OIP = "/inference.GRPCInferenceService/"


def test_liveness_and_readiness(bench: Bench) -> None:
    assert bench.call(OIP + "ServerLive", b"", oip.ServerLiveResponse).message.live
    assert bench.call(OIP + "ServerReady", b"", oip.ServerReadyResponse).message.ready
    bench.engine.set_ready(is_ready=False)
    assert bench.call(OIP + "ServerLive", b"", oip.ServerLiveResponse).message.live
    assert not bench.call(OIP + "ServerReady", b"", oip.ServerReadyResponse).message.ready


def test_model_ready_follows_the_truth(bench: Bench) -> None:
    def is_ready(name: str, version: str = "") -> bool:
        data = oip.ModelReadyRequest(name=name, version=version).SerializeToString()
        return bool(bench.call(OIP + "ModelReady", data, oip.ModelReadyResponse).message.ready)

    assert not is_ready("echo")
    plan = version_plan(bench.folder, echo_model())
    bench.install(plan)
    assert is_ready("echo")
    assert is_ready("echo", "1")
    assert not is_ready("echo", "2")
    bench.install(plan, halt=Halt("reason", "actor", 1))
    assert not is_ready("echo")


def test_health_check_follows_readiness(bench: Bench) -> None:
    def check(service: str) -> str:
        data = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        outcome = bench.call("/grpc.health.v1.Health/Check", data, health_pb2.HealthCheckResponse)
        return outcome.status if outcome.message is None else str(outcome.message.status)

    serving = str(health_pb2.HealthCheckResponse.SERVING)
    for service in ("", "inference.GRPCInferenceService", "tickserve.v1.Prediction"):
        assert check(service) == serving
    assert check("nope") == "NOT_FOUND"
    bench.engine.set_ready(is_ready=False)
    assert check("") == str(health_pb2.HealthCheckResponse.NOT_SERVING)


def test_metadata_and_config_tell_the_schema(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, echo_model()))
    data = oip.ModelMetadataRequest(name="echo").SerializeToString()
    metadata = bench.call(OIP + "ModelMetadata", data, oip.ModelMetadataResponse).message
    assert (list(metadata.versions), metadata.platform) == (["1"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("features", "FP32", [-1, 3])]
    assert metadata.properties["feature_names"] == "momentum,rsi,volume"
    data = oip.ModelConfigRequest(name="echo").SerializeToString()
    config = bench.call(OIP + "ModelConfig", data, oip.ModelConfigResponse).message.config
    assert (config.max_batch_size, list(config.input[0].dims), config.backend) == (0, [-1, 3], "onnxruntime")
    for method, data in (
        ("ModelMetadata", oip.ModelMetadataRequest(name="nope").SerializeToString()),
        ("ModelConfig", oip.ModelConfigRequest(name="echo", version="3").SerializeToString()),
    ):
        assert bench.call(OIP + method, data).status == "NOT_FOUND"
    assert bench.call(OIP + "ModelMetadata", b"\x0a\xff").status == "INVALID_ARGUMENT"


@pytest.mark.parametrize("method", [m.name for m in control_pb2.DESCRIPTOR.services_by_name["Control"].methods])
def test_control_is_denied_on_the_data_listener(bench: Bench, method: str) -> None:
    if method == "Events":
        call = bench.channel.unary_stream("/tickserve.v1.Control/Events")(b"", timeout=10)
        assert call.code().name == "PERMISSION_DENIED"
    else:
        assert bench.call(f"/tickserve.v1.Control/{method}", b"").status == "PERMISSION_DENIED"


def test_repository_changes_are_denied_and_the_rest_is_unimplemented(bench: Bench) -> None:
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        assert bench.call(OIP + method, b"").status == "PERMISSION_DENIED"
    assert bench.call(OIP + "SystemSharedMemoryStatus", b"").status == "UNIMPLEMENTED"
