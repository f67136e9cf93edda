"""Open rollouts as the registry sees them: what may not be done beside one, and what ends one at once.

How a rollout decides is `mlops.rollout`'s; here is only what every write of desired state has to know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from mlops.registry.journal import Write
from mlops.registry.schema import rollout_decisions, rollouts
from mlops.registry.values import DesiredState, Share
from mlops.routing import WHOLE_BP
from tickserve.errors import RegistryError

#: Events after which nothing happens to a rollout any more.
ABORTED, FINISHED = "aborted", "finished"
#: Entries of desired state about who gets which requests.
TRAFFIC = ("split", "salt", "shadow", "latency_edge_ns", "schema_override")


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One rollout; `spec` is plain, as `mlops.rollout.parse_spec` reads it. `ended_at` is None while it is open."""

    rollout: int
    model: str
    canary: int
    stable: int
    spec: Mapping[str, Any]
    salt: str
    actor: str
    reason: str
    started_at: datetime
    ended_at: datetime | None

    @property
    def strategy(self) -> str:
        """`canary` or `blue_green`; empty where a spec of another tickserve does not say."""
        return str(self.spec.get("strategy", ""))

    @property
    def started_ns(self) -> int:
        """When it was started, unix time."""
        return int(self.started_at.timestamp() * 1e6) * 1_000

    def is_in(self, state: DesiredState) -> bool:
        """Whether it has given its version any requests: before that nothing of it is in the desired state."""
        return any(share.version == self.canary for share in state.split)


def read_rollout(connection: Connection, rollout: int) -> RolloutRow | None:
    """One rollout by its number."""
    return _one(connection, select(rollouts).where(rollouts.c.rollout == rollout))


def open_rollout(connection: Connection, model: str) -> RolloutRow | None:
    """The rollout of a model that is open; there is at most one."""
    return _one(connection, select(rollouts).where(rollouts.c.model == model, rollouts.c.ended_at.is_(None)))


def all_open(connection: Connection) -> tuple[RolloutRow, ...]:
    """Every open rollout, the oldest first."""
    return _all(connection, select(rollouts).where(rollouts.c.ended_at.is_(None)))


def latest_rollout(connection: Connection, model: str) -> RolloutRow | None:
    """The rollout of a model that was started last, open or not."""
    of_model = select(rollouts).where(rollouts.c.model == model)
    return _one(connection, of_model.order_by(rollouts.c.rollout.desc()).limit(1))


def read_rollouts(connection: Connection, model: str) -> tuple[RolloutRow, ...]:
    """Every rollout of a model, the oldest first."""
    return _all(connection, select(rollouts).where(rollouts.c.model == model))


def _one(connection: Connection, query: Select[Any]) -> RolloutRow | None:
    row = connection.execute(query).one_or_none()
    return None if row is None else RolloutRow(**row._mapping)


def _all(connection: Connection, query: Select[Any]) -> tuple[RolloutRow, ...]:
    rows = connection.execute(query.order_by(rollouts.c.rollout))
    return tuple(RolloutRow(**row._mapping) for row in rows)


def require_no_rollout(connection: Connection, model: str, what: str) -> None:
    """Raises RegistryError where a rollout of the model is open: two would decide on the same requests."""
    found = open_rollout(connection, model)
    if found is not None:
        raise RegistryError(
            f"{what} is refused while the rollout of version {found.canary} of model {model!r} is open: it decides "
            f"who gets which requests; end it first (tickserve rollout abort {model}), or take its version back at "
            f"once (tickserve models rollback {model})",
            field="rollout",
        )


def taken_back(state: DesiredState, canary: int, stable: int) -> DesiredState:
    """The state without a rollout's version, its shadow and its frozen edge.

    What the version had goes to the stable one; where it is the stable one itself, to the version before the rollout.
    A split that does not have it stays: somebody else made it.
    """
    split = state.split
    if state.named("stable") == canary:
        split = (Share(version=stable, role="stable", weight_bp=WHOLE_BP),)
    elif any(share.version == canary for share in split):
        given = sum(share.weight_bp for share in split if share.version == canary)
        split = tuple(
            share.model_copy(update={"weight_bp": share.weight_bp + (given if share.role == "stable" else 0)})
            for share in split
            if share.version != canary
        )
    return without_watch(state.model_copy(update={"split": split, "segments": ()}), canary, stable)


def without_watch(state: DesiredState, canary: int, stable: int) -> DesiredState:
    """The state without a rollout's shadow and frozen edge; somebody else's shadow stays."""
    shadow = state.shadow
    is_ours = shadow is not None and {shadow.version, shadow.of} == {canary, stable}
    return state.model_copy(update={"shadow": None if is_ours else shadow, "latency_edge_ns": 0})


def insert_decision(
    write: Write,
    rollout: int,
    *,
    event: str,
    step: int,
    share_bp: int,
    actor: str,
    reason: str,
    facts: Mapping[str, Any],
    revision: int,
    place: int = 0,
) -> None:
    """Keeps a decision; one that ends the rollout closes it."""
    write.insert(
        rollout_decisions,
        rollout=rollout,
        sequence=write.sequence,
        place=place,
        event=event,
        step=step,
        share_bp=share_bp,
        actor=actor,
        reason=reason,
        facts=dict(facts),
        revision=revision,
        at=write.at,
    )
    if event in (ABORTED, FINISHED):
        write.update(rollouts, {"rollout": rollout}, ended_at=write.at)


def end_rollout(write: Write, found: RolloutRow, revision: int, how: str) -> None:
    """Ends a rollout that a change of desired state took back; the change itself is the caller's.

    Parameters
    ----------
    how : str
        What took it back, such as `models rollback`.
    """
    insert_decision(
        write,
        found.rollout,
        event=ABORTED,
        step=0,
        share_bp=0,
        actor=write.author.actor,
        reason=write.author.reason,
        facts={"by": how},
        revision=revision,
    )


def moves_traffic(before: DesiredState, after: DesiredState) -> bool:
    """Whether a change is about who gets which requests; the rest may be changed beside a rollout."""
    return any(getattr(before, name) != getattr(after, name) for name in TRAFFIC)
