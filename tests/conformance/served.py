"""What a case finds installed: models, versions and the split between them, as values that no folder is part of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlops.package import TensorSpec
from mlops.routing import MAX_HASH
from server.plan import Halt, ModelPlan, Plan, Role, Segment, Split, VersionPlan
from tests.support.models import unwritten_plan, write_plan

#: Of every plan that a case finds; any number will do, and it is in every answer.
GENERATION = 7


@dataclass(frozen=True)
class Version:
    """One version: its graph, and its plan but for the path."""

    graph: bytes
    plan: VersionPlan


@dataclass(frozen=True)
class Model:
    """One model. Without segments its first version is the stable one and answers all."""

    versions: tuple[Version, ...]
    segments: tuple[Segment, ...] = ()
    salt: bytes = b""
    pins: frozenset[str] = frozenset()
    client_pins: Mapping[str, frozenset[str]] = field(default_factory=dict)
    halt: Halt | None = None
    position_scale: float = 1.0

    @property
    def name(self) -> str:
        return self.versions[0].plan.model

    def written(self, folder: Path) -> ModelPlan:
        """The plan of this model, with its files below `folder`."""
        first = self.versions[0].plan.version
        return ModelPlan(
            name=self.name,
            versions={each.plan.version: write_plan(folder, each.graph, each.plan) for each in self.versions},
            split=Split(self.salt, self.segments or (Segment(MAX_HASH, first, Role.STABLE),)),
            pins=self.pins,
            client_pins=self.client_pins,
            halt=self.halt,
            position_scale=self.position_scale,
        )


@dataclass(frozen=True)
class Served:
    """A server as a case finds it; `bounds` are the engine's own, where they differ from the usual ones."""

    name: str
    models: tuple[Model, ...] = ()
    not_loaded: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, int] = field(default_factory=dict)
    is_ready: bool = True

    def written(self, folder: Path) -> Plan:
        """The plan to install, with its files below `folder`."""
        models = {model.name: model.written(folder) for model in self.models}
        return Plan(GENERATION, MappingProxyType(models), self.not_loaded)


def version(graph: bytes, name: str = "echo", number: str = "1", **changes: Any) -> Version:
    """A version with the echo model's schema and no rules, but for `changes`."""
    return Version(graph, unwritten_plan(graph, name=name, version=number, **changes))


def one(*versions: Version, name: str = "", **settings: Any) -> Served:
    """A server of models with one version each, which any client may pin; named after the first."""
    models = tuple(Model((each,), pins=frozenset({each.plan.version})) for each in versions)
    return Served(name or models[0].name, models, **settings)


def tensor(name: str, datatype: str, *shape: int) -> TensorSpec:
    """One tensor of a schema; -1 where any size is taken."""
    return TensorSpec(name=name, datatype=datatype, shape=shape)
