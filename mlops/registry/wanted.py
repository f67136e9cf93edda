"""All that servers are meant to serve, as one moment of the registry, and whether a change of schema was named."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from mlops.registry.desired import as_desired, read_revision
from mlops.registry.schema import desired, desired_history, versions
from mlops.registry.trust import requires_signature
from mlops.registry.values import Desired, read_state


@dataclass(frozen=True, slots=True)
class Wanted:
    """The revision of all, each model's desired state, and the digest of every version that one names."""

    revision: int
    requires_signature: bool
    models: Mapping[str, Desired]
    digests: Mapping[str, Mapping[int, str]]


def read_wanted(connection: Connection) -> Wanted:
    """What is meant to be served now."""
    joined = desired.join(
        desired_history,
        (desired_history.c.model == desired.c.model) & (desired_history.c.revision == desired.c.revision),
    )
    rows = connection.execute(
        select(desired, desired_history.c.at, desired_history.c.actor, desired_history.c.reason).select_from(joined)
    ).all()
    models = {row.model: as_desired(row) for row in rows}
    digests: dict[str, dict[int, str]] = {}
    for name, found in models.items():
        numbers = sorted(found.state.versions())
        query = select(versions.c.version, versions.c.digest).where(
            versions.c.model == name, versions.c.version.in_(numbers)
        )
        digests[name] = {row.version: row.digest for row in connection.execute(query)}
    return Wanted(read_revision(connection), requires_signature(connection), models, digests)


def names_schema_since(connection: Connection, model: str, stable: int) -> bool:
    """Whether some version was named as schema override since this one was stable: a server may have missed that."""
    rows = connection.execute(
        select(desired_history.c.state)
        .where(desired_history.c.model == model)
        .order_by(desired_history.c.revision.desc())
    )
    for (stored,) in rows:
        state = read_state(stored)
        if state.named("stable") == stable:
            return False
        if state.schema_override:
            return True
    return False
