"""One server under test: a process of its own, with its exact request count, CPU time and stage times."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message
from prometheus_client.parser import text_string_to_metric_families

from tickserve.errors import UnreachableError
from tickserve.wire import grpc_service_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
CALL_TIMEOUT_S = 5.0
STAGE_METRIC = "tickserve_stage_seconds"

Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Snapshot:
    """What a server has done since it started: inferences, and (seconds, count) by stage where it publishes them."""

    inferences: int
    stages: Mapping[str, tuple[float, int]]


class ServerProcess:
    """A server on loopback, started on entry and ended by its process id on exit.

    Parameters
    ----------
    command : list of str
        Its command line, with `{address}` and `{http}` where the two listeners go.
    environment : mapping
        Variables added to this process's own.
    log : Path
        Receives its output.
    has_metrics : bool
        Whether `http` serves /metrics, which then gives the count; else ModelStatistics does.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path, *, has_metrics: bool) -> None:
        self.address, self._http = _free_address(), _free_address()
        self._command = [part.format(address=self.address, http=self._http) for part in command]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._has_metrics = has_metrics

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        self._channel = grpc.insecure_channel(self.address)
        try:
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def cpu_ns(self) -> int:
        """CPU time of the whole process so far, all threads, user and system.

        The scheduler's own clock: the sum that /proc/PID/stat gives too, without its rounding to 10 ms.
        """
        # clock_getcpuclockid(3) on Linux: the complement of the process id above the three bits of the clock's kind.
        return time.clock_gettime_ns((~self._process.pid << 3) | 2)

    def snapshot(self) -> Snapshot:
        """Counts so far."""
        if not self._has_metrics:
            (model,) = self._call(
                "ModelStatistics", pb.ModelStatisticsRequest(), pb.ModelStatisticsResponse
            ).model_stats
            return Snapshot(model.inference_count, {})
        with urllib.request.urlopen(f"http://{self._http}/metrics", timeout=CALL_TIMEOUT_S) as response:
            return _read_metrics(response.read().decode())

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if self._call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.1)
        lines = self._log.read_text(errors="replace").strip().splitlines()
        raise UnreachableError(f"{' '.join(self._command)} was not ready; it said: {' '.join(lines[-5:]) or 'nothing'}")

    def _call(self, method: str, request: Message, response_type: type[Response]) -> Response:
        call = self._channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        response: Response = call(request, timeout=CALL_TIMEOUT_S)
        return response

    def _stop(self) -> None:
        self._channel.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)


def bare_grpc_aio(models: Path, model: str, home: Path, log: Path) -> ServerProcess:
    """The bare peer, serving `model` from the served directory `models`."""
    path = models / model / "1" / "model.onnx"
    command = [sys.executable, "-m", "benchmarks.peers.bare_grpc_aio", "--model", str(path), "--name", model]
    return ServerProcess([*command, "--listen", "{address}"], {}, log, has_metrics=False)


def tickserve_python(models: Path, model: str, home: Path, log: Path) -> ServerProcess:
    """Our server on its python engine, with its state in `home`."""
    program = str(Path(sys.executable).with_name("tickserve"))
    command = [program, "serve", "--models", str(models), "--listen", "{address}", "--http", "{http}"]
    return ServerProcess([*command, "--engine", "python"], {"TICKSERVE_HOME": str(home)}, log, has_metrics=True)


@dataclass(frozen=True)
class Kind:
    """A server that can be measured: its names in the results, and how it is made."""

    server: str
    engine: str | None
    make: Callable[[Path, str, Path, Path], ServerProcess]


KINDS = {
    "tickserve-python": Kind("tickserve", "python", tickserve_python),
    "bare": Kind("bare_grpc_aio", None, bare_grpc_aio),
}


def _read_metrics(text: str) -> Snapshot:
    stages: dict[str, tuple[float, int]] = {}
    for family in text_string_to_metric_families(text):
        if family.name != STAGE_METRIC:
            continue
        for sample in family.samples:
            stage = sample.labels["stage"]
            seconds, count = stages.get(stage, (0.0, 0))
            if sample.name.endswith("_sum"):
                stages[stage] = seconds + sample.value, count
            elif sample.name.endswith("_count"):
                stages[stage] = seconds, count + int(sample.value)
    return Snapshot(stages.get("total", (0.0, 0))[1], stages)


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
