"""Answers that change with what is installed, with readiness, and with what was asked before."""

import time

import grpc
import pytest

from mlops.package import EventTimeRule, InputRules
from server.plan import Halt
from tests.conformance.conftest import Bench
from tests.conformance.served import tensor
from tests.support.models import constant_model, echo_model, version_plan
from tickserve.wire import grpc_service_pb2 as oip
from tickserve.wire import health_pb2

OIP = "/inference.GRPCInferenceService/"
ONE_VALUE = (tensor("values", "FP32", -1, 1),)


def test_installing_another_version_changes_whole_answers(bench: Bench) -> None:
    first = version_plan(bench.folder, constant_model(1.0), outputs=ONE_VALUE)
    second = version_plan(bench.folder, constant_model(2.0), version="2", outputs=ONE_VALUE)
    for version, value in ((first, 1.0), (second, 2.0), (first, 1.0)):
        bench.install(version)
        answer = bench.predict().message
        assert (answer.version, list(answer.values)) == (version.version, [value])
        assert (answer.digest, answer.plan_generation) == (version.digest, bench.generation)


def test_readiness_follows_what_is_set(bench: Bench) -> None:
    for is_ready in (False, True):
        bench.engine.set_ready(is_ready=is_ready)
        assert bench.call(OIP + "ServerLive", b"", oip.ServerLiveResponse).message.live
        assert bench.call(OIP + "ServerReady", b"", oip.ServerReadyResponse).message.ready is is_ready
        status = bench.call("/grpc.health.v1.Health/Check", b"", health_pb2.HealthCheckResponse).message.status
        assert status == (
            health_pb2.HealthCheckResponse.SERVING if is_ready else health_pb2.HealthCheckResponse.NOT_SERVING
        )


def test_model_is_ready_once_installed_and_until_halted(bench: Bench) -> None:
    def is_ready() -> bool:
        data = oip.ModelReadyRequest(name="echo").SerializeToString()
        return bool(bench.call(OIP + "ModelReady", data, oip.ModelReadyResponse).message.ready)

    assert not is_ready()
    plan = version_plan(bench.folder, echo_model())
    bench.install(plan)
    assert is_ready()
    bench.install(plan, halt=Halt("reason", "actor", 1))
    assert not is_ready()


def test_watch_tells_every_change_and_ends_with_the_drain(bench: Bench) -> None:
    def watch(service: str) -> grpc.Call:
        data = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        return bench.channel.unary_stream("/grpc.health.v1.Health/Watch")(data, timeout=60)

    def status(call: grpc.Call) -> str:
        reply = health_pb2.HealthCheckResponse.FromString(next(call))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))

    call, unknown = watch(""), watch("nope")
    assert (status(call), status(unknown)) == ("SERVING", "SERVICE_UNKNOWN")
    for is_ready, told in ((False, "NOT_SERVING"), (True, "SERVING"), (False, "NOT_SERVING")):
        bench.engine.set_ready(is_ready=is_ready)
        assert status(call) == told
    bench.engine.stop(10.0)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_event_time_is_held_against_the_clock(bench: Bench) -> None:
    rule = EventTimeRule(required=True, max_age_s=60, max_future_s=60)
    bench.install(version_plan(bench.folder, echo_model(), input_rules=InputRules(event_time=rule)))
    for shift_s, reason in ((0, ""), (-120, "STALE_INPUT"), (120, "STALE_INPUT")):
        assert bench.predict(event_time_unix_ns=time.time_ns() + shift_s * 10**9).reason == reason


def test_statistics_count_what_was_answered_and_refused(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, echo_model()))
    before_ms = time.time_ns() // 1_000_000
    bench.predict(features=[1, 2, 3] * 2, rows=2)
    bench.predict(features=[1])
    for request in (oip.ModelStatisticsRequest(), oip.ModelStatisticsRequest(name="echo", version="1")):
        seen = bench.call(OIP + "ModelStatistics", request.SerializeToString(), oip.ModelStatisticsResponse)
        (found,) = seen.message.model_stats
        assert (found.name, found.version, found.inference_count, found.execution_count) == ("echo", "1", 2, 1)
        stats = found.inference_stats
        assert (stats.success.count, stats.fail.count, stats.queue.count, stats.cache_hit.count) == (1, 1, 1, 0)
        parts = stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns
        assert 0 < parts == stats.success.ns
        assert found.last_inference >= before_ms
