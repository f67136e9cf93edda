"""perf_analyzer and ghz, briefly: every request is answered."""

import base64
import json
import struct

import numpy as np
import pytest

from benchmarks import perf_analyzer
from tests.e2e.conftest import Running
from tests.integration.programs import ROOT, call

WINDOW_MS = 400
REQUESTS = 400
PREDICT = ("tickserve/v1/prediction.proto", "tickserve.v1.Prediction.Predict", {"model": "demo", "features": [1, 2, 3]})
INFER = (
    "inference/grpc_service.proto",
    "inference.GRPCInferenceService.ModelInfer",
    {
        "model_name": "demo",
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 3]}],
        "raw_input_contents": [base64.b64encode(struct.pack("<3f", 1, 2, 3)).decode()],
    },
)


def counted(served: Running) -> tuple[int, int, int]:
    """Answers, rows and errors as the server counted them."""
    totals = {"answered": 0, "rows": 0, "errors": 0}
    for counter in served.control.counters().counters:
        if counter.name in totals:
            totals[counter.name] += counter.value
    return totals["answered"], totals["rows"], totals["errors"]


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "streaming"])
def test_perf_analyzer_gets_every_answer(served: Running, rows: int, streaming: bool) -> None:
    inputs = np.ones((8, rows, 3), np.float32)
    measured = perf_analyzer.run(served.address, "demo", "features", inputs, 4, WINDOW_MS, streaming=streaming)
    answered, answered_rows, errors = counted(served)
    assert errors == 0
    assert 0 < len(measured.latencies_ns) <= answered
    assert answered_rows == rows * answered


@pytest.mark.parametrize("through", ["reflection", "protos"])
@pytest.mark.parametrize("target", [PREDICT, INFER], ids=["Predict", "ModelInfer"])
def test_ghz_gets_every_answer(served: Running, target: tuple[str, str, dict[str, object]], through: str) -> None:
    proto, method, request = target
    schema = ["--proto", str(ROOT / "protos" / proto), "--import-paths", str(ROOT / "protos")]
    options = ["--insecure", "-n", str(REQUESTS), "-c", "4", "-O", "json", "--call", method]
    options += ["-d", json.dumps(request), *(schema if through == "protos" else [])]
    report = json.loads(call("ghz", *options, served.address))
    assert report["statusCodeDistribution"] == {"OK": REQUESTS}
    assert counted(served) == (REQUESTS, REQUESTS, 0)
