"""Our own load generator, native/core/examples/load: what perf_analyzer cannot do, with the raw times read back.

Open loops at a rate, many rows in a stream, connections that do nothing. Built on demand, where cargo is.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import models
from tickserve.errors import Code, ConfigurationError, StatusError
from tickserve.wire import grpc_service_pb2 as pb

NATIVE = Path(__file__).resolve().parent.parent / "native"
BINARY = NATIVE / "target" / "release" / "examples" / "load"
UNARY, STREAM = "ModelInfer", "ModelStreamInfer"
BUILD_TIMEOUT_S = 1800.0
# Starting, connecting, waiting for the last answers and writing; a run that takes longer hangs.
SLACK_S = 60.0
_RECORD = np.dtype([("intended", "<u8"), ("sent", "<u8"), ("done", "<u8"), ("outcome", "<u8")])


@dataclass(frozen=True)
class Run:
    """What became of each request: `records` (n,) with times in nanoseconds since the start, and the outcomes' names.

    An outcome is the gRPC status, followed by the reason where the server gives one: `0`, `8 OVERLOADED`.
    """

    records: NDArray[np.void]
    outcomes: Sequence[str]
    cpu_s: float

    @cached_property
    def answered(self) -> NDArray[np.bool_]:
        """Which requests were answered well."""
        names = np.array([name == "0" for name in self.outcomes] or [False])
        return np.asarray(names[self.records["outcome"].astype(int)])

    def latencies_us(self) -> NDArray[np.float64]:
        """Of those answered well, from when they should have been sent to the whole answer."""
        ok = self.records[self.answered]
        return np.asarray((ok["done"].astype(np.int64) - ok["intended"].astype(np.int64)) / 1e3)

    def lateness_us(self) -> NDArray[np.float64]:
        """How much later than intended each request was sent: what the generator itself adds."""
        return np.asarray((self.records["sent"].astype(np.int64) - self.records["intended"].astype(np.int64)) / 1e3)

    def share(self, outcome: str) -> float:
        """Of all requests, those that had this outcome."""
        return float(
            np.mean(np.array([name == outcome for name in self.outcomes])[self.records["outcome"].astype(int)])
        )

    def shares(self) -> dict[str, float]:
        """The share of each outcome."""
        return {outcome: self.share(outcome) for outcome in self.outcomes}

    def between(self, first_s: float, last_s: float) -> "Run":
        """Only the requests that should have been sent in this time."""
        intended_s = self.records["intended"] / 1e9
        kept = (intended_s >= first_s) & (intended_s < last_s)
        return Run(self.records[kept], self.outcomes, self.cpu_s)


def set_up() -> None:
    """Builds the generator, minutes the first time. Raises ConfigurationError where it cannot be built."""
    if shutil.which("cargo") is None:
        raise ConfigurationError("the load generator is built with cargo, which is not here")
    command = ["cargo", "build", "--quiet", "--release", "-p", "tickserve-core", "--example", "load"]
    done = subprocess.run(command, cwd=NATIVE, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise ConfigurationError(f"the load generator cannot be built: {done.stderr.strip()[-500:]}")


def request(model: str, rows: int) -> bytes:
    """One encoded request of `rows` rows for a model of models.py."""
    values = models.requests(rows)[0]
    tensor = pb.ModelInferRequest.InferInputTensor(name=models.INPUT, datatype="FP32", shape=values.shape)
    return pb.ModelInferRequest(
        model_name=model, id="1", inputs=[tensor], raw_input_contents=[values.tobytes()]
    ).SerializeToString()


def closed(address: str, message: bytes, seconds: float, *, in_flight: int = 1, cpu: int | None = None) -> Run:
    """Unary calls on one connection, each sent when one was answered."""
    with _started("closed", address, UNARY, message, seconds, ["--in-flight", str(in_flight)], cpu) as process:
        return _finish(process, seconds)


def open_loop(
    address: str, message: bytes, seconds: float, rate: float, *, connections: int = 4, cpu: int | None = None
) -> Run:
    """Unary calls at a rate, whatever becomes of the answers. It spins: give it a CPU of its own."""
    options = ["--rate", str(rate), "--connections", str(connections)]
    with _started("open", address, UNARY, message, seconds, options, cpu) as process:
        return _finish(process, seconds)


@contextmanager
def streaming(address: str, message: bytes, seconds: float, *, in_flight: int) -> Iterator["Background"]:
    """One stream with many unanswered messages, for `seconds`, while the block runs."""
    with _started("stream", address, STREAM, message, seconds, ["--in-flight", str(in_flight)], None) as process:
        yield Background(process, seconds)


@contextmanager
def idle(address: str, message: bytes, connections: int) -> Iterator[None]:
    """Open connections that have had one answer each and say nothing more, while the block runs."""
    with _started("idle", address, UNARY, message, 0, ["--connections", str(connections)], None) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "idle":
            raise StatusError("the load generator could not open its connections", code=Code.UNKNOWN)
        yield


class Background:
    """A load that runs beside something else."""

    def __init__(self, process: "_Process", seconds: float) -> None:
        self._process, self._seconds = process, seconds

    def result(self) -> Run:
        """Waits for its end."""
        return _finish(self._process, self._seconds)


class _Process(subprocess.Popen[str]):
    records: Path


@contextmanager
def _started(
    mode: str, address: str, method: str, message: bytes, seconds: float, options: list[str], cpu: int | None
) -> Iterator[_Process]:
    with tempfile.TemporaryDirectory() as scratch:
        file, records = Path(scratch) / "message", Path(scratch) / "records"
        file.write_bytes(message)
        command = [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
        command += [str(BINARY), mode, "--address", address, "--path", f"/inference.GRPCInferenceService/{method}"]
        command += ["--message", str(file), "--records", str(records), "--seconds", str(seconds), *options]
        process = _Process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.records = records
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def _finish(process: _Process, seconds: float) -> Run:
    try:
        said, complaint = process.communicate(timeout=seconds + SLACK_S)
    except subprocess.TimeoutExpired:
        raise StatusError("the load generator did not end", code=Code.DEADLINE_EXCEEDED) from None
    if process.returncode != 0:
        raise StatusError(f"the load generator failed: {complaint.strip()[-500:]}", code=Code.UNKNOWN)
    summary = json.loads(said)
    return Run(np.fromfile(process.records, _RECORD), tuple(summary["outcomes"]), summary["cpu_s"])
