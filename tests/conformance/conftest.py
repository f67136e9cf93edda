"""Every engine runs the same suite, over real sockets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import pytest

from mlops.routing import MAX_HASH
from server.engine import Engine
from server.engine.base import VersionCounters
from server.engine.python import PythonEngine
from server.plan import Halt, ModelPlan, Plan, Role, Segment, Split, VersionPlan
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

TIMEOUT_S = 20.0


@dataclass
class Outcome:
    """What a call came to; `message` is the response where the status is OK."""

    status: str
    text: str = ""
    reason: str = ""
    executed: str = ""
    field: str = ""
    message: Any = None


@dataclass
class Bench:
    """A running engine, a channel to it, and short ways to install and call."""

    engine: Engine
    address: str
    channel: grpc.Channel
    folder: Path
    generation: int = 0
    models: dict[str, ModelPlan] = field(default_factory=dict)

    def install(
        self, *versions: VersionPlan, halt: Halt | None = None, not_loaded: dict[str, str] | None = None
    ) -> None:
        """Prepares and installs each as the only version of its model, beside what is installed."""
        for version in versions:
            known = self.models.get(version.model)
            if known is None or known.versions.get(version.version) != version:
                self.engine.prepare(version)
            self.models[version.model] = ModelPlan(
                name=version.model,
                versions={version.version: version},
                split=Split(b"", (Segment(MAX_HASH, version.version, Role.STABLE),)),
                pins=frozenset({version.version}),
                halt=halt,
            )
        self.install_models(not_loaded)

    def install_models(self, not_loaded: dict[str, str] | None = None) -> None:
        """Installs `models` as they are."""
        self.generation += 1
        self.engine.install(Plan(self.generation, MappingProxyType(dict(self.models)), not_loaded or {}))

    def call(self, method: str, data: bytes, response: Any = None, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Sends bytes and says what came of it."""
        try:
            answer = self.channel.unary_unary(method)(data, timeout=timeout_s)
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            return Outcome(
                error.code().name,
                error.details(),
                trailers.get("tickserve-reason", ""),
                trailers.get("tickserve-executed", ""),
                trailers.get("tickserve-field", ""),
            )
        return Outcome("OK", message=response.FromString(answer) if response is not None else answer)

    def infer(self, request: oip.ModelInferRequest, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Calls ModelInfer."""
        method = "/inference.GRPCInferenceService/ModelInfer"
        return self.call(method, request.SerializeToString(), oip.ModelInferResponse, timeout_s)

    def predict(self, timeout_s: float = TIMEOUT_S, **request: Any) -> Outcome:
        """Calls Predict on the model `echo` unless another is named."""
        data = pb.PredictRequest(**({"model": "echo"} | request)).SerializeToString()
        return self.call("/tickserve.v1.Prediction/Predict", data, pb.PredictResponse, timeout_s)

    def counted(self, model: str) -> VersionCounters:
        """The counters of the model's only version."""
        (found,) = [item for item in self.engine.counters().versions if item.model == model]
        return found


def python_engine(**bounds: int) -> Engine:
    """The reference, on a free port."""
    defaults = {"pool_threads": 1, "max_in_flight": 8, "max_in_flight_per_client": 8, "max_message_bytes": 1 << 20}
    return PythonEngine(["127.0.0.1:0"], **(defaults | bounds))  # type: ignore[arg-type]


ENGINES = {"python": python_engine}


@pytest.fixture(params=ENGINES)
def make_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Starts engines with the bounds given, ready and with nothing installed; ends them without a fault."""
    started: list[Bench] = []

    def make(**bounds: int) -> Bench:
        engine = ENGINES[request.param](**bounds)
        (address,) = engine.start()
        engine.set_ready(is_ready=True)
        started.append(Bench(engine, address, grpc.insecure_channel(address), tmp_path))
        return started[-1]

    yield make
    for bench in started:
        bench.channel.close()
        bench.engine.stop(1.0)
        assert bench.engine.take_faults() == []


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """An engine with nothing installed, ready."""
    return make_bench()
