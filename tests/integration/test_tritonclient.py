"""tritonclient, unmodified: blocking, asyncio and streams, and beside our server in one process."""

import queue
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from mlops.routing import MAX_HASH
from server.engine.python import PythonEngine
from server.plan import ModelPlan, Plan, Role, Segment, Split
from tests.e2e.conftest import Running
from tests.support.models import echo_model, version_plan

WAIT_S = 60.0
HALF = np.full((4, 1), 0.5, np.float32)


@pytest.fixture
def client(served: Running) -> Iterator[Any]:
    """A blocking client of the served model."""
    with tritonclient.grpc.InferenceServerClient(served.address) as made:
        yield made


def tensor(rows: int = 4, module: Any = tritonclient.grpc) -> Any:
    made = module.InferInput("features", [rows, 3], "FP32")
    made.set_data_from_numpy(np.ones((rows, 3), dtype=np.float32))
    return made


def status_of(call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The status that a call is refused with."""
    with pytest.raises(InferenceServerException) as refused:
        call(*arguments, **options)
    return str(refused.value.status()).removeprefix("StatusCode.")


def test_blocking_client_infers_and_reads_the_schema(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("demo")
    assert "statistics" in client.get_server_metadata().extensions
    assert client.get_model_metadata("demo").inputs[0].name == "features"
    assert client.get_model_config("demo").config.max_batch_size == 0
    result = client.infer("demo", [tensor()], request_id="t-1", client_timeout=WAIT_S)
    np.testing.assert_array_equal(result.as_numpy("values"), HALF)
    assert result.get_response().id == "t-1"
    assert status_of(client.infer, "nope", [tensor()], client_timeout=WAIT_S) == "NOT_FOUND"


def test_our_parameters_travel_both_ways(client: Any, served: Running) -> None:
    (model,) = served.control.status().models
    result = client.infer(
        "demo", [tensor()], timeout=10_000_000, priority=1, parameters={"tickserve_routing_key": "account-7"}
    )
    answered = result.get_response().parameters
    assert answered["tickserve_digest"].string_param == model.versions[0].digest
    assert answered["tickserve_role"].string_param == "stable"
    wrong = {"tickserve_feature_digest": "00" * 32}
    assert status_of(client.infer, "demo", [tensor()], parameters=wrong) == "FAILED_PRECONDITION"


def test_callbacks_of_async_infer_arrive(client: Any) -> None:
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for number in range(16):
        client.async_infer(
            "demo", [tensor()], lambda result, error: arrived.put((result, error)), request_id=str(number)
        )
    pairs = [arrived.get(timeout=WAIT_S) for _ in range(16)]
    assert [error for _, error in pairs if error] == []
    assert {result.get_response().id for result, _ in pairs} == {str(number) for number in range(16)}


def test_stream_answers_in_order_and_outlives_a_bad_request(client: Any) -> None:
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: arrived.put((result, error)))
    for number in range(8):
        client.async_stream_infer("demo" if number != 3 else "nope", [tensor()], request_id=str(number))
    pairs = [arrived.get(timeout=WAIT_S) for _ in range(8)]
    client.stop_stream()
    assert arrived.empty()
    assert [result.get_response().id for result, error in pairs if error is None] == list("0124567")
    np.testing.assert_array_equal(pairs[-1][0].as_numpy("values"), HALF)
    assert "unknown model 'nope'" in str(pairs[3][1])


async def test_asyncio_client_infers_and_streams(served: Running) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(8):
            inputs = [tensor(module=tritonclient.grpc.aio)]
            yield {"model_name": "demo" if number != 3 else "nope", "inputs": inputs, "request_id": str(number)}

    async with tritonclient.grpc.aio.InferenceServerClient(served.address) as client:
        assert await client.is_model_ready("demo")
        result = await client.infer("demo", [tensor(module=tritonclient.grpc.aio)], client_timeout=WAIT_S)
        np.testing.assert_array_equal(result.as_numpy("values"), HALF)
        pairs = [pair async for pair in client.stream_infer(requests(), stream_timeout=WAIT_S)]
    assert [result.get_response().id for result, error in pairs if error is None] == list("0124567")
    assert "unknown model 'nope'" in str(pairs[3][1])


def test_statistics_count_what_was_asked(client: Any) -> None:
    for _ in range(3):
        client.infer("demo", [tensor(rows=1)])
    assert status_of(client.infer, "demo", [tensor(rows=1)], sequence_id=7) == "INVALID_ARGUMENT"
    (model,) = client.get_inference_statistics("demo").model_stats
    assert (model.name, model.version) == ("demo", "1")
    assert (model.inference_count, model.execution_count) == (3, 3)
    stats = model.inference_stats
    assert (stats.success.count, stats.queue.count, stats.compute_infer.count) == (3, 3, 3)
    assert 0 < stats.compute_infer.ns < stats.success.ns
    assert model.last_inference > 0
    assert len(client.get_inference_statistics().model_stats) == 1
    assert status_of(client.get_inference_statistics, "nope") == "NOT_FOUND"


def test_repository_is_listed_and_cannot_be_changed_from_here(client: Any) -> None:
    (model,) = client.get_model_repository_index().models
    assert (model.name, model.version, model.state) == ("demo", "1", "READY")
    assert status_of(client.load_model, "demo") == "PERMISSION_DENIED"
    assert status_of(client.load_model, "demo", config="{}") == "PERMISSION_DENIED"
    assert status_of(client.unload_model, "demo") == "PERMISSION_DENIED"
    assert client.is_model_ready("demo")


def test_what_is_not_offered_is_refused_and_not_ignored(client: Any) -> None:
    assert status_of(client.get_system_shared_memory_status) == "UNIMPLEMENTED"
    assert status_of(client.register_system_shared_memory, "region", "/region", 64) == "UNIMPLEMENTED"
    assert status_of(client.unregister_system_shared_memory, "region") == "UNIMPLEMENTED"
    assert status_of(client.register_cuda_shared_memory, "region", b"", 0, 64) == "UNIMPLEMENTED"
    assert status_of(client.get_trace_settings, "demo") == "UNIMPLEMENTED"
    assert status_of(client.get_log_settings) == "UNIMPLEMENTED"
    shared = tritonclient.grpc.InferInput("features", [4, 3], "FP32")
    shared.set_shared_memory("region", 48)
    assert status_of(client.infer, "demo", [shared]) == "INVALID_ARGUMENT"
    classes = tritonclient.grpc.InferRequestedOutput("values", class_count=1)
    assert status_of(client.infer, "demo", [tensor()], outputs=[classes]) == "INVALID_ARGUMENT"


def test_client_and_server_live_in_one_process(tmp_path: Path) -> None:
    version = version_plan(tmp_path, echo_model())
    engine = PythonEngine(
        ["127.0.0.1:0"], pool_threads=1, max_in_flight=8, max_in_flight_per_client=8, max_message_bytes=1 << 20
    )
    (address,) = engine.start()
    try:
        engine.prepare(version)
        split = Split(b"", (Segment(MAX_HASH, "1", Role.STABLE),))
        model = ModelPlan(name="echo", versions={"1": version}, split=split)
        engine.install(Plan(1, MappingProxyType({"echo": model})))
        with tritonclient.grpc.InferenceServerClient(address) as client:
            result = client.infer("echo", [tensor()], client_timeout=WAIT_S)
        np.testing.assert_array_equal(result.as_numpy("values"), np.ones((4, 3), np.float32))
    finally:
        engine.stop(1.0)
