"""Rollouts in the registry's database: what was started, how far each is, and every decision."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from mlops.registry.rollouts import RolloutRow, all_open
from mlops.registry.schema import rollout_decisions, rollout_progress
from mlops.rollout.machine import RolloutState
from mlops.rollout.spec import RolloutSpec, parse_spec
from tickserve.errors import ConfigurationError, ConflictError, RegistryError

#: Of what is kept of a rollout. Evidence of another one cannot be gone on from, and counts as lost.
FORMAT = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rollout is.

    Parameters
    ----------
    revision : int
        Rises with every write; who writes names the one that was read.
    state : RolloutState
        Of the machine.
    analysis : mapping
        `Analysis.state()`; None before the first step.
    edge_ns : int, optional
        The frozen edge; 0 where no latency is judged, None before the first step.
    next_window_ns : int
        Start of the window that is looked at next, unix time.
    counted_to_ns : int
        End of the last window that anything was counted of.
    step_from_ns : int
        Start of the first window that is evidence of the present step; 0 before.
    desired_revision : int
        The model's desired revision that this rollout wrote, or found in order, last.
    unwatched : int
        Windows that were left out because not every server's counts came.
    began_ns : int
        When the first share was given, and before that when it was ordered, by the database's clock.
    reached : mapping
        By `reached_key`, the end of the last window that was taken of each sidecar and server.
    """

    revision: int
    state: RolloutState
    analysis: Mapping[str, Any] | None = None
    edge_ns: int | None = None
    next_window_ns: int = 0
    counted_to_ns: int = 0
    step_from_ns: int = 0
    desired_revision: int = 0
    unwatched: int = 0
    began_ns: int = 0
    reached: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_begun(self) -> bool:
        """Whether the first step's share was given."""
        return self.edge_ns is not None

    def body(self) -> str:
        """As JSON. Times are text; floats keep every bit."""
        plain = {
            "format": FORMAT,
            "state": self.state.as_dict(),
            "analysis": self.analysis,
            "edge_ns": None if self.edge_ns is None else str(self.edge_ns),
            "next_window_ns": str(self.next_window_ns),
            "counted_to_ns": str(self.counted_to_ns),
            "step_from_ns": str(self.step_from_ns),
            "desired_revision": self.desired_revision,
            "unwatched": self.unwatched,
            "began_ns": str(self.began_ns),
            "reached": {name: str(end_ns) for name, end_ns in self.reached.items()},
        }
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))

    @classmethod
    def of_body(cls, revision: int, body: str) -> "Progress":
        """What `body` gave. Raises ValueError, KeyError or TypeError where it is none."""
        plain = json.loads(body)
        if plain["format"] != FORMAT:
            raise ValueError(f"format {plain['format']} is not {FORMAT}")
        return cls(
            revision=revision,
            state=RolloutState.from_dict(plain["state"]),
            analysis=plain["analysis"],
            edge_ns=None if plain["edge_ns"] is None else int(plain["edge_ns"]),
            next_window_ns=int(plain["next_window_ns"]),
            counted_to_ns=int(plain["counted_to_ns"]),
            step_from_ns=int(plain["step_from_ns"]),
            desired_revision=int(plain["desired_revision"]),
            unwatched=int(plain["unwatched"]),
            began_ns=int(plain["began_ns"]),
            reached={name: int(end_ns) for name, end_ns in plain["reached"].items()},
        )


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision, as it is kept for ever."""

    rollout: int
    sequence: int
    place: int
    event: str
    step: int
    share_bp: int
    actor: str
    reason: str
    facts: Mapping[str, Any]
    revision: int
    at: datetime


def reached_key(reporter: str, boot: str) -> str:
    """How `Progress.reached` names a sidecar and a life of its server; neither holds a blank."""
    return f"{reporter} {boot}"


class DamagedProgressError(RegistryError):
    """What was kept of how far a rollout is cannot be read; `revision` is the row's, 0 where there is none."""

    def __init__(self, rollout: int, revision: int) -> None:
        super().__init__(f"the progress of rollout {rollout} is damaged", field="rollout_progress")
        self.revision = revision


def spec_of(found: RolloutRow) -> RolloutSpec:
    """What the rollout is to do. Raises ConfigurationError where this tickserve knows no such spec."""
    return parse_spec(found.spec)


def window_lengths(connection: Connection) -> Mapping[str, int]:
    """How long the windows of each model with an open rollout are, in ns: so they are to be counted.

    One whose spec cannot be read says nothing.
    """
    lengths = {}
    for found in all_open(connection):
        with suppress(ConfigurationError):
            lengths[found.model] = round(spec_of(found).window_s * 1e9)
    return lengths


def read_progress(connection: Connection, rollout: int) -> Progress:
    """How far it is. Raises DamagedProgressError where that is not as it was written, or not there."""
    row = connection.execute(select(rollout_progress).where(rollout_progress.c.rollout == rollout)).one_or_none()
    if row is None:
        raise DamagedProgressError(rollout, 0)
    if _sha256(row.body) != row.sha256:
        raise DamagedProgressError(rollout, row.revision)
    try:
        return Progress.of_body(row.revision, row.body)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedProgressError(rollout, row.revision) from None


def insert_progress(connection: Connection, rollout: int, progress: Progress) -> None:
    """Keeps the first progress."""
    body = progress.body()
    row = {"rollout": rollout, "revision": progress.revision, "body": body, "sha256": _sha256(body)}
    connection.execute(insert(rollout_progress).values(row))


def write_progress(connection: Connection, rollout: int, progress: Progress) -> Progress:
    """Replaces it, and returns it under its new revision.

    Raises
    ------
    ConflictError
        Where the row is not at `progress.revision` any more: somebody else decided meanwhile.
    """
    after = replace(progress, revision=progress.revision + 1)
    body = after.body()
    done = connection.execute(
        update(rollout_progress)
        .where(rollout_progress.c.rollout == rollout, rollout_progress.c.revision == progress.revision)
        .values(revision=after.revision, body=body, sha256=_sha256(body))
    )
    if done.rowcount != 1:
        raise ConflictError(f"rollout {rollout} moved from revision {progress.revision}", field="rollout_progress")
    return after


def replace_progress(connection: Connection, rollout: int, progress: Progress) -> None:
    """Puts it in the place of whatever is there, which is damaged."""
    connection.execute(delete(rollout_progress).where(rollout_progress.c.rollout == rollout))
    insert_progress(connection, rollout, progress)


def read_decisions(connection: Connection, rollout: int) -> tuple[Decided, ...]:
    """Every decision of a rollout, the oldest first."""
    table = rollout_decisions
    rows = connection.execute(select(table).where(table.c.rollout == rollout).order_by(table.c.sequence, table.c.place))
    return tuple(Decided(**row._mapping) for row in rows)


def _sha256(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
