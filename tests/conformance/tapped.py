"""An engine with a tap and one model of several versions: what tests of shadows and fallbacks look at."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import grpc

from mlops.tap import PageReader, Record, read_catalog
from server.engine import Engine
from server.engine.base import VersionCounters
from server.plan import ModelPlan, Plan, Role, VersionPlan
from server.tap import Tap
from tests.conformance.case import TIMEOUT_S
from tests.conformance.conftest import ENGINES, Outcome, outcome
from tests.conformance.requests import PREDICT, predict
from tests.support.shared_memory import all_records, memory_folder
from tests.support.waiting import until
from tickserve.v1 import prediction_pb2 as pb

#: Shadows yield to everything else on the machine: where it is busy a copy takes many times what its run does.
SHADOW_BOUND_S = 240.0


@dataclass
class Observed:
    """A running engine, and what it has left in its tap."""

    engine: Engine
    tap: Tap
    channel: grpc.Channel
    generation: int = 0
    seen: list[Record] = field(default_factory=list)

    def install(self, model: ModelPlan, *prepared: VersionPlan) -> None:
        """Makes it the only model; `prepared` are versions that are new."""
        for version in prepared:
            self.engine.prepare(version)
        self.generation += 1
        self.engine.install(Plan(self.generation, MappingProxyType({model.name: model})))

    def call(self, method: str, data: bytes, response: Any = None) -> Outcome:
        """Sends bytes and says what came of it."""
        return outcome(self.channel.unary_unary(method).future(data, timeout=TIMEOUT_S), response)

    def predict(self, *features: float, **fields: Any) -> Outcome:
        """Calls Predict on the model `echo`."""
        return self.call(PREDICT, predict(features=features, **fields), pb.PredictResponse)

    def records(self, role: Role) -> list[Record]:
        """All records so far of versions in a role, oldest first."""
        self.seen += all_records(self.tap.folder)
        return [record for record in self.seen if record.role == role]

    def until_records(self, role: Role, count: int) -> list[Record]:
        """The records of a role, once there are so many."""
        return until(lambda: self.records(role), lambda found: len(found) >= count, SHADOW_BOUND_S)

    def page(self) -> dict[tuple[str, int], list[int]]:
        """The counters page by version and role, summed over key buckets; what counted nothing is left out."""
        catalog = read_catalog(self.tap.boot / "catalog.jsonl")
        return {
            (catalog.versions[block.identity.version].version, block.identity.role): block.counts.sum(axis=0).tolist()
            for block in PageReader(self.tap.counters).snapshot()
            if block.counts.any()
        }

    def counted(self, version: str, role: Role) -> VersionCounters:
        """What the engine says of a version in a role."""
        (found,) = [each for each in self.engine.counters().versions if (each.version, each.role) == (version, role)]
        return found


@contextmanager
def observed(engine_name: str, **settings: Any) -> Iterator[Observed]:
    """The engine, ready and with nothing installed."""
    with memory_folder() as folder:
        engine = ENGINES[engine_name](**settings)
        tap = Tap(folder, ring_bytes=1 << 20, slot_bytes=512, producers=engine.producers)
        engine.open_tap(tap)
        (address,) = engine.start()
        engine.set_ready(is_ready=True)
        channel = grpc.insecure_channel(address)
        yield Observed(engine, tap, channel)
        channel.close()
        engine.stop(1.0)
        tap.close()
