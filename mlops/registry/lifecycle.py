"""How far a version has come: approval, retirement, deletion with its guard, and labels."""

from collections.abc import Iterator

from sqlalchemy import Connection, select

from mlops.registry.desired import read_desired
from mlops.registry.journal import Write, require_reason
from mlops.registry.lookup import check_label, require_version
from mlops.registry.register import require_free_label
from mlops.registry.rollouts import open_rollout
from mlops.registry.schema import aliases, approvals, versions
from mlops.registry.servers import installed
from mlops.registry.values import TRANSITIONS, Approval, Status, Version
from tickserve.errors import RegistryError

#: Kinds of approvals: of the version, and of promoting it although a gate could not decide.
OF_VERSION = "version"
OF_INCONCLUSIVE = "inconclusive"


def approve(write: Write, model: str, version: int) -> Version:
    """Lets a version be desired. Approving it again changes nothing."""
    if require_version(write.connection, model, version).status != Status.APPROVED:
        move(write, model, version, Status.APPROVED)
        _insert_approval(write, model, version, OF_VERSION)
    return require_version(write.connection, model, version)


def approve_inconclusive(write: Write, model: str, version: int) -> Version:
    """Lets an approved version be promoted although a gate could not decide."""
    found = require_version(write.connection, model, version)
    if found.status != Status.APPROVED:
        raise RegistryError(f"version {version} of model {model!r} is {found.status}; approve it first", field="status")
    _insert_approval(write, model, version, OF_INCONCLUSIVE)
    return found


def read_approvals(connection: Connection, model: str, version: int) -> list[Approval]:
    """Who approved what of a version, oldest first."""
    require_version(connection, model, version)
    rows = connection.execute(
        select(approvals)
        .where(approvals.c.model == model, approvals.c.version == version)
        .order_by(approvals.c.sequence)
    )
    return [Approval(row.kind, row.actor, row.reason, row.at) for row in rows]


def retire(write: Write, model: str, version: int) -> Version:
    """Takes a version out of use; refused while desired state, an alias or a server has it."""
    if require_version(write.connection, model, version).status != Status.RETIRED:
        _guard(write, model, version, "retired")
        move(write, model, version, Status.RETIRED)
    return require_version(write.connection, model, version)


def delete(write: Write, model: str, version: int) -> Version:
    """Deletes a version: it can no longer be named, and `gc` takes its files once nobody needs them.

    Its row and its history stay, and its number is never given again.
    """
    if require_version(write.connection, model, version).status != Status.DELETED:
        _guard(write, model, version, "deleted")
        move(write, model, version, Status.DELETED)
        write.update(versions, {"model": model, "version": version}, deleted_at=write.at, label=None)
    return require_version(write.connection, model, version)


def set_label(write: Write, model: str, version: int, label: str | None) -> Version:
    """Gives a version a semantic version as its label, or takes it away."""
    label = check_label(label) if label is not None else None
    found = require_version(write.connection, model, version)
    if found.status == Status.DELETED:
        raise RegistryError(f"version {version} of model {model!r} is deleted", field="version")
    if found.label != label:
        require_free_label(write, model, label)
        write.update(versions, {"model": model, "version": version}, label=label)
    return require_version(write.connection, model, version)


def move(write: Write, model: str, version: int, status: Status) -> None:
    """Changes a status along `TRANSITIONS`, or raises RegistryError."""
    found = require_version(write.connection, model, version)
    if status not in TRANSITIONS[found.status]:
        allowed = ", ".join(sorted(TRANSITIONS[found.status])) or "nothing"
        raise RegistryError(
            f"version {version} of model {model!r} is {found.status} and cannot become {status}; "
            f"it can become {allowed}",
            field="status",
        )
    write.update(versions, {"model": model, "version": version}, status=status)


def _insert_approval(write: Write, model: str, version: int, kind: str) -> None:
    require_reason(write.author)
    write.insert(
        approvals,
        model=model,
        version=version,
        sequence=write.sequence,
        kind=kind,
        actor=write.author.actor,
        reason=write.author.reason,
        at=write.at,
    )


def _guard(write: Write, model: str, version: int, verb: str) -> None:
    require_reason(write.author)
    users = ", ".join(_users(write, model, version))
    if users:
        raise RegistryError(
            f"version {version} of model {model!r} cannot be {verb}: it is used by {users}", field="version"
        )


def _users(write: Write, model: str, version: int) -> Iterator[str]:
    desired = read_desired(write.connection, model)
    if desired is not None and version in desired.state.versions():
        yield f"desired state (revision {desired.revision})"
    found = open_rollout(write.connection, model)
    if found is not None and version in (found.canary, found.stable):
        yield f"a rollout of version {found.canary}"
    for row in write.connection.execute(
        select(aliases.c.alias).where(aliases.c.model == model, aliases.c.version == version).order_by(aliases.c.alias)
    ):
        yield f"alias {row.alias!r}"
    for served in installed(write.connection, model):
        if served.version == version:
            yield f"server {served.server}"
