"""Names for versions beside `live` and `canary`, with their history. They make no server load anything."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, select

from mlops.registry.journal import Write
from mlops.registry.lookup import check_alias, require_version
from mlops.registry.schema import alias_history, aliases
from mlops.registry.values import Status
from tickserve.errors import RegistryError, UnknownError


def set_alias(write: Write, model: str, alias: str, version: int) -> None:
    """Points an alias at a version that is not deleted."""
    check_alias(alias)
    if require_version(write.connection, model, version).status == Status.DELETED:
        raise RegistryError(f"version {version} of model {model!r} is deleted", field="version")
    known = read_aliases(write.connection, model).get(alias)
    if known == version:
        return
    if known is None:
        write.insert(aliases, model=model, alias=alias, version=version)
    else:
        write.update(aliases, {"model": model, "alias": alias}, version=version)
    _remember(write, model, alias, version)


def remove_alias(write: Write, model: str, alias: str) -> None:
    """Removes an alias, or raises UnknownError."""
    if alias not in read_aliases(write.connection, model):
        raise UnknownError(f"model {model!r} has no alias {alias!r}", field="alias")
    write.delete(aliases, {"model": model, "alias": alias})
    _remember(write, model, alias, None)


def read_aliases(connection: Connection, model: str) -> Mapping[str, int]:
    """The version of each alias of a model."""
    rows = connection.execute(select(aliases).where(aliases.c.model == model).order_by(aliases.c.alias))
    return {row.alias: row.version for row in rows}


def aliases_at(connection: Connection, model: str, at: datetime) -> Mapping[str, int]:
    """The version that each alias of a model had at a time."""
    rows = connection.execute(
        select(alias_history)
        .where(alias_history.c.model == model, alias_history.c.at <= at)
        .order_by(alias_history.c.sequence)
    )
    found = {row.alias: row.version for row in rows}
    return {alias: version for alias, version in sorted(found.items()) if version is not None}


def _remember(write: Write, model: str, alias: str, version: int | None) -> None:
    write.insert(alias_history, model=model, alias=alias, sequence=write.sequence, version=version, at=write.at)
