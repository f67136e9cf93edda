"""Our own load generator (`tickserve.load`) as the scenarios use it: what perf_analyzer cannot do, with raw times.

Open loops at a rate, many rows in a stream, connections that do nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks import models
from tickserve import load
from tickserve.errors import Code, ConfigurationError, StatusError
from tickserve.load import ClosedLoop, Idle, Load, OpenLoop, Result, Travel
from tickserve.wire import grpc_service_pb2 as pb

UNARY = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
#: After it a request counts as unanswered.
DEADLINE_S = 10.0


@dataclass(frozen=True)
class Run:
    """What became of each request: `records` (n,) as `tickserve.load.TIMES`, and the outcomes' names.

    An outcome is the gRPC status, followed by the reason where the server gives one: `OK`, `RESOURCE_EXHAUSTED
    OVERLOADED`.
    """

    records: NDArray[np.void]
    outcomes: tuple[str, ...]
    cpu_s: float

    @cached_property
    def answered(self) -> NDArray[np.bool_]:
        """Which requests were answered well."""
        names = np.array([name == load.ANSWERED for name in self.outcomes] or [False])
        return np.asarray(names[self.records["outcome"].astype(int)])

    def latencies_us(self) -> NDArray[np.float64]:
        """Of those answered well, from when they should have been sent to the whole answer."""
        ok = self.records[self.answered]
        return np.asarray((ok["done"].astype(np.int64) - ok["intended"].astype(np.int64)) / 1e3)

    def lateness_us(self) -> NDArray[np.float64]:
        """How much later than intended the generator turned to each request: what it adds itself."""
        return np.asarray((self.records["began"].astype(np.int64) - self.records["intended"].astype(np.int64)) / 1e3)

    def share(self, outcome: str) -> float:
        """Of all requests, those that had this outcome."""
        return float(
            np.mean(np.array([name == outcome for name in self.outcomes])[self.records["outcome"].astype(int)])
        )

    def shares(self) -> Mapping[str, float]:
        """The share of each outcome that there was."""
        return {outcome: share for outcome in self.outcomes if (share := self.share(outcome))}

    def between(self, first_s: float, last_s: float) -> "Run":
        """Only the requests that should have been sent in this time."""
        intended_s = self.records["intended"] / 1e9
        kept = (intended_s >= first_s) & (intended_s < last_s)
        return Run(self.records[kept], self.outcomes, self.cpu_s)


def set_up() -> None:
    """Raises ConfigurationError where the native wheel, whose part the generator is, is not installed."""
    try:
        from tickserve_native import Load as _  # noqa: F401
    except ImportError:
        raise ConfigurationError(load.MISSING) from None


def request(model: str, rows: int) -> bytes:
    """One encoded request of `rows` rows for a model of models.py."""
    values = models.requests(rows)[0]
    tensor = pb.ModelInferRequest.InferInputTensor(name=models.INPUT, datatype="FP32", shape=values.shape)
    return pb.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[values.tobytes()]
    ).SerializeToString()


def closed(address: str, message: bytes, seconds: float, *, in_flight: int = 1, cpu: int | None = None) -> Run:
    """Unary calls on one connection, each sent when one was answered."""
    return _run(_load(address, message, seconds, ClosedLoop(in_flight), cpu=cpu))


def open_loop(
    address: str, message: bytes, seconds: float, rate: float, *, connections: int = 4, cpu: int | None = None
) -> Run:
    """Unary calls at a rate, whatever becomes of the answers. It spins: give it a CPU of its own."""
    pacing = OpenLoop(rate, max_in_flight=1_000_000)
    return _run(_load(address, message, seconds, pacing, connections=connections, cpu=cpu))


@contextmanager
def streaming(address: str, message: bytes, seconds: float, *, in_flight: int) -> Iterator["Background"]:
    """One stream with many unanswered messages, for `seconds`, while the block runs."""
    started = load.Run(_load(address, message, seconds, ClosedLoop(in_flight), streams=True))
    try:
        yield Background(started)
    finally:
        _abandon(started)


@contextmanager
def idle(address: str, message: bytes, connections: int) -> Iterator[None]:
    """Open connections that have had one answer each and say nothing more, while the block runs."""
    started = load.Run(_load(address, message, 0.0, Idle(), connections=connections))
    try:
        started.wait_ready()
        yield
    finally:
        _abandon(started)
    unanswered = {name: count for name, count in started.result().counts.items() if name != load.ANSWERED}
    if unanswered:
        raise StatusError(f"of {connections} connections some had no answer: {unanswered}", code=Code.UNKNOWN)


class Background:
    """A load that runs beside something else."""

    def __init__(self, started: load.Run) -> None:
        self._started = started

    def result(self) -> Run:
        """Waits for its end."""
        return _read(self._started.result())


def _load(
    address: str,
    message: bytes,
    seconds: float,
    pacing: OpenLoop | ClosedLoop | Idle,
    *,
    streams: bool = False,
    connections: int = 1,
    cpu: int | None = None,
) -> Load:
    return Load(
        address,
        STREAM if streams else UNARY,
        [message],
        pacing,
        Travel.INFER_STREAM if streams else Travel.UNARY,
        connections=connections,
        duration_s=seconds,
        deadline_s=DEADLINE_S,
        keeps_times=True,
        cpu=cpu,
    )


def _run(one: Load) -> Run:
    return _read(load.run(one))


def _read(result: Result) -> Run:
    return Run(result.times, tuple(result.outcomes), result.cpu_s)


def _abandon(started: load.Run) -> None:
    started.stop()
    started.stop()
