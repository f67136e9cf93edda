"""`tickserve bench` beside perf_analyzer and ghz: the three see the same server alike."""

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import perf_analyzer
from mlops.package import MODEL_FILE
from tests.e2e.conftest import Launcher, Running
from tests.integration.programs import ROOT, call
from tests.support.models import constant_model, slow_model
from tickserve import cli

pytest.importorskip("tickserve_native")

#: Rounds until the noise is low enough, and the most that are tried.
MIN_ROUNDS, MAX_ROUNDS = 12, 60
#: A share of what is measured; above it two tools cannot be told apart, nor found alike.
MAX_NOISE = 0.1
#: About a millisecond of work, so that what differs is not lost in what a round differs by.
MODELS = {"fast": constant_model(0.5), "slow": slow_model(repeats=2)}
ROW = (0.1, 0.2, 0.3)
#: A client's own share in a latency grows a little where a core falls asleep between slow requests.
TOLERANCE = 0.05
#: Standard errors between two medians.
SIGMAS = 4.0


@pytest.fixture
def serving(launcher: Launcher) -> Iterator[Running]:
    """A server of both models, by the native engine."""
    for name, model in MODELS.items():
        folder = launcher.models / name / "1"
        folder.mkdir(parents=True)
        (folder / MODEL_FILE).write_bytes(model)
    with launcher.serve("--engine", "native") as running:
        yield running


@pytest.mark.timeout(600)
@pytest.mark.parametrize("other", ["perf_analyzer", "ghz"])
def test_the_server_takes_as_long_as_another_tool_says(serving: Running, launcher: Launcher, other: str) -> None:
    """What a server takes longer for one model than for another has nothing of the client in it.

    A client's own time is in each of its latencies, and each tool's is another. It is the same for both models, so it
    goes out of the difference of the two medians, and what is left is the server's. Rounds take turns, so that the
    machine's drift falls on all; the standard error of the median over rounds (1.2533 sigma / sqrt(n), sigma from the
    median absolute deviation) says what a tool differs by from itself.
    """
    tools: dict[str, Callable[[str], float]] = {
        "bench": lambda model: ours(launcher, serving.address, model),
        other: lambda model: {"perf_analyzer": by_perf_analyzer, "ghz": by_ghz}[other](serving.address, model),
    }
    differences: dict[str, list[float]] = {tool: [] for tool in tools}
    for number in range(-1, MAX_ROUNDS):
        for tool in tools if number % 2 else reversed(tools):
            difference = tools[tool]("slow") - tools[tool]("fast")
            # The first round warms up.
            if number >= 0:
                differences[tool].append(difference)
        if number + 1 < MIN_ROUNDS:
            continue
        (mine, my_error), (theirs, their_error) = (median_and_error(values) for values in differences.values())
        noise = SIGMAS * math.hypot(my_error, their_error)
        # What looks like a difference after few rounds is one only if more of them do not take it away.
        if noise <= MAX_NOISE * theirs and abs(mine - theirs) <= max(noise, TOLERANCE * theirs):
            break
    text = f"{number + 1} rounds; {other} {theirs:.0f} us, bench {mine:.0f} us, noise {noise:.0f} us"
    print(text)
    if noise > MAX_NOISE * theirs:
        pytest.skip(f"the machine is too busy to compare anything: {text}")
    assert abs(mine - theirs) <= max(noise, TOLERANCE * theirs)


def test_every_request_is_one_that_the_server_counts(serving: Running, launcher: Launcher) -> None:
    before = answered(serving)
    report = bench(launcher, serving.address, "fast", "--open", "--rate", "500", "--duration", "1")
    sent = report["requests"] + sum(report["warmup_outcomes"].values())
    assert report["outcomes"] == {"OK": report["requests"]}
    assert (report["requests"], report["missed"]) == (500, 0)
    # And the one that tries it.
    assert answered(serving) - before == sent + 1


def ours(launcher: Launcher, address: str, model: str) -> float:
    """p50 in microseconds."""
    report = bench(launcher, address, model, "--duration", "0.4")
    return float(report["latency_us"]["p50"])


def by_perf_analyzer(address: str, model: str) -> float:
    inputs = np.tile(np.array(ROW, np.float32), (8, 1, 1))
    return perf_analyzer.run(address, model, "features", inputs, 1, 150).quantile_us(0.5)


def by_ghz(address: str, model: str) -> float:
    request = {
        "model_name": model,
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 3]}],
        "raw_input_contents": [base64.b64encode(struct.pack("<3f", *ROW)).decode()],
    }
    proto = ["--proto", str(ROOT / "protos/inference/grpc_service.proto"), "--import-paths", str(ROOT / "protos")]
    options = [
        "--insecure",
        "-c",
        "1",
        "-n",
        "200",
        "-O",
        "json",
        "--call",
        "inference.GRPCInferenceService.ModelInfer",
    ]
    report = json.loads(call("ghz", *options, *proto, "-d", json.dumps(request), address))
    (p50,) = [each["latency"] for each in report["latencyDistribution"] if each["percentage"] == 50]
    return float(p50) / 1e3


def bench(launcher: Launcher, address: str, model: str, *options: str) -> dict[str, Any]:
    """The report. On a busy machine a run is flagged, with exit 1; that is not what is tested here."""
    file = launcher.home / "report.json"
    command = ["bench", model, "--address", address, "--warmup", "0.1", "--report", str(file), *options]
    # Its generator runs on a thread without the interpreter, here as in a process of its own.
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code in (0, 1), done.output
    report: dict[str, Any] = json.loads(file.read_text())
    file.unlink()
    assert report["failed"] == 0
    return report


def median_and_error(values: list[float]) -> tuple[float, float]:
    middle = float(np.median(values))
    sigma = 1.4826 * float(np.median(np.abs(np.array(values) - middle)))
    return middle, 1.2533 * sigma / math.sqrt(len(values))


def answered(serving: Running) -> int:
    """What the server counted."""
    return sum(each.value for each in serving.control.counters().counters if each.name == "answered")
