"""Finding models and versions: by number, by role, by alias or by label."""

import re
from typing import Any

import semver
from sqlalchemy import Connection, Row, select

from mlops.package.manifest import MAX_INTEGER
from mlops.registry.schema import aliases, desired, models, versions
from mlops.registry.values import Status, Version, read_state
from tickserve.errors import RegistryArgumentError, UnknownError

#: `live` and `canary` are read from desired state; `latest` would be taken for what is served.
RESERVED = frozenset({"live", "canary", "latest"})
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_MAX_LABEL = 128
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def require_model(connection: Connection, model: str) -> Any:
    """The model's row, or UnknownError."""
    row = connection.execute(select(models).where(models.c.name == model)).one_or_none()
    if row is None:
        raise UnknownError(f"the registry has no model {model!r}", field="model")
    return row


def require_version(connection: Connection, model: str, version: int) -> Version:
    """The version, whatever its status, or UnknownError."""
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= MAX_INTEGER:
        raise UnknownError(f"no model has a version {version!r}", field="version")
    row = connection.execute(
        select(versions).where(versions.c.model == model, versions.c.version == version)
    ).one_or_none()
    if row is None:
        require_model(connection, model)
        raise UnknownError(f"model {model!r} has no version {version}", field="version")
    return as_version(row)


def resolve(connection: Connection, model: str, reference: str | int) -> Version:
    """The version that a reference names.

    Parameters
    ----------
    reference : str or int
        A number, `live` or `canary` (from desired state), an alias, or a semantic version that labels one.

    Raises
    ------
    UnknownError
        Where nothing has that name, or the version is deleted.
    """
    found = require_version(connection, model, _number(connection, model, str(reference)))
    if found.status == Status.DELETED:
        raise UnknownError(f"version {found.version} of model {model!r} is deleted", field="version")
    return found


def as_version(row: Row[Any]) -> Version:
    """A row of `versions` as a value."""
    return Version(
        model=row.model,
        version=row.version,
        digest=row.digest,
        status=Status(row.status),
        label=row.label,
        author=row.author,
        description=row.description,
        metadata=row.metadata,
        registered_at=row.registered_at,
    )


def check_alias(alias: str) -> str:
    """Returns `alias`, or raises RegistryArgumentError where it is reserved or could be taken for a version."""
    if alias in RESERVED or not _ALIAS.fullmatch(alias):
        raise RegistryArgumentError(
            f"alias {alias!r} must be 1 to 64 of a-z, 0-9, '_' and '-', start with a letter, and be none of "
            f"{', '.join(sorted(RESERVED))}",
            field="alias",
        )
    return alias


def check_label(label: str) -> str:
    """Returns the semantic version, or raises RegistryArgumentError."""
    try:
        if len(label) > _MAX_LABEL:
            raise ValueError
        return str(semver.Version.parse(label))
    except (ValueError, TypeError):
        raise RegistryArgumentError(
            f"label {label!r} is no semantic version such as 1.4.0 or 2.0.0-rc.1 of at most {_MAX_LABEL} characters",
            field="label",
        ) from None


def label_key(label: str) -> semver.Version:
    """What labels are ordered by: 1.0.9 comes before 1.0.10, and 2.0.0-rc.1 before 2.0.0."""
    return semver.Version.parse(label)


def _number(connection: Connection, model: str, reference: str) -> int:
    if _NUMBER.fullmatch(reference):
        return int(reference)
    if reference in ("live", "canary"):
        stored = connection.execute(select(desired.c.state).where(desired.c.model == model)).scalar_one_or_none()
        role = "stable" if reference == "live" else reference
        state = read_state(stored) if stored is not None else None
        number = state.named(role) if state is not None else None
        if number is None:
            require_model(connection, model)
            several = sorted(share.version for share in state.split if share.role == role) if state is not None else []
            text = f"versions {several} of model {model!r} are all {reference}; name one"
            raise UnknownError(text if several else f"no version of model {model!r} is {reference}", field="version")
        return number
    number = connection.execute(
        select(aliases.c.version).where(aliases.c.model == model, aliases.c.alias == reference)
    ).scalar_one_or_none()
    if number is None and semver.Version.is_valid(reference):
        number = connection.execute(
            select(versions.c.version).where(versions.c.model == model, versions.c.label == str(reference))
        ).scalar_one_or_none()
    if number is None:
        require_model(connection, model)
        raise UnknownError(
            f"{reference!r} names no version of model {model!r}; expected a number, live, canary, an alias or a label",
            field="version",
        )
    return int(number)
