"""What the registry tells: frozen values, free of the database."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mlops.package.manifest import Count, Frozen, Name
from mlops.routing import WHOLE_BP, Segment, fits, following, layout


class Status(StrEnum):
    """How far a version has come."""

    REGISTERED = "registered"
    VALIDATED = "validated"
    APPROVED = "approved"
    RETIRED = "retired"
    DELETED = "deleted"


#: The only ways from one status to another. A retired version may be approved again.
TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.REGISTERED: frozenset({Status.VALIDATED, Status.DELETED}),
    Status.VALIDATED: frozenset({Status.APPROVED, Status.RETIRED, Status.DELETED}),
    Status.APPROVED: frozenset({Status.RETIRED}),
    Status.RETIRED: frozenset({Status.APPROVED, Status.DELETED}),
    Status.DELETED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model is for; searched by."""

    strategy_type: str = ""
    universe: str = ""
    model_type: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """One model: its facts, its newest version and which one is meant to be live."""

    name: str
    facts: ModelFacts
    created_at: datetime
    newest: int | None
    live: int | None


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model; `version` is its number, `label` a semantic version where it has one."""

    model: str
    version: int
    digest: str
    status: Status
    label: str | None
    author: str
    description: str
    metadata: Mapping[str, Any]
    registered_at: datetime


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One figure of one version; a value of None is undefined."""

    dataset: str
    name: str
    step: int
    value: float | None
    standard_error: float | None
    n: int
    at: datetime


RunStatus = Literal["running", "completed", "failed"]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """How a training run went."""

    status: RunStatus = "completed"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    code_revision: str = ""
    data_fingerprint: str = ""
    seed: int | None = None
    started_at: datetime | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One training run."""

    run: str
    model: str
    version: int | None
    facts: RunFacts


@dataclass(frozen=True, slots=True)
class Approval:
    """Who let a version be promoted (kind `version`), or let it although a gate could not decide (`inconclusive`)."""

    kind: str
    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class GateEvaluation:
    """One run of the gates on a version: what led to it and came of it, what was live, and the whole report."""

    at: datetime
    actor: str
    action: str
    verdict: str
    live: int | None
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the audit log, as far as people read it."""

    sequence: int
    at: datetime
    actor: str
    reason: str
    action: str
    model: str | None
    version: int | None


Number = Annotated[int, Field(ge=1, le=10**18)]
Weight = Annotated[int, Field(ge=1, le=WHOLE_BP)]


class Share(Frozen):
    """One version's share of the split, in 1/10,000 of the routing keys."""

    version: Number
    role: Literal["stable", "canary"]
    weight_bp: Weight


class SplitSegment(Frozen):
    """A part of the routing hashes: up to `upto_bp`, in 1/10,000 of them, and from where the one before ends."""

    version: Number
    upto_bp: Weight


class Shadow(Frozen):
    """A version that gets copies of live requests and answers no client: of those of version `of`, else of all."""

    version: Number
    fraction_bp: Weight
    salt: Annotated[str, Field(max_length=256)] = ""
    of: Number | None = None

    @model_validator(mode="after")
    def _of_another(self) -> "Shadow":
        if self.of == self.version:
            raise ValueError(f"version {self.version} cannot be the shadow of itself")
        return self


class HaltEntry(Frozen):
    """Who stopped the model, why and since when (ISO 8601, UTC)."""

    reason: str
    actor: str
    since: str


class AllowedPin(Frozen):
    """A version that clients may pin: those named, or every one where none is."""

    version: Number
    clients: tuple[Name, ...] = ()


class RuleOverride(Frozen):
    """Replaces one rule of the package; what is None keeps the package's."""

    rule: Name
    policy: Literal["reject", "clip", "flag", "fallback"] | None = None
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "RuleOverride":
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} of rule {self.rule} is above its maximum {self.maximum:g}")
        return self


class DesiredState(Frozen):
    """What is meant to be served for one model. `schema_override` names the version whose other schema is accepted.

    `segments` say which routing hashes each version of the split has; empty where they lie as they would without a
    history. Whoever writes a state gives weights: the registry moves the segments of the state before.
    `latency_edge_ns` is what a rollout holds latencies against, in nanoseconds; 0 is nothing.
    """

    split: tuple[Share, ...] = ()
    segments: tuple[SplitSegment, ...] = ()
    salt: Annotated[str, Field(max_length=256)] = ""
    shadow: Shadow | None = None
    fallback_version: Number | None = None
    position_scale: Annotated[float, Field(ge=0, le=1)] = 1.0
    halt: HaltEntry | None = None
    allowed_pins: tuple[AllowedPin, ...] = ()
    rule_overrides: tuple[RuleOverride, ...] = ()
    schema_override: Count = 0
    latency_edge_ns: Count = 0

    @model_validator(mode="after")
    def _consistent(self) -> "DesiredState":
        if self.split:
            total = sum(share.weight_bp for share in self.split)
            if total != WHOLE_BP:
                raise ValueError(f"the split's weights sum to {total}, expected {WHOLE_BP}")
            if sum(share.role == "stable" for share in self.split) != 1:
                raise ValueError("a split needs exactly one stable version")
        for what, names in (
            ("version of the split", [share.version for share in self.split]),
            ("pin", [pin.version for pin in self.allowed_pins]),
            ("rule", [override.rule for override in self.rule_overrides]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"a {what} is named twice")
        if self.segments and not fits(_routed(self.segments), self.weights()):
            raise ValueError("the segments do not give each version its weight")
        return self

    def weights(self) -> dict[str, int]:
        """The weight of each version of the split, in 1/10,000; the stable one last, from which others take."""
        ordered = sorted(self.split, key=lambda share: share.role == "stable")
        return {str(share.version): share.weight_bp for share in ordered}

    def layout(self) -> tuple[Segment, ...]:
        """The segments of the split, which is not empty."""
        return layout(_routed(self.segments), self.weights())

    def following(self, before: "DesiredState | None") -> "DesiredState":
        """This state with the segments that come after those of `before`: as few keys as can be get another version.

        Another salt moves every key anyway, so it begins anew.

        Raises
        ------
        ValueError
            Where too many segments would come of it.
        """
        earlier = before.layout() if before is not None and before.split and before.salt == self.salt else ()
        found = following(earlier, self.weights()) if self.split else ()
        segments = tuple(SplitSegment(version=int(each.version), upto_bp=each.upto_bp) for each in found)
        return self.model_copy(update={"segments": segments})

    def named(self, role: str) -> int | None:
        """The version of this role, `stable` or `canary`; None where there is none, or more than one."""
        found = [share.version for share in self.split if share.role == role]
        return found[0] if len(found) == 1 else None

    def versions(self) -> frozenset[int]:
        """Every version that this state may make a server load."""
        found = {share.version for share in self.split} | {pin.version for pin in self.allowed_pins}
        found |= {self.shadow.version} if self.shadow else set()
        return frozenset(found | ({self.fallback_version} if self.fallback_version else set()))


def _routed(segments: tuple[SplitSegment, ...]) -> tuple[Segment, ...]:
    return tuple(Segment(str(each.version), each.upto_bp) for each in segments)


def read_state(stored: Any) -> DesiredState:
    """The state that a table holds."""
    # By way of text: JSON has lists where the value has tuples, which strict validation takes from JSON only.
    return DesiredState.model_validate_json(json.dumps(stored))


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired state of one model, its revision, and who wrote it when and why."""

    model: str
    revision: int
    state: DesiredState
    at: datetime
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Served:
    """One version that one server has installed, in its own words."""

    server: str
    model: str
    version: int
    role: str
    digest: str
    since: datetime
