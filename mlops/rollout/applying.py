"""Writing what was decided: desired state, decisions and progress, all in one transaction or not at all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlops.registry.desired import place_of, require_desired, write_state
from mlops.registry.journal import Write
from mlops.registry.rollouts import RolloutRow, insert_decision
from mlops.registry.values import Desired, DesiredState
from mlops.rollout import desired as states
from mlops.rollout.alarms import insert_untold
from mlops.rollout.machine import Audit, Decision, DesiredChange, Phase
from mlops.rollout.spec import RolloutSpec
from mlops.rollout.stepping import Moved
from mlops.rollout.store import Progress, write_progress


def apply(
    write: Write,
    found: RolloutRow,
    spec: RolloutSpec | None,
    moved: Moved,
    expected: int | None,
    *,
    change: DesiredChange | None = None,
) -> Progress:
    """Writes a decision and the progress that it was made in, and returns the progress under its new revision.

    Parameters
    ----------
    spec : RolloutSpec, optional
        None where it cannot be read: no decision gives the version a share then.
    expected : int, optional
        The model's desired revision that the decision rests on.
    change : DesiredChange, optional
        To be made although the decision makes none: what somebody else changed is put right.

    Raises
    ------
    ConflictError
        Where the desired state or the progress moved since they were read; nothing is written then.
    RegistryError
        Where the desired state cannot be so.
    """
    decision = moved.decision
    change = decision.change or change
    desired = require_desired(write.connection, found.model)
    if change is not None:
        state = _state(desired.state, found, spec, moved, change)
        desired = write_state(
            write, found.model, state, expected, restores=restored_place(write, found, desired, state)
        )
    _write_decisions(write, found, decision, desired.revision)
    revision = desired.revision if change is not None else moved.progress.desired_revision
    progress = replace(moved.progress, state=decision.state, desired_revision=revision)
    return write_progress(write.connection, found.rollout, progress)


def _write_decisions(write: Write, found: RolloutRow, decision: Decision, revision: int) -> None:
    """Keeps every entry of a decision."""
    for place, audit in enumerate(decision.audit):
        insert_decision(
            write,
            found.rollout,
            place=place,
            event=audit.event,
            step=decision.state.step + 1,
            share_bp=_share_after(audit, decision),
            actor=audit.actor,
            reason=audit.reason,
            facts=_finite(audit.facts),
            revision=revision,
        )
        if audit.is_alarm:
            insert_untold(write.connection, found.rollout, write.sequence, place)


def _share_after(audit: Audit, decision: Decision) -> int:
    """The share that an entry is about; -1 where it leaves it as it is."""
    return int(audit.facts.get("share_bp", -1 if decision.change is None else decision.change.share_bp))


def _finite(value: Any) -> Any:
    """The same without numbers that JSON does not have: those are None."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(entry) for entry in value]
    return value


def _state(
    state: DesiredState, found: RolloutRow, spec: RolloutSpec | None, moved: Moved, change: DesiredChange
) -> DesiredState:
    rollout = moved.decision.state
    if rollout.phase in (Phase.FINISHED, Phase.ABORTED):
        return states.after(state, found, is_finished=rollout.phase is Phase.FINISHED)
    edge_ns = moved.progress.edge_ns
    if edge_ns is None or spec is None:
        raise AssertionError("a share is given by the spec, after the edge was frozen")
    return states.at_step(state, found, spec, rollout.step, edge_ns, change.salt or found.salt)


def restored_place(write: Write, found: RolloutRow, before: Desired, state: DesiredState) -> int | None:
    """Where going back stands in the history, so that a rollback after it goes further back."""
    is_back = before.state.named("stable") == found.canary and state.named("stable") == found.stable
    return place_of(write.connection, found.model, found.stable) if is_back else None
