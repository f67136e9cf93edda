"""The installed plan as requests read it: every name resolved, every version with its runtime and its counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from mlops.package import TensorSpec
from mlops.routing import routing_hash
from mlops.tap import Form, Tensor
from mlops.tap.layout import DATATYPE_NUMBER
from server.engine import texts
from server.engine.python.runtime import Runtime, Tally
from server.engine.python.session import one_row_arrays
from server.plan import EMPTY_PLAN, ModelPlan, Plan, Role, VersionPlan
from server.tap import UNTAPPED, TappedModel


class Tapped(NamedTuple):
    """What the tap writes of a version in one role under one plan.

    `block` is where its requests are counted, `compared` where those are that its shadow gets too.
    """

    version: int
    block: int | None
    compared: int | None
    split_generation: int
    latency_edge_ns: int
    #: Of the usual record; None where the shapes of one row are not fixed.
    form: Form | None


class Serving:
    """One version in one role under one plan.

    `fallback` answers where this one breaks an output rule of that policy; `shadow` gets copies of what the split gives
    to this one.
    """

    __slots__ = (
        "__weakref__",
        "fallback",
        "generation",
        "heads",
        "model",
        "position_scale",
        "role",
        "runtime",
        "shadow",
        "tally",
        "tapped",
        "version",
    )

    def __init__(
        self, runtime: Runtime, role: Role, tally: Tally, generation: int, model: ModelPlan, tapped: Tapped | None
    ) -> None:
        self.runtime = runtime
        self.version = runtime.version
        self.role = role
        self.tally = tally
        self.generation = generation
        self.model = model
        self.position_scale = model.position_scale
        #: What the tap calls it; None where there is no tap, or no name.
        self.tapped = tapped
        #: Encoded beginnings of OIP responses, by rows and outputs asked for; filled and bounded by the codec.
        self.heads: dict[tuple[int, tuple[int, ...] | None], bytes] = {}
        self.fallback: Serving | None = None
        self.shadow: Serving | None = None


@dataclass(frozen=True, slots=True)
class ServingModel:
    """One model; `segments` are (upper bound of the routing hash, version), `helpers` its fallback and its shadow."""

    plan: ModelPlan
    versions: Mapping[str, Serving]
    segments: tuple[tuple[int, Serving], ...]
    helpers: tuple[Serving, ...] = ()

    def answers(self, number: str) -> bool:
        """Whether requests may go to this version: the split names it, or somebody may pin it.

        One that is only kept warm takes none.
        """
        return number in self.versions and (
            number in self.plan.pins
            or number in self.plan.client_pins
            or any(segment.version == number for segment in self.plan.split.segments)
        )


@dataclass(frozen=True, slots=True)
class Installed:
    """A plan with everything a request needs; replaced whole."""

    plan: Plan
    models: Mapping[str, ServingModel]
    #: Whether some versions are for some clients only.
    knows_clients: bool = False

    def route(self, name: str, pin: str, key: str, client: str) -> Serving:
        """The version that answers: the one that the client may pin, or the one whose segment holds the key's hash."""
        model = self.models.get(name)
        if model is None:
            raise self._unknown(name)
        halt = model.plan.halt
        if halt is not None:
            raise texts.HALTED.error(model=name, actor=halt.actor, why=halt.reason)
        if pin:
            serving = model.versions.get(pin)
            if serving is None:
                known = ", ".join(model.versions)
                raise texts.UNKNOWN_VERSION.error(at="version", version=pin[:64], model=name, known=known)
            if pin not in model.plan.pins and client not in model.plan.client_pins.get(pin, ()):
                raise texts.PIN_REFUSED.error(at="version", version=pin, model=name)
            return serving
        if len(model.segments) == 1:
            return model.segments[0][1]
        position = routing_hash(model.plan.split.salt, key.encode())
        return next(serving for upper_bound, serving in model.segments if position <= upper_bound)

    def find(self, name: str, version: str) -> Serving:
        """The version to describe: the named one, or the stable one. Halted models are described too."""
        model = self.models.get(name)
        if model is None:
            raise self._unknown(name)
        if not version:
            return next(s for s in model.versions.values() if s.role is Role.STABLE)
        serving = model.versions.get(version)
        if serving is None:
            known = ", ".join(model.versions)
            raise texts.UNKNOWN_VERSION.error(at="version", version=version[:64], model=name, known=known)
        return serving

    def _unknown(self, name: str) -> Exception:
        why = self.plan.not_loaded.get(name)
        if why is not None:
            if not why:
                return texts.LOADING.error(at="model", model=name)
            return texts.NOT_LOADED.error(at="model", model=name, why=why)
        known = ", ".join(sorted(self.models))
        if not known:
            return texts.NO_MODELS.error(at="model", model=name[:64])
        return texts.UNKNOWN_MODEL.error(at="model", model=name[:64], known=known)


NOTHING_INSTALLED = Installed(EMPTY_PLAN, {})
Runtimes = Callable[[VersionPlan], Runtime]


def build(
    plan: Plan,
    runtimes: Runtimes,
    tally: Callable[[str, str, Role], Tally],
    placed: Mapping[str, TappedModel] = MappingProxyType({}),
    apart: Runtimes | None = None,
) -> Installed:
    """Resolves a plan against the loaded runtimes and the counts that outlive it; shadows have runtimes of `apart`."""

    def serving(model: ModelPlan, number: str, role: Role, runtimes: Runtimes = runtimes) -> Serving:
        version, tapped = model.versions[number], placed.get(model.name, UNTAPPED)
        return Serving(
            runtimes(version),
            role,
            tally(model.name, number, role),
            plan.generation,
            model,
            _tapped(tapped, number, version, role, plan.generation),
        )

    models = {}
    for name, model in plan.models.items():
        roles = {segment.version: segment.role for segment in model.split.segments}
        versions = {number: serving(model, number, roles.get(number, Role.PREVIOUS)) for number in model.versions}
        helpers = []
        if model.fallback in versions:
            fallback = serving(model, model.fallback, Role.FALLBACK)
            helpers.append(fallback)
            for number in versions.keys() - {model.fallback}:
                versions[number].fallback = fallback
        if model.shadow is not None and model.shadow.version in versions:
            shadow = serving(model, model.shadow.version, Role.SHADOW, apart or runtimes)
            helpers.append(shadow)
            for number in filter(model.shadow.copies, roles):
                versions[number].shadow = shadow
        segments = tuple((segment.upper_bound, versions[segment.version]) for segment in model.split.segments)
        models[name] = ServingModel(model, versions, segments, tuple(helpers))
    return Installed(plan, models, any(model.client_pins for model in plan.models.values()))


def _tapped(model: TappedModel, number: str, version: VersionPlan, role: Role, generation: int) -> Tapped | None:
    placed = model.versions.get(number)
    if placed is None:
        return None
    inputs, outputs = _one_row(version.inputs), _one_row(version.outputs)
    form = None
    if inputs is not None and outputs is not None:
        form = Form(
            plan_generation=generation,
            split_generation=model.split_generation,
            version=placed.version,
            role=int(role),
            inputs=inputs,
            outputs=outputs,
        )
    # A fallback's answers are counted in no block: the request is one of the version that broke the rule.
    blocks = {Role.SHADOW: model.shadow, Role.FALLBACK: None}
    block = blocks.get(role, placed.block)
    return Tapped(placed.version, block, placed.compared, model.split_generation, model.latency_edge_ns, form)


def _one_row(specs: Sequence[TensorSpec]) -> list[Tensor] | None:
    """Tensors of one row as the tap writes them; None where their shapes are not fixed."""
    arrays = one_row_arrays(specs)
    if arrays is None:
        return None
    return [
        Tensor(DATATYPE_NUMBER[spec.datatype], array.shape, array.tobytes())
        for spec, array in zip(specs, arrays, strict=True)
    ]
