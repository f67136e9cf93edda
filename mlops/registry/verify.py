"""Proof that the registry is what it was made: the audit chain, every row of every table, every stored file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785
from sqlalchemy import Connection, Table, Text, select, text, type_coerce
from sqlalchemy.exc import DBAPIError

from mlops.package._text import one_line
from mlops.registry.journal import GENESIS, row_hash
from mlops.registry.migrate import HEAD, migrated_schema, read_schema
from mlops.registry.schema import (
    CanonicalJson,
    audit,
    audit_head,
    leases,
    load_json,
    metadata,
    reporters,
    revision,
    rollout_progress,
    server_status,
    window_counts,
    window_outputs,
)
from mlops.registry.store import ArtifactStore
from tickserve.errors import TickserveError

#: Values of a primary key, in the order of its columns.
_Key = tuple[Any, ...]
#: Rows by table, then by primary key.
_Tables = dict[str, dict[_Key, dict[str, Any]]]
#: The log itself, and what is outside of it.
NOT_REPLAYED = frozenset(
    {
        audit.name,
        server_status.name,
        window_counts.name,
        window_outputs.name,
        reporters.name,
        rollout_progress.name,
        leases.name,
    }
)
#: Missing rows that are named one by one.
_MOST_MISSING = 10
_GENESIS_TIME = "1970-01-01T00:00:00.000000Z"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was written: where, and what."""

    place: str
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found, and the end of the chain: kept elsewhere, it shows a history that was written anew."""

    findings: tuple[Finding, ...]
    changes: int
    rows: int
    files: int
    head: str


def verify(connection: Connection, store: ArtifactStore, expected_head: str | None = None) -> Verification:
    """Walks the chain, replays it, compares every table with the replay, and reads every stored file.

    Parameters
    ----------
    expected_head : str, optional
        The hash that an earlier verification ended with: it must still be in the chain. Whoever can write the whole
        database can write a whole new history; only a hash kept elsewhere shows that.
    """
    findings: list[Finding] = []
    replayed: _Tables = {name: {} for name in metadata.tables if name not in NOT_REPLAYED}
    _apply(replayed, {"op": "insert", "table": revision.name, "row": {"id": 1, "revision": 0}})
    chain = _Chain()
    try:
        for row in connection.execute(_raw(audit).order_by(audit.c.sequence)).mappings():
            findings.extend(chain.follow(dict(row), replayed))
    except (DBAPIError, ValueError, TypeError) as error:
        findings.append(Finding("audit", f"cannot be read: {_reason(error)}"))
    if expected_head is not None and expected_head not in chain.hashes | {GENESIS}:
        findings.append(Finding("audit", f"no row has the hash {expected_head}, which an earlier verification saw"))
    findings.extend(_end(connection, chain))
    end = {"id": 1, "sequence": chain.sequence, "at": chain.at, "hash": chain.hash}
    _apply(replayed, {"op": "insert", "table": audit_head.name, "row": end})
    rows = 0
    for table in metadata.sorted_tables:
        if table.name not in NOT_REPLAYED:
            rows += len(replayed[table.name])
            findings.extend(_compare(connection, table, replayed[table.name]))
    findings.extend(_schema(connection))
    files = {key: row for key, row in replayed["artifacts"].items() if row["collected_at"] is None}
    findings.extend(_files(store, files))
    return Verification(tuple(findings), chain.count, rows, len(files), chain.hash)


class _Chain:
    """The audit log up to some row."""

    def __init__(self) -> None:
        self.sequence, self.at, self.hash, self.count = 0, _GENESIS_TIME, GENESIS, 0
        self.hashes: set[str] = set()

    def follow(self, row: Mapping[str, Any], replayed: _Tables) -> Iterator[Finding]:
        """Takes the next row, and replays it."""
        sequence = row["sequence"]
        place = f"audit row {sequence}"
        for missing in range(self.sequence + 1, min(sequence, self.sequence + 1 + _MOST_MISSING)):
            yield Finding(f"audit row {missing}", "is missing")
        if _hash(row) != row["hash"]:
            yield Finding(place, f"was edited: its hash does not fit what it says ({row['action']})")
        if row["previous"] != self.hash and sequence == self.sequence + 1:
            yield Finding(place, f"does not follow the row before: that has the hash {self.hash}")
        if str(row["at"]) < self.at:
            yield Finding(place, f"has the time {row['at']}, the row before {self.at}")
        try:
            for written in load_json(row["body"])["writes"]:
                _apply(replayed, written)
        except (ValueError, KeyError, TypeError) as error:
            yield Finding(place, f"cannot be replayed: {_reason(error)}")
        self.sequence, self.at, self.hash = sequence, str(row["at"]), str(row["hash"])
        self.hashes.add(self.hash)
        self.count += 1


def _apply(tables: _Tables, written: Mapping[str, Any]) -> None:
    rows = tables[written["table"]]
    if written["op"] == "insert":
        rows[_key(metadata.tables[written["table"]], written["row"])] = dict(written["row"])
        return
    key = _key(metadata.tables[written["table"]], written["key"])
    if written["op"] == "delete":
        del rows[key]
    else:
        rows[key].update(written["set"])


def _compare(connection: Connection, table: Table, expected: Mapping[_Key, Mapping[str, Any]]) -> Iterator[Finding]:
    """Each row that is in the table or in the replay and not equally in both."""
    left = dict(expected)
    try:
        for row in connection.execute(_raw(table)).mappings():
            key = _key(table, dict(row))
            place = _place(table, key)
            wanted = left.pop(key, None)
            if wanted is None:
                yield Finding(place, "was not written by the registry: the audit log has no such row")
                continue
            for column in table.columns:
                stored, logged = row[column.name], _stored(column.type, wanted[column.name])
                if stored != logged:
                    yield Finding(place, f"column {column.name} is {_show(stored)}, the audit log says {_show(logged)}")
    except (DBAPIError, ValueError, TypeError) as error:
        yield Finding(table.name, f"cannot be read: {_reason(error)}")
        return
    for key in left:
        yield Finding(_place(table, key), "is missing: the audit log has such a row")


def _end(connection: Connection, chain: _Chain) -> Iterator[Finding]:
    """What the log lacks at its end, or has behind it, by the row that says where it ends."""
    head = connection.execute(_raw(audit_head).where(audit_head.c.id == 1)).mappings().one_or_none()
    if head is None or not isinstance(head["sequence"], int):
        return
    for missing in range(chain.sequence + 1, min(head["sequence"], chain.sequence + _MOST_MISSING) + 1):
        yield Finding(f"audit row {missing}", "is missing")
    for added in range(max(head["sequence"], chain.sequence - _MOST_MISSING) + 1, chain.sequence + 1):
        yield Finding(f"audit row {added}", "lies behind the end of the chain")


def _schema(connection: Connection) -> Iterator[Finding]:
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    if list(found) != [HEAD]:
        yield Finding("alembic_version", f"is {', '.join(found) or 'empty'}, expected {HEAD}")
    if connection.dialect.name == "sqlite":
        for (line,) in connection.execute(text("PRAGMA integrity_check")):
            if line != "ok":
                yield Finding("database file", one_line(line))
        there, wanted = read_schema(connection), migrated_schema()
        for name in sorted(there.keys() | wanted.keys()):
            if name not in there:
                yield Finding(f"schema {name}", "is missing")
            elif there[name] != wanted.get(name):
                yield Finding(f"schema {name}", "was changed" if name in wanted else "was added")


def _files(store: ArtifactStore, expected: Mapping[_Key, Mapping[str, Any]]) -> Iterator[Finding]:
    for row in expected.values():
        try:
            store.get(row["sha256"], row["size_bytes"])
        except TickserveError as error:
            yield Finding(f"artifact {row['sha256']}", error.message)


def _raw(table: Table) -> Any:
    """A table's rows as they are stored, so that no edit is lost, or fails, in reading."""
    return select(*(_raw_column(column) for column in table.columns))


def _raw_column(column: Any) -> Any:
    if column.type.python_type in (int, float):
        return column
    # No cast: it would make text of bytes, which SQLite keeps in any column and finds equal to no text.
    return type_coerce(column, Text).label(column.name)


def _stored(kind: Any, value: Any) -> Any:
    """What a table holds for a value of the audit log."""
    return rfc8785.dumps(value).decode() if isinstance(kind, CanonicalJson) and value is not None else value


def _key(table: Table, row: Mapping[str, Any]) -> _Key:
    return tuple(row[column.name] for column in table.primary_key)


def _place(table: Table, key: _Key) -> str:
    names = (column.name for column in table.primary_key)
    return f"{table.name} {', '.join(f'{name}={value}' for name, value in zip(names, key, strict=True))}"


def _hash(row: Mapping[str, Any]) -> str | None:
    try:
        return row_hash(row)
    except (rfc8785.CanonicalizationError, TypeError, UnicodeError):
        return None


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 120 else shown[:117] + "..."


def _reason(error: Exception) -> str:
    return one_line(str(getattr(error, "orig", None) or error))
