"""What the benchmarks read: pages of metrics, records of the load generator, and what they write for Triton."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import generator
from benchmarks.peers import triton
from benchmarks.scenarios.memory import resident_bytes
from benchmarks.servers import read_metrics
from tests.support.packages import build_constant
from tickserve.errors import ConfigurationError
from tickserve.load import TIMES
from tickserve.wire import grpc_service_pb2 as pb

PAGE = """# HELP tickserve_requests_total Requests by outcome.
# TYPE tickserve_requests_total counter
tickserve_requests_total{model="m",version="1",role="stable",outcome="ok"} 7.0
tickserve_requests_total{model="m",version="2",role="canary",outcome="ok"} 2.0
tickserve_requests_total{model="m",version="1",role="stable",outcome="HALTED"} 5.0
# HELP tickserve_stage_seconds Stages.
# TYPE tickserve_stage_seconds histogram
tickserve_stage_seconds_bucket{model="m",version="1",role="stable",stage="run",le="+Inf"} 7.0
tickserve_stage_seconds_count{model="m",version="1",role="stable",stage="run"} 7.0
tickserve_stage_seconds_sum{model="m",version="1",role="stable",stage="run"} 0.25
tickserve_stage_seconds_bucket{model="m",version="2",role="canary",stage="run",le="+Inf"} 2.0
tickserve_stage_seconds_count{model="m",version="2",role="canary",stage="run"} 2.0
tickserve_stage_seconds_sum{model="m",version="2",role="canary",stage="run"} 0.5
# HELP tickserve_model_resident_bytes Memory.
# TYPE tickserve_model_resident_bytes gauge
tickserve_model_resident_bytes{model="m",version="1"} 4096.0
"""


def test_a_page_of_metrics_gives_answers_and_stages_of_all_versions() -> None:
    found = read_metrics(PAGE)
    assert (found.inferences, found.stages) == (9, {"run": (0.75, 9)})
    assert (resident_bytes(PAGE, "m"), resident_bytes(PAGE, "other")) == (4096, None)


def test_latencies_count_from_when_a_request_should_have_been_sent() -> None:
    rows = [
        (0, 5_000, 6_000, 20_000, 0),
        (10_000, 10_000, 11_000, 90_000, 1),
        (2_000_000_000, 2_000_001_000, 2_000_001_000, 2_000_030_000, 0),
    ]
    run = generator.Run(np.array(rows, TIMES), ("OK", "RESOURCE_EXHAUSTED OVERLOADED"), 0.1)
    assert run.latencies_us().tolist() == [20.0, 30.0]
    assert run.lateness_us().tolist() == [5.0, 0.0, 1.0]
    assert run.shares() == {"OK": pytest.approx(2 / 3), "RESOURCE_EXHAUSTED OVERLOADED": pytest.approx(1 / 3)}
    assert run.between(1.0, 3.0).latencies_us().tolist() == [30.0]


def test_a_request_is_one_that_the_server_reads() -> None:
    request = pb.ModelInferRequest.FromString(generator.request("mlp", 3))
    assert (request.model_name, list(request.inputs[0].shape)) == ("mlp", [3, 10])
    assert len(request.raw_input_contents[0]) == 3 * 10 * 4


def test_triton_gets_a_repository_and_is_told_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = build_constant(tmp_path / "packages", 0.5, name="demo")
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("TRITONSERVER", str(binary))
    triton.set_up()
    line = triton.command(package / "model.onnx", "demo", tmp_path)
    repository = tmp_path / "triton-models"
    assert line[:2] == [str(binary), f"--model-repository={repository}"]
    assert (repository / "demo" / "1" / "model.onnx").read_bytes() == (package / "model.onnx").read_bytes()
    config = (repository / "demo" / "config.pbtxt").read_text()
    assert 'backend: "onnxruntime"' in config
    assert 'input [{ name: "features" data_type: TYPE_FP32 dims: [ -1, ' in config


@pytest.mark.parametrize("value", ["", "/nowhere/tritonserver"])
def test_without_triton_the_reason_is_said(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONSERVER", value)
    with pytest.raises(ConfigurationError, match="TRITONSERVER names"):
        triton.set_up()
