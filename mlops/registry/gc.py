"""Garbage collection: files that no row names, and those of deleted versions that nobody needs any more."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, literal, select

from mlops.registry.desired import as_desired
from mlops.registry.journal import Write
from mlops.registry.schema import (
    alias_history,
    aliases,
    artifacts,
    attachments,
    desired,
    desired_history,
    package_files,
    server_events,
    versions,
)
from mlops.registry.servers import installed
from mlops.registry.store import ArtifactStore
from mlops.registry.values import Status, read_state

#: How long the files of a version that was in use are kept after it was deleted.
RETENTION = timedelta(days=365)
#: Younger files that no row names may belong to a registration under way.
GRACE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Garbage:
    """One file that may go, and why."""

    name: str
    size_bytes: int
    reason: str
    is_whole: bool
    is_registered: bool


def find_garbage(
    connection: Connection, store: ArtifactStore, now: datetime, retention: timedelta, grace: timedelta
) -> list[Garbage]:
    """What `collect` would remove."""
    needed = _needed(connection, now - retention)
    known = {row.sha256: row for row in connection.execute(select(artifacts))}
    garbage = []
    for file in store.list_files():
        row = known.get(file.name) if file.is_whole else None
        if row is None or row.collected_at is not None:
            if file.age_s >= grace.total_seconds():
                reason = "no row names it" if file.is_whole else "a write that never ended"
                garbage.append(Garbage(file.name, file.size_bytes, reason, file.is_whole, False))
        elif file.name not in needed:
            garbage.append(Garbage(file.name, file.size_bytes, "only of deleted versions", True, True))
    return garbage


def mark(write: Write, garbage: list[Garbage]) -> None:
    """Records of files that rows name that they are being collected: from here on nobody misses them."""
    for file in garbage:
        if file.is_registered:
            write.update(artifacts, {"sha256": file.name}, collected_at=write.at)


def sweep(connection: Connection, store: ArtifactStore, garbage: list[Garbage]) -> list[Garbage]:
    """Removes those files that still nothing names, as the one writer: no registration takes one up meanwhile.

    Whoever is killed before or within it leaves files that no row names, which the next collection finds.
    """
    alive = set(connection.execute(select(artifacts.c.sha256).where(artifacts.c.collected_at.is_(None))).scalars())
    removed = [file for file in garbage if not (file.is_whole and file.name in alive)]
    for file in removed:
        # Still the one writer: raises where the database has ended a transaction that it heard nothing of.
        connection.execute(select(literal(1)))
        store.delete(file.name, is_whole=file.is_whole)
    return removed


def _needed(connection: Connection, since: datetime) -> frozenset[str]:
    """The files of versions that are not deleted, or deleted and in use at any time since then."""
    kept = frozenset(_in_use(connection, since))
    alive: set[tuple[str, int]] = set()
    digests: set[str] = set()
    for row in connection.execute(select(versions)):
        key = (row.model, row.version)
        if row.status != Status.DELETED or key in kept:
            alive.add(key)
            digests.add(row.digest)
    needed = {row.sha256 for row in connection.execute(select(package_files)) if row.digest in digests}
    for row in connection.execute(select(attachments)):
        if (row.model, row.version) in alive:
            needed.add(row.sha256)
    return frozenset(needed)


def _in_use(connection: Connection, since: datetime) -> Iterator[tuple[str, int]]:
    for row in connection.execute(select(desired)):
        yield from ((row.model, version) for version in read_state(row.state).versions())
    for row in connection.execute(select(aliases)):
        yield row.model, row.version
    yield from _aliased(connection, since)
    for served in (*installed(connection), *installed(connection, at=since)):
        yield served.model, served.version
    for row in connection.execute(select(server_events).where(server_events.c.at >= since)):
        if row.version is not None:
            yield row.model, row.version
    yield from _desired(connection, since)


def _desired(connection: Connection, since: datetime) -> Iterator[tuple[str, int]]:
    # A state counts until the next one of its model, so the last one before `since` was still in force then.
    rows = connection.execute(
        select(desired_history).order_by(desired_history.c.model, desired_history.c.revision.desc())
    )
    ended: str | None = None
    for row in rows:
        if row.model == ended:
            continue
        yield from ((row.model, version) for version in as_desired(row).state.versions())
        if row.at < since:
            ended = row.model


def _aliased(connection: Connection, since: datetime) -> Iterator[tuple[str, int]]:
    # As above: the last setting before `since` was still in force then.
    rows = connection.execute(
        select(alias_history).order_by(alias_history.c.model, alias_history.c.alias, alias_history.c.sequence.desc())
    )
    ended: tuple[str, str] | None = None
    for row in rows:
        if (row.model, row.alias) == ended:
            continue
        if row.version is not None:
            yield row.model, row.version
        if row.at < since:
            ended = (row.model, row.alias)
