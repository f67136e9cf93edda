"""What a server says of itself on the admin listener, as frozen values."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from tickserve.client.answer import ROLES
from tickserve.errors import Code
from tickserve.prediction import Role
from tickserve.v1 import control_pb2 as pb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ServerState(StrEnum):
    """The names of `tickserve.v1.ServerState` without their prefix, in lower case."""

    UNSPECIFIED = "unspecified"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class ModelState(StrEnum):
    """The names of `tickserve.v1.ModelState` without their prefix, in lower case."""

    UNSPECIFIED = "unspecified"
    LOADING = "loading"
    SERVING = "serving"
    HALTED = "halted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Halt:
    """Who stopped a model, when and why."""

    reason: str
    actor: str
    since: datetime


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version that is installed; run time is the median for one row, as measured before that."""

    version: str
    digest: str
    role: Role
    weight_bp: int
    since: datetime
    resident_bytes: int
    run_time_ns: int
    golden_max_error: float


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A version that answers again; why desired state does not say so too, for other servers to follow, else empty."""

    version: str
    not_desired: str


@dataclass(frozen=True, slots=True)
class FailedChange:
    """A change that did not happen: what was served before stayed."""

    version: str
    digest: str
    code: Code
    message: str
    at: datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class Share:
    """One version's share of the routing keys, in 1/10,000."""

    version: str
    role: Role
    weight_bp: int


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that gets copies of a part of the live requests, in 1/10,000: of those of version `of`, else of all."""

    version: str
    fraction_bp: int
    of: str = ""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What is meant to be served for a model; `position_scale` is absent where none is set.

    `actor`, `reason` and `at` say who wrote it, why and when; empty and None where a version policy says it.
    """

    revision: int
    split: tuple[Share, ...]
    fallback_version: str
    position_scale: float | None
    halt: Halt | None
    actor: str = ""
    reason: str = ""
    at: datetime | None = None
    shadow: Shadow | None = None
    latency_edge_ns: int = 0

    @property
    def stable(self) -> str:
        """The version that should be stable; empty where there is none."""
        return next((share.version for share in self.split if share.role is Role.STABLE), "")


@dataclass(frozen=True, slots=True)
class Override:
    """A decision at this server that outranks desired state: `held`, or `taken_out` of one version."""

    kind: str
    version: str
    actor: str
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model: what is served, what is meant to be, what failed on the way, and what was decided at the server.

    `previous` is the version that is kept warm to go back to; `loading` are those on their way.
    """

    name: str
    state: ModelState
    halt: Halt | None
    versions: tuple[VersionStatus, ...]
    desired: DesiredState | None
    failed: tuple[FailedChange, ...]
    is_following: bool
    previous: str = ""
    loading: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()

    @property
    def stable(self) -> str:
        """The version that answers as stable; empty where there is none."""
        return next((version.version for version in self.versions if version.role is Role.STABLE), "")


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server; `source_error` is empty where desired state could be read the last time.

    `listen` and `http` are addresses with the ports that were chosen. `server_id` is another one after a restart,
    `server_name` the same. A memory budget of 0 means no bound.
    """

    server_id: str
    server_version: str
    engine: str
    state: ServerState
    started_at: datetime
    plan_generation: int
    models: tuple[ModelStatus, ...]
    source: str
    source_age_s: float
    source_error: str
    listen: tuple[str, ...]
    http: str
    server_name: str = ""
    source_revision: int = 0
    memory_bytes: int = 0
    memory_budget_bytes: int = 0

    def model(self, name: str) -> ModelStatus | None:
        """One model by name."""
        return next((model for model in self.models if model.name == name), None)

    @property
    def is_serving(self) -> bool:
        """True where the server is ready, and each of its models answers or was stopped on purpose."""
        return self.state is ServerState.SERVING and all(
            model.state in (ModelState.SERVING, ModelState.HALTED) for model in self.models
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that changed at a server; `actor` is empty where it did so by itself."""

    sequence: int
    at: datetime
    kind: str
    model: str
    version: str
    actor: str
    message: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a halt or resume did: the models concerned, and the plan that obeys."""

    models: tuple[str, ...]
    plan_generation: int


def to_server_status(status: pb.StatusResponse) -> ServerStatus:
    """The typed value of a StatusResponse."""
    return ServerStatus(
        server_id=status.server_id,
        server_version=status.server_version,
        engine=status.engine,
        state=_SERVER_STATES.get(status.state, ServerState.UNSPECIFIED),
        started_at=_time(status.started_at_unix_ns),
        plan_generation=status.plan_generation,
        models=tuple(_model(model) for model in status.models),
        source=status.source,
        source_age_s=status.source_age_ns / 1e9,
        source_error=status.source_error,
        listen=tuple(status.listen),
        http=status.http,
        server_name=status.server_name,
        source_revision=status.source_revision,
        memory_bytes=status.memory_bytes,
        memory_budget_bytes=status.memory_budget_bytes,
    )


def to_event(event: pb.Event) -> Event:
    """The typed value of an Event."""
    return Event(
        event.sequence, _time(event.at_unix_ns), event.kind, event.model, event.version, event.actor, event.message
    )


_SERVER_STATES = {
    number: ServerState(name.removeprefix("SERVER_STATE_").lower()) for name, number in pb.ServerState.items()
}
_MODEL_STATES = {
    number: ModelState(name.removeprefix("MODEL_STATE_").lower()) for name, number in pb.ModelState.items()
}


def _model(model: pb.ModelStatus) -> ModelStatus:
    return ModelStatus(
        name=model.name,
        state=_MODEL_STATES.get(model.state, ModelState.UNSPECIFIED),
        halt=_halt(model.halt) if model.HasField("halt") else None,
        versions=tuple(
            VersionStatus(
                version=version.version,
                digest=version.digest.hex(),
                role=ROLES.get(version.role, Role.UNSPECIFIED),
                weight_bp=version.weight_bp,
                since=_time(version.since_unix_ns),
                resident_bytes=version.resident_bytes,
                run_time_ns=version.run_time_ns,
                golden_max_error=version.golden_max_error,
            )
            for version in model.versions
        ),
        desired=_desired(model.desired) if model.HasField("desired") else None,
        failed=tuple(
            FailedChange(
                version=change.version,
                digest=change.digest.hex(),
                code=_code(change.code),
                message=change.message,
                at=_time(change.at_unix_ns),
                attempts=change.attempts,
            )
            for change in model.failed
        ),
        is_following=model.is_following,
        previous=model.previous,
        loading=tuple(model.loading),
        overrides=tuple(
            Override(each.kind, each.version, each.actor, each.reason, _time(each.since_unix_ns))
            for each in model.overrides
        ),
    )


def _desired(desired: pb.DesiredState) -> DesiredState:
    return DesiredState(
        revision=desired.revision,
        split=tuple(
            Share(share.version, ROLES.get(share.role, Role.UNSPECIFIED), share.weight_bp) for share in desired.split
        ),
        fallback_version=desired.fallback_version,
        position_scale=desired.position_scale if desired.HasField("position_scale") else None,
        halt=_halt(desired.halt) if desired.HasField("halt") else None,
        actor=desired.actor,
        reason=desired.reason,
        at=_time(desired.at_unix_ns) if desired.at_unix_ns else None,
        shadow=Shadow(desired.shadow.version, desired.shadow.fraction_bp, desired.shadow.of)
        if desired.HasField("shadow")
        else None,
        latency_edge_ns=desired.latency_edge_ns,
    )


def _halt(halt: pb.HaltInfo) -> Halt:
    return Halt(halt.reason, halt.actor, _time(halt.since_unix_ns))


def _code(number: int) -> Code:
    return Code(number) if number in list(Code) else Code.UNKNOWN


def _time(unix_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=unix_ns // 1000)
