"""One server under test: a process of its own, with its exact request count, CPU time, memory and stage times."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Collection, Mapping
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
STAGE_METRIC, REQUESTS_METRIC = "tickserve_stage_seconds", "tickserve_requests"

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
        Its command line, with `{address}` and `{http}` where the two listeners go, `{port}` and `{http_port}` where
        only their ports do.
    environment : mapping
        Variables added to this process's own.
    log : Path
        Receives its output.
    has_metrics : bool
        Whether `http` serves our /metrics, which then gives the count; else ModelStatistics does.
    cpus : collection of int
        The CPUs that it may use; by default all.
    """

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        has_metrics: bool,
        cpus: Collection[int] = (),
    ) -> None:
        self.address, self._http = _free_address(), _free_address()
        port, http_port = self.address.rpartition(":")[2], self._http.rpartition(":")[2]
        places = {"address": self.address, "http": self._http, "port": port, "http_port": http_port}
        pin = ["taskset", "--cpu-list", ",".join(map(str, cpus))] if cpus else []
        self._command = [*pin, *(part.format(**places) for part in command)]
        # No runtime reports to its maker: ours turn that off, so it is off for the others too.
        self._environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", **environment}
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

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def cpu_ns(self) -> int:
        """CPU time of the whole process so far, all threads, user and system.

        The scheduler's own clock: the sum that /proc/PID/stat gives too, without its rounding to 10 ms.
        """
        # clock_getcpuclockid(3) on Linux: the complement of the process id above the three bits of the clock's kind.
        return time.clock_gettime_ns((~self._process.pid << 3) | 2)

    def resident_bytes(self) -> int:
        """Memory that the process occupies."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def threads(self) -> int:
        """How many it has."""
        return len(os.listdir(f"/proc/{self._process.pid}/task"))

    def snapshot(self) -> Snapshot:
        """Counts so far."""
        if not self._has_metrics:
            (model,) = self._call(
                "ModelStatistics", pb.ModelStatisticsRequest(), pb.ModelStatisticsResponse
            ).model_stats
            return Snapshot(model.inference_count, {})
        return read_metrics(self.metrics())

    def metrics(self) -> str:
        """The page that Prometheus would read."""
        with urllib.request.urlopen(f"http://{self._http}/metrics", timeout=CALL_TIMEOUT_S) as response:
            page: str = response.read().decode()
        return page

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


def read_metrics(text: str) -> Snapshot:
    """Answered requests and stage times of all versions, from a page of our metrics."""
    stages: dict[str, tuple[float, int]] = {}
    inferences = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.name == REQUESTS_METRIC and sample.labels.get("outcome") == "ok":
                inferences += int(sample.value) if sample.name.endswith("_total") else 0
            if family.name != STAGE_METRIC:
                continue
            stage = sample.labels["stage"]
            seconds, count = stages.get(stage, (0.0, 0))
            if sample.name.endswith("_sum"):
                stages[stage] = seconds + sample.value, count
            elif sample.name.endswith("_count"):
                stages[stage] = seconds, count + int(sample.value)
    return Snapshot(inferences, stages)


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
