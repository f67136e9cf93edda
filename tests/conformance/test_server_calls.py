"""Everything on the data listener but predictions: liveness, readiness, description, and what is not offered there."""

from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from server.plan import Halt
from tests.conformance.conftest import Bench
from tests.support.models import echo_model, version_plan
from tickserve.v1 import control_pb2
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip
from tickserve.wire import health_pb2, reflection_pb2

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


def test_health_watch_tells_every_change_and_ends_with_the_drain(bench: Bench) -> None:
    def watch(service: str) -> grpc.Call:
        data = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        return bench.channel.unary_stream("/grpc.health.v1.Health/Watch")(data, timeout=20)

    def status(call: grpc.Call) -> str:
        reply = health_pb2.HealthCheckResponse.FromString(next(call))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))

    call, unknown = watch(""), watch("nope")
    assert (status(call), status(unknown)) == ("SERVING", "SERVICE_UNKNOWN")
    bench.engine.set_ready(is_ready=False)
    assert status(call) == "NOT_SERVING"
    bench.engine.set_ready(is_ready=True)
    assert status(call) == "SERVING"
    bench.engine.set_ready(is_ready=False)
    assert status(call) == "NOT_SERVING"
    bench.engine.stop(10.0)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_statistics_count_what_was_answered_and_refused(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, echo_model()))
    bench.predict(features=[1, 2, 3] * 2, rows=2)
    bench.predict(features=[1])
    for request in (oip.ModelStatisticsRequest(), oip.ModelStatisticsRequest(name="echo", version="1")):
        outcome = bench.call(OIP + "ModelStatistics", request.SerializeToString(), oip.ModelStatisticsResponse)
        (found,) = outcome.message.model_stats
        assert (found.name, found.version, found.inference_count, found.execution_count) == ("echo", "1", 2, 1)
        stats = found.inference_stats
        assert (stats.success.count, stats.fail.count, stats.queue.count, stats.cache_hit.count) == (1, 1, 1, 0)
        parts = stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns
        assert 0 < parts == stats.success.ns
        assert found.last_inference > 1_700_000_000_000
    missing = oip.ModelStatisticsRequest(name="nope").SerializeToString()
    assert bench.call(OIP + "ModelStatistics", missing).status == "NOT_FOUND"


def test_repository_index_tells_ready_halted_loading_and_failed(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, echo_model(), name="good"))
    bench.install(version_plan(bench.folder, echo_model(), name="stopped"), halt=Halt("fills", "kim", 1))
    bench.models["good"] = replace(bench.models["good"], halt=None)
    bench.install_models({"new": "", "bad": "model.onnx is damaged"})

    def index(*, ready: bool, name: str = "") -> list[tuple[str, str, str, str]]:
        data = oip.RepositoryIndexRequest(ready=ready, repository_name=name).SerializeToString()
        found = bench.call(OIP + "RepositoryIndex", data, oip.RepositoryIndexResponse).message.models
        return [(model.name, model.version, model.state, model.reason) for model in found]

    assert index(ready=True) == [("good", "1", "READY", "")]
    assert index(ready=False) == [
        ("good", "1", "READY", ""),
        ("stopped", "1", "UNAVAILABLE", "halted by kim: fills"),
        ("bad", "", "UNAVAILABLE", "model.onnx is damaged"),
        ("new", "", "LOADING", ""),
    ]
    other = oip.RepositoryIndexRequest(repository_name="x").SerializeToString()
    assert bench.call(OIP + "RepositoryIndex", other).status == "INVALID_ARGUMENT"
    assert (
        bench.predict(model="bad", features=[1, 2, 3]).text == "model 'bad' could not be loaded: model.onnx is damaged"
    )


@pytest.mark.parametrize("service", ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"])
def test_reflection_describes_every_service(bench: Bench, service: str) -> None:
    def ask(**request: str) -> reflection_pb2.ServerReflectionResponse:
        data = reflection_pb2.ServerReflectionRequest(**request).SerializeToString()
        call = bench.channel.stream_stream(f"/{service}/ServerReflectionInfo")(iter([data]), timeout=20)
        return reflection_pb2.ServerReflectionResponse.FromString(next(call))

    services = {item.name for item in ask(list_services="*").list_services_response.service}
    assert services == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "tickserve.v1.Control",
        "tickserve.v1.Prediction",
    }
    for service_name in services:
        files = ask(file_containing_symbol=service_name).file_descriptor_response.file_descriptor_proto
        pool = descriptor_pool.DescriptorPool()
        for data in reversed(files):
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
        for method in pool.FindServiceByName(service_name).methods:
            found = ask(file_containing_symbol=method.full_name).file_descriptor_response.file_descriptor_proto
            assert list(found) == list(files)
    for symbol in ("tickserve.v1.PredictRequest.rows", "tickserve.v1.ROLE_STABLE", "inference.ModelInput.Format"):
        assert ask(file_containing_symbol=symbol).HasField("file_descriptor_response")
    assert ask(file_by_filename="inference/model_config.proto").HasField("file_descriptor_response")
    assert ask(file_containing_symbol="no.Such").error_response.error_code == 5
    assert ask(file_by_filename="etc/passwd").error_response.error_code == 5
    assert ask().error_response.error_code == 3


def test_malformed_watch_is_refused(bench: Bench) -> None:
    call = bench.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0a\xff", timeout=20)
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_five_megabytes_are_over_the_default_bound(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_message_bytes=4 << 20)
    bench.install(version_plan(bench.folder, echo_model()))
    large = pb.PredictRequest(model="echo", features=[0.0] * (5 << 18)).SerializeToString()
    assert len(large) > 5 << 20
    assert bench.call("/tickserve.v1.Prediction/Predict", large).status == "RESOURCE_EXHAUSTED"
    assert bench.predict(features=[1, 2, 3]).status == "OK"
