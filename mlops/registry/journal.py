"""The one way to write: rows go into their tables and, in the same transaction, into the chained audit log.

An audit row's body names every row written, so that replaying the log gives the tables. Its hash covers all its columns
and the hash of the row before. The end of the chain is a row of its own, so that a log cut short shows too.
"""

import getpass
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import rfc8785
from sqlalchemy import Connection, Table, and_, delete, insert, select, update

from mlops.registry.columns import check_row, check_text
from mlops.registry.database import Database
from mlops.registry.schema import audit, audit_head, time_text
from tickserve.errors import RegistryArgumentError

#: The hash before the first row.
GENESIS = "0" * 64

_Result = TypeVar("_Result")
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes something, and why."""

    actor: str
    reason: str = ""

    def __post_init__(self) -> None:
        if not self.actor:
            raise RegistryArgumentError("every change needs an actor", field="actor")
        for name, text in (("actor", self.actor), ("reason", self.reason)):
            check_text(name, text)


def require_reason(author: Author) -> None:
    """Raises RegistryArgumentError where a change that has to be answered for comes without a reason."""
    if not author.reason.strip():
        raise RegistryArgumentError("say why: this change needs a reason, which is kept for ever", field="reason")


def default_actor() -> str:
    """The login name of whoever runs this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise RegistryArgumentError("this user has no login name; say who asks", field="actor") from None


@dataclass
class Write:
    """One change under way: rows written through it are in its audit row.

    `sequence` and `at` are those of that row. `at` never lies before that of the row before, whatever the clock does,
    so that the order of the log is the order of time.
    """

    connection: Connection
    sequence: int
    at: datetime
    author: Author
    _writes: list[dict[str, Any]] = field(default_factory=list)

    def insert(self, table: Table, **row: Any) -> None:
        """Inserts one row; columns that are left out are null."""
        full = {column.name: row.pop(column.name, None) for column in table.columns}
        if row:
            raise TypeError(f"table {table.name} has no {', '.join(row)}")
        check_row(table, full)
        self.connection.execute(insert(table).values(full))
        self._writes.append({"op": "insert", "table": table.name, "row": plain(full)})

    def update(self, table: Table, key: Mapping[str, Any], **changes: Any) -> None:
        """Changes columns of the one row of this primary key."""
        check_row(table, changes)
        done = self.connection.execute(update(table).where(_is(table, key)).values(changes))
        if done.rowcount != 1:
            raise AssertionError(f"{table.name} {dict(key)}: {done.rowcount} rows updated")
        self._writes.append({"op": "update", "table": table.name, "key": plain(key), "set": plain(changes)})

    def delete(self, table: Table, key: Mapping[str, Any]) -> None:
        """Deletes the one row of this primary key."""
        done = self.connection.execute(delete(table).where(_is(table, key)))
        if done.rowcount != 1:
            raise AssertionError(f"{table.name} {dict(key)}: {done.rowcount} rows deleted")
        self._writes.append({"op": "delete", "table": table.name, "key": plain(key)})

    @property
    def has_written(self) -> bool:
        """Whether there is anything to log."""
        return bool(self._writes)

    def body(self) -> str:
        """What was written so far, as canonical JSON."""
        return rfc8785.dumps({"writes": self._writes}).decode()


@dataclass(frozen=True)
class Journal:
    """Changes of one registry.

    Parameters
    ----------
    database : Database
        Where the tables are.
    clock : callable
        The time; replaced in tests.
    """

    database: Database
    clock: Clock = utc_now

    def write(
        self,
        action: str | Callable[[_Result], str],
        author: Author,
        change: Callable[[Write], _Result],
        *,
        model: str | None = None,
        version: int | Callable[[_Result], int | None] | None = None,
    ) -> _Result:
        """Runs `change` as the one writer and logs what it wrote; where it wrote nothing, nothing is logged.

        `action` and `version` may be taken from the result, where the change decides on them.
        """

        def run(connection: Connection) -> _Result:
            head = connection.execute(select(audit_head)).one()
            write = Write(connection, head.sequence + 1, max(self.clock(), head.at), author)
            result = change(write)
            if write.has_written:
                name = action(result) if callable(action) else action
                number = version(result) if callable(version) else version
                row = chain_row(head.hash, write.sequence, write.at, author, name, model, number, write.body())
                connection.execute(insert(audit).values(row))
                end = {"sequence": write.sequence, "at": write.at, "hash": row["hash"]}
                connection.execute(update(audit_head).values(end))
            return result

        return self.database.write(run)


def chain_row(
    previous: str,
    sequence: int,
    at: datetime,
    author: Author,
    action: str,
    model: str | None,
    version: int | None,
    body: str,
) -> dict[str, Any]:
    """The audit row that follows the row of hash `previous`."""
    row: dict[str, Any] = {
        "sequence": sequence,
        "at": at,
        "actor": author.actor,
        "reason": author.reason,
        "action": action,
        "model": model,
        "version": version,
        "body": body,
        "previous": previous,
    }
    return row | {"hash": row_hash(row)}


def row_hash(row: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of an audit row's canonical JSON without its own hash."""
    return hashlib.sha256(rfc8785.dumps(plain({name: row[name] for name in row if name != "hash"}))).hexdigest()


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON has it."""
    return {name: time_text(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _is(table: Table, key: Mapping[str, Any]) -> Any:
    return and_(*(table.c[name] == value for name, value in key.items()))
