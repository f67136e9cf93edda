"""Bad clients are harmless: whatever they send or leave undone, they get a status and the others their answers."""

import os
import random
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from mlops.package import Limits
from tests.conformance.conftest import Bench
from tests.conformance.test_oip import request as infer_request
from tests.conformance.test_prediction import ONE_VALUE
from tests.conformance.test_streams import PREDICT_STREAM, Stream, message
from tests.support.models import echo_model, slow_model, version_plan
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICT = "/tickserve.v1.Prediction/Predict"
MUTATIONS = 10_000
#: Statuses that a request may meet whatever its bytes are.
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


@pytest.fixture
def echo(bench: Bench) -> Bench:
    bench.install(version_plan(bench.folder, echo_model(), limits=Limits(max_rows=64)))
    return bench


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mutate(data: bytes, generator: random.Random) -> bytes:
    """One to four edits: a byte changed, cut, doubled, or a run of bytes moved."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(changed) + 1)
        match generator.randrange(5):
            case 0 if place < len(changed):
                changed[place] = generator.randrange(256)
            case 1 if place < len(changed):
                changed[place] ^= 1 << generator.randrange(8)
            case 2:
                del changed[place : place + generator.randint(1, 8)]
            case 3:
                changed[place:place] = generator.randbytes(generator.randint(1, 8))
            case _:
                changed[place:place] = changed[: generator.randint(1, 16)]
    return bytes(changed)


def test_mutated_requests_always_get_a_status_and_leak_nothing(echo: Bench) -> None:
    generator = random.Random(20261122)
    named = [pb.NamedValue(name=name, value=1.0) for name in ("momentum", "rsi", "volume")]
    parameters = infer_request()
    parameters.parameters["tickserve_routing_key"].string_param = "SPY"
    parameters.parameters["timeout"].int64_param = 1_000_000
    typed = infer_request()
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.fp32_contents.extend([1, 2, 3])
    seeds = [
        (INFER, infer_request().SerializeToString()),
        (INFER, parameters.SerializeToString()),
        (INFER, typed.SerializeToString()),
        (PREDICT, pb.PredictRequest(model="echo", features=[1, 2, 3], request_id="x").SerializeToString()),
        (
            PREDICT,
            pb.PredictRequest(model="echo", named=named, event_time_unix_ns=1, entities=["SPY"]).SerializeToString(),
        ),
    ]
    described = oip.ModelMetadataRequest(name="echo", version="1").SerializeToString()
    describing = ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex")
    seeds += [(f"/inference.GRPCInferenceService/{method}", described) for method in describing]
    seeds.append(("/tickserve.v1.Prediction/GetModel", pb.GetModelRequest(model="echo").SerializeToString()))
    seeds.append(("/grpc.health.v1.Health/Check", b"\x0a\x1ainference.GRPCInferenceService"))
    calls = {method: echo.channel.unary_unary(method) for method, _ in seeds}
    statuses: set[grpc.StatusCode] = set()

    def send(count: int) -> None:
        for _ in range(0, count, 8):
            chosen = [generator.choice(seeds) for _ in range(8)]
            futures = [calls[method].future(mutate(data, generator), timeout=20) for method, data in chosen]
            statuses.update(future.code() for future in futures)

    # What the first requests take, caches and pools, is not a leak.
    send(MUTATIONS // 2)
    memory, files = resident_bytes(), descriptors()
    send(MUTATIONS // 2)
    assert statuses <= EXPECTED
    assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT} <= statuses
    assert resident_bytes() - memory < 16 << 20
    assert descriptors() <= files + 2
    assert echo.engine.counters().faults == 0
    assert echo.engine.counters().in_flight == 0
    assert echo.predict(features=[1, 2, 3]).status == "OK"


def address(bench: Bench) -> tuple[str, int]:
    host, _, port = bench.address.rpartition(":")
    return host, int(port)


def test_a_thousand_connections_opened_and_dropped(echo: Bench) -> None:
    before = descriptors()
    endings: list[Callable[[socket.socket], object]] = [
        lambda s: None,
        lambda s: s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        lambda s: s.sendall(b"GET / HTTP/1.1\r\n\r\n"),
        lambda s: s.sendall(os.urandom(64)),
        # A reset instead of an orderly end.
        lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),
    ]
    for number in range(1000):
        with socket.create_connection(address(echo), timeout=10) as connection:
            endings[number % len(endings)](connection)
    assert echo.predict(features=[1, 2, 3]).status == "OK"
    deadline = time.monotonic() + 20
    while descriptors() > before + 5 and time.monotonic() < deadline:
        echo.predict(features=[1, 2, 3])
    assert descriptors() <= before + 5


def unread_answers(bench: Bench) -> int:
    """Answers of 64 rows, told by the rows from those of one."""
    counted = bench.counted("echo")
    return (counted.rows - counted.answered) // 63


def test_a_client_that_never_reads_is_not_read_either(echo: Bench) -> None:
    with grpc.insecure_channel(echo.address, options=[("grpc.http2.bdp_probe", 0)]) as channel:
        stuck = Stream(channel, PREDICT_STREAM)
        before = resident_bytes()
        features = np.zeros(64 * 3, np.float32)
        for sequence in range(3000):
            stuck.send(message(sequence, features=features, rows=64))
        unread = -1
        while (now := unread_answers(echo)) != unread:
            unread = now
            for _ in range(50):
                assert echo.predict(features=[1, 2, 3]).status == "OK"
        # The answers that no one reads are bounded by the flow-control windows, not by what was asked.
        assert 0 < unread < 1000
        assert resident_bytes() - before < 64 << 20
        stuck.call.cancel()
        stuck.close()
    assert echo.predict(features=[1, 2, 3]).status == "OK"


def test_a_client_that_dies_in_the_middle_of_a_stream(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, slow_model(), name="slow", outputs=ONE_VALUE))
    bench.install(version_plan(bench.folder, echo_model()))
    for _ in range(10):
        channel = grpc.insecure_channel(bench.address)
        stream = Stream(channel, PREDICT_STREAM)
        stream.predict(1)
        stream.send(message(2, model="slow"))
        channel.close()
        stream.close()
    deadline = time.monotonic() + 20
    while bench.engine.counters().in_flight and time.monotonic() < deadline:
        bench.predict(features=[1, 2, 3])
    assert bench.engine.counters().in_flight == 0


def test_one_client_cannot_take_every_place(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_in_flight=8, max_in_flight_per_client=2)
    bench.install(version_plan(bench.folder, slow_model(), outputs=ONE_VALUE))
    data = pb.PredictRequest(model="echo", features=[1, 2, 3]).SerializeToString()
    futures = [bench.channel.unary_unary(PREDICT).future(data, timeout=20) for _ in range(10)]
    outcomes = [(future.code().name, dict(future.trailing_metadata()).get("tickserve-reason")) for future in futures]
    assert set(outcomes) == {("OK", None), ("RESOURCE_EXHAUSTED", "RATE_LIMITED")}
    refused = next(future for future in futures if future.code() is not grpc.StatusCode.OK)
    assert refused.details() == "3 requests of this client are in flight, the bound is 2"
    assert bench.predict(features=[1, 2, 3]).status == "OK"
