"""Every engine runs the same suite, over real sockets."""

import importlib.util
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
from server.engine.native import NativeEngine
from server.engine.python import PythonEngine
from server.plan import Halt, ModelPlan, Plan, Role, Segment, Split, VersionPlan
from tests.conformance.case import TIMEOUT_S
from tests.conformance.requests import PREDICT, predict
from tickserve.v1 import prediction_pb2 as pb


@dataclass
class Outcome:
    """What a call came to; `message` is the response where the status is OK."""

    status: str
    text: str = ""
    reason: str = ""
    executed: str = ""
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

    def install(self, *versions: VersionPlan, halt: Halt | None = None) -> None:
        """Prepares and installs each as the only version of its model, beside what is installed."""
        for version in versions:
            known = self.models.get(version.model)
            if known is None or known.versions.get(version.version) != version:
                self.engine.prepare(version)
            self.models[version.model] = ModelPlan(
                name=version.model,
                versions={version.version: version},
                split=Split(b"", (Segment(MAX_HASH, version.version, Role.STABLE),)),
                halt=halt,
            )
        self.generation += 1
        self.engine.install(Plan(self.generation, MappingProxyType(dict(self.models))))

    def call(self, method: str, data: bytes, response: Any = None, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Sends bytes and says what came of it."""
        return outcome(self.channel.unary_unary(method).future(data, timeout=timeout_s), response)

    def predict(self, *, timeout_s: float = TIMEOUT_S, **fields: Any) -> Outcome:
        """Calls Predict, on the model `echo` unless another is named, with three features unless others are."""
        request = predict(**({"features": [1, 2, 3]} | fields))
        return self.call(PREDICT, request, pb.PredictResponse, timeout_s)

    def counted(self, model: str) -> VersionCounters:
        """The counters of the model's only version."""
        (found,) = [item for item in self.engine.counters().versions if item.model == model]
        return found


def outcome(call: Any, response: Any = None) -> Outcome:
    """What a call comes to once it has ended."""
    if call.code() is grpc.StatusCode.OK:
        data = call.result()
        return Outcome("OK", message=response.FromString(data) if response is not None else data)
    trailers = dict(call.trailing_metadata() or ())
    reason, executed = trailers.get("tickserve-reason", ""), trailers.get("tickserve-executed", "")
    return Outcome(call.code().name, call.details(), reason, executed)


def python_engine(*addresses: str, **settings: Any) -> Engine:
    """The reference; on a free port unless addresses are given."""
    defaults = {"pool_threads": 1, "max_in_flight": 8, "max_in_flight_per_client": 8, "max_message_bytes": 1 << 20}
    return PythonEngine(addresses or ("127.0.0.1:0",), **(defaults | settings))  # type: ignore[arg-type]


def native_engine(*addresses: str, **settings: Any) -> Engine:
    """The one in Rust, with the same settings."""
    defaults = {"pool_threads": 1, "max_in_flight": 8, "max_in_flight_per_client": 8, "max_message_bytes": 1 << 20}
    return NativeEngine(addresses or ("127.0.0.1:0",), **(defaults | settings))  # type: ignore[arg-type]


ENGINES: dict[str, Callable[..., Engine]] = {"python": python_engine}
if importlib.util.find_spec("tickserve_native") is not None:
    ENGINES["native"] = native_engine


@pytest.fixture(scope="session", params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)


@pytest.fixture
def make_bench(engine_name: str, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Starts engines with the settings given, ready and with nothing installed; ends them without a fault."""
    yield from benches(engine_name, tmp_path)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """An engine with nothing installed, ready."""
    return make_bench()


def benches(engine_name: str, folder: Path) -> Iterator[Callable[..., Bench]]:
    """What starts benches, once; they end when the iteration goes on."""
    started: list[Bench] = []

    def make(**settings: Any) -> Bench:
        engine = ENGINES[engine_name](**settings)
        (address,) = engine.start()
        engine.set_ready(is_ready=True)
        started.append(Bench(engine, address, grpc.insecure_channel(address), folder))
        return started[-1]

    yield make
    for bench in started:
        bench.channel.close()
        bench.engine.stop(1.0)
        assert bench.engine.take_faults() == []
