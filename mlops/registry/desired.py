"""What is meant to be served: one revisioned state a model, written only over the revision that it was based on."""

import json
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Row, select

from mlops.package import Manifest
from mlops.package.manifest import explain
from mlops.registry.journal import Write, require_reason
from mlops.registry.lookup import require_model, require_version
from mlops.registry.overrides import check_overrides
from mlops.registry.rollouts import (
    TRAFFIC,
    RolloutRow,
    end_rollout,
    moves_traffic,
    open_rollout,
    require_no_rollout,
    taken_back,
)
from mlops.registry.schema import desired, desired_history, packages, revision
from mlops.registry.values import Desired, DesiredState, Share, Status, read_state
from mlops.routing import WHOLE_BP
from tickserve.errors import ConflictError, RegistryArgumentError, RegistryError, UnknownError


def read_revision(connection: Connection) -> int:
    """The number that rises with every write of any desired state."""
    return int(connection.execute(select(revision.c.revision)).scalar_one())


def raise_revision(write: Write) -> None:
    """Has servers read again what they are to obey."""
    write.update(revision, {"id": 1}, revision=read_revision(write.connection) + 1)


def read_desired(connection: Connection, model: str) -> Desired | None:
    """The model's desired state, or None where it never had one."""
    joined = desired.join(
        desired_history,
        (desired_history.c.model == desired.c.model) & (desired_history.c.revision == desired.c.revision),
    )
    row = connection.execute(
        select(desired, desired_history.c.at, desired_history.c.actor, desired_history.c.reason)
        .select_from(joined)
        .where(desired.c.model == model)
    ).one_or_none()
    return None if row is None else as_desired(row)


def require_desired(connection: Connection, model: str) -> Desired:
    """The model's desired state. Raises RegistryError where it has none."""
    found = read_desired(connection, model)
    if found is None:
        raise RegistryError(f"model {model!r} has no desired state any more", field="model")
    return found


def desired_at(connection: Connection, model: str, at: datetime) -> Desired | None:
    """What was meant to be served at a time; a write counts from its own microsecond on."""
    row = connection.execute(
        select(desired_history)
        .where(desired_history.c.model == model, desired_history.c.at <= at)
        .order_by(desired_history.c.at.desc(), desired_history.c.revision.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else as_desired(row)


def desired_history_of(connection: Connection, model: str) -> list[Desired]:
    """Every desired state that the model had, oldest first."""
    rows = connection.execute(
        select(desired_history).where(desired_history.c.model == model).order_by(desired_history.c.revision)
    )
    return [as_desired(row) for row in rows]


def as_desired(row: Row[Any]) -> Desired:
    """A row of `desired_history` as a value."""
    return Desired(row.model, row.revision, read_state(row.state), row.at, row.actor, row.reason)


def make_state(**entries: Any) -> DesiredState:
    """A desired state of these entries, or RegistryArgumentError that names the one at fault."""
    try:
        return DesiredState(**entries)
    except ValidationError as error:
        fault = explain(error, "desired state")
        raise RegistryArgumentError(fault.message, field=fault.field) from None


def write_state(
    write: Write, model: str, state: DesiredState, expected: int | None, restores: int | None = None
) -> Desired:
    """Replaces the model's desired state; the same state again writes nothing.

    Segments are not the caller's: they follow from those before and the new weights, so that every server of a fleet,
    after every restart, has the same ones.

    Parameters
    ----------
    expected : int, optional
        The model's revision that this is based on, 0 where it has none; without it whatever is there is replaced.

    Raises
    ------
    ConflictError
        Where the model's revision is another one by now.
    RegistryError
        Where the state names a version that is not approved, or whose schema differs and is not overridden.
    """
    require_reason(write.author)
    require_model(write.connection, model)
    before = read_desired(write.connection, model)
    found = before.revision if before else 0
    require_revision(before, model, expected)
    try:
        state = state.following(before.state if before else None)
    except ValueError as error:
        raise RegistryArgumentError(str(error), field="split") from None
    if before is not None and before.state == state:
        return before
    check_state(write, model, before.state if before else None, state)
    stored = state.model_dump(mode="json")
    if before is None:
        write.insert(desired, model=model, revision=1, state=stored)
    else:
        write.update(desired, {"model": model}, revision=found + 1, state=stored)
    write.insert(
        desired_history,
        model=model,
        revision=found + 1,
        state=stored,
        stable=state.named("stable"),
        restores=_restored(write, before, state) if restores is None else restores,
        sequence=write.sequence,
        at=write.at,
        actor=write.author.actor,
        reason=write.author.reason,
    )
    raise_revision(write)
    return Desired(model, found + 1, state, write.at, write.author.actor, write.author.reason)


def check_state(write: Write, model: str, before: DesiredState | None, state: DesiredState) -> None:
    """Raises RegistryError where a version of the state may not serve: not approved, another schema, no such rule."""
    for version in sorted(state.versions()):
        _require_approved(write, model, version)
    _check_schemas(write, model, before, state)
    manifests = (_manifest(write, model, version) for version in sorted(state.versions()))
    check_overrides(before, state, manifests)


def set_state(write: Write, model: str, state: DesiredState, expected: int | None) -> Desired:
    """Replaces the desired state as somebody asked for; a halt ends a rollout that is open.

    Raises
    ------
    RegistryError
        Where a rollout is open and the state would give requests to other versions, a new shadow would get no copies,
        or as `write_state`.
    ConflictError
        As `write_state`.
    """
    before = read_desired(write.connection, model)
    require_revision(before, model, expected)
    if before is None or state.shadow != before.state.shadow:
        _require_copies(model, state)
    found = open_rollout(write.connection, model)
    if found is None or before is None:
        return write_state(write, model, state, expected)
    if state.halt is not None and before.state.halt is None:
        # Stopping comes before everything else: what was asked for about traffic beside it is not looked at.
        traffic = {name: getattr(before.state, name) for name in TRAFFIC}
        halted = taken_back(state.model_copy(update=traffic), found.canary, found.stable)
        desired = write_state(write, model, halted, expected, restores=_before(write, found, halted))
        end_rollout(write, found, desired.revision, "halt")
        return desired
    if moves_traffic(before.state, state):
        require_no_rollout(write.connection, model, "changing split or shadow by hand")
    return write_state(write, model, state, expected)


def _require_copies(model: str, state: DesiredState) -> None:
    """Raises RegistryError where a shadow would never get a copy. Only of a shadow that is new: splits change later."""
    shadow = state.shadow
    if shadow is None:
        return
    asked = {share.version for share in state.split} - {shadow.version}
    if shadow.of is not None:
        asked &= {shadow.of}
    if not asked:
        whose = "another version" if shadow.of is None else f"version {shadow.of}"
        raise RegistryError(
            f"version {shadow.version} of model {model!r} would be a shadow without copies: {whose} has no share "
            "of the requests",
            field="shadow",
        )


def require_revision(found: Desired | None, model: str, expected: int | None) -> None:
    """Raises ConflictError where the model's revision is not the one that a change is based on."""
    revision = found.revision if found else 0
    if expected is not None and expected != revision:
        raise ConflictError(
            f"the desired state of model {model!r} moved from revision {expected} to {revision}; read it again",
            field="revision",
        )


def promoted(before: DesiredState | None, version: int, schema_override: int) -> DesiredState:
    """The state in which one version answers everything; scale, halt, pins and rules stay as they were."""
    state = before or DesiredState()
    shadow = None if state.shadow and state.shadow.version == version else state.shadow
    split = (Share(version=version, role="stable", weight_bp=WHOLE_BP),)
    changes = {"split": split, "segments": (), "shadow": shadow, "schema_override": schema_override}
    return state.model_copy(update=changes)


def roll_back(write: Write, model: str, expected: int | None) -> Desired:
    """Makes the stable version before the present one stable again; done twice, it goes back further still.

    What was rolled back from is not gone back to. Where a rollout is open and its version answers, that is what is
    taken back; in any case the rollout ends.

    Versions that are no longer approved are passed over. Gates do not run: what is restored was live before, and its
    schema was accepted then.

    Raises
    ------
    UnknownError
        Where there is no earlier stable version.
    ConflictError
        As `write_state`.
    """
    require_reason(write.author)
    before = read_desired(write.connection, model)
    if before is None:
        require_model(write.connection, model)
        raise UnknownError(f"model {model!r} never had a desired state", field="model")
    require_revision(before, model, expected)
    found = open_rollout(write.connection, model)
    if found is not None and found.is_in(before.state):
        state = taken_back(before.state, found.canary, found.stable)
        desired = write_state(write, model, state, expected, restores=_before(write, found, state))
    else:
        desired = _roll_back(write, model, before, expected)
    if found is not None:
        end_rollout(write, found, desired.revision, "models rollback")
    return desired


def place_of(connection: Connection, model: str, stable: int) -> int | None:
    """Where the latest state stands that had this stable version, for going back to it; None where none had."""
    row = connection.execute(
        select(desired_history)
        .where(desired_history.c.model == model, desired_history.c.stable == stable)
        .order_by(desired_history.c.revision.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else _place(row)


def _before(write: Write, found: RolloutRow, state: DesiredState) -> int | None:
    """The place of the stable version from before the rollout, where the state goes back to it."""
    now = read_desired(write.connection, found.model)
    if now is None or now.state.named("stable") == state.named("stable"):
        return None
    return place_of(write.connection, found.model, found.stable)


def _roll_back(write: Write, model: str, before: Desired, expected: int | None) -> Desired:
    rows = write.connection.execute(select(desired_history).where(desired_history.c.model == model))
    history = {row.revision: row for row in rows}
    stable = before.state.named("stable")
    # Each state stands where the revision that it restores stands, so that what was rolled back from is left behind.
    place = _place(history[before.revision])
    while place > 1:
        row = history[place - 1]
        place = _place(row)
        if row.stable is None or row.stable == stable:
            continue
        if require_version(write.connection, model, row.stable).status == Status.APPROVED:
            differs = stable is not None and schema_changes(
                _manifest(write, model, stable), _manifest(write, model, row.stable)
            )
            state = promoted(before.state, row.stable, row.stable if differs else 0)
            return write_state(write, model, state, expected, restores=place)
    raise UnknownError(
        f"model {model!r} has no earlier stable version that is still approved; promote one", field="version"
    )


def _place(row: Row[Any]) -> int:
    return int(row.restores or row.revision)


def _restored(write: Write, before: Desired | None, state: DesiredState) -> int | None:
    """What the last rollback went back to, where its stable version still is the one: the next goes further back."""
    if before is None or before.state.named("stable") != state.named("stable"):
        return None
    key = (desired_history.c.model == before.model) & (desired_history.c.revision == before.revision)
    restores: int | None = write.connection.execute(select(desired_history.c.restores).where(key)).scalar_one()
    return restores


def _require_approved(write: Write, model: str, version: int) -> None:
    status = require_version(write.connection, model, version).status
    if status != Status.APPROVED:
        raise RegistryError(
            f"version {version} of model {model!r} is {status}; only approved versions may be desired "
            f"(tickserve models approve {model} {version})",
            field="status",
        )


def _check_schemas(write: Write, model: str, before: DesiredState | None, state: DesiredState) -> None:
    stable = before.named("stable") if before else None
    if stable is None:
        return
    served = _manifest(write, model, stable)
    for version in sorted(state.versions() - {stable, state.schema_override}):
        changes = schema_changes(served, _manifest(write, model, version))
        if changes:
            raise RegistryError(
                f"version {version} of model {model!r} has another schema than version {stable}, which is live: "
                f"{'; '.join(changes)}. Name it as schema override where clients are ready for it",
                field="schema_override",
            )


def schema_changes(old: Manifest, new: Manifest) -> list[str]:
    """How what clients send and get differs, in sentences; empty where nothing does."""
    changes = []
    if old.feature_names != new.feature_names:
        added = [name for name in new.feature_names if name not in old.feature_names]
        removed = [name for name in old.feature_names if name not in new.feature_names]
        parts = [f"added {', '.join(added)}"] if added else []
        parts += [f"removed {', '.join(removed)}"] if removed else []
        changes.append(f"features: {' and '.join(parts) or 'in another order'}")
    for kind, before, after in (("inputs", old.inputs, new.inputs), ("outputs", old.outputs, new.outputs)):
        if before != after:
            changes.append(f"{kind}: {_tensors(before)} became {_tensors(after)}")
    return changes


def _tensors(specs: Any) -> str:
    return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)


def _manifest(write: Write, model: str, version: int) -> Manifest:
    return read_manifest(write.connection, require_version(write.connection, model, version).digest)


def read_manifest(connection: Connection, digest: str) -> Manifest:
    """The manifest of a registered package."""
    stored = connection.execute(select(packages.c.manifest).where(packages.c.digest == digest)).scalar_one()
    return Manifest.model_validate_json(json.dumps(stored))
