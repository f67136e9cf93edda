"""Connections to the registry's database: consistent reads, one writer at a time, retries of what may be repeated."""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    MultipleResultsFound,
    NoResultFound,
    NoSuchModuleError,
    OperationalError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from mlops.package._text import one_line
from mlops.registry.schema import audit_head
from tickserve.errors import ConfigurationError, RegistryArgumentError, RegistryError, TickserveError, UnreachableError

if TYPE_CHECKING:
    from mlops.registry.silence import AnsweringConnection

_Result = TypeVar("_Result")

#: How long one writer waits for the others, and one reader of a file for those of its own process.
BUSY_TIMEOUT_S = 60.0
#: How long a PostgreSQL may say nothing while it is read, and while others may be writing.
READ_SILENCE_S = 30.0
WRITE_SILENCE_S = BUSY_TIMEOUT_S + READ_SILENCE_S
#: How long a PostgreSQL may take to let somebody in, unless its URL or PGCONNECT_TIMEOUT says otherwise; the driver's
#: own bound is 130 s.
CONNECT_TIMEOUT_S = 10
_ATTEMPTS = 5
_PAUSE_S = 0.05
#: PostgreSQL rolled the transaction back and asks to repeat it: serialisation failure, deadlock.
_REPEATABLE = ("40001", "40P01")


class Database:
    """One database of one registry.

    A file of SQLite has one connection that reads and one that writes, whatever threads there are: they take turns, so
    that what a process keeps open never grows, and a reader never waits behind a writer that waits for other processes.

    Parameters
    ----------
    url : str
        As SQLAlchemy reads it: `sqlite:////absolute/path.db` or `postgresql+psycopg://user@host/name`.

    Raises
    ------
    ConfigurationError
        Where the URL is malformed, or of another kind of database.
    """

    def __init__(self, url: str) -> None:
        self._engine = _make_engine(url)
        self._reading = _make_engine(url) if self.is_sqlite else self._engine
        self._held = threading.local()

    @property
    def engine(self) -> Engine:
        """The one that writes; for migrations."""
        return self._engine

    @property
    def is_sqlite(self) -> bool:
        """Whether this is a file of SQLite."""
        return self._engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only view of one moment. Within another one, or within a write, of the same thread: that one's."""
        outer: Connection | None = getattr(self._held, "connection", None)
        if outer is not None:
            # Its thread would wait for itself.
            with _explained():
                yield outer
            return
        with _explained(), self._reading.connect() as plain:
            connection = plain
            if not self.is_sqlite:
                _limit_wait(plain, READ_SILENCE_S)
                connection = plain.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            # SQLite's deferred transaction fixes its moment at the first statement.
            with connection.begin(), self._holding(connection):
                yield connection

    def write(self, change: Callable[[Connection], _Result]) -> _Result:
        """Runs `change` as the one writer and commits what it wrote, all or nothing.

        It runs again where the database rolled it back for the sake of another, so it must have no other effects.
        Not to be called within a read or a write of the same thread.

        Raises
        ------
        UnreachableError
            Where the database does not answer, or others keep it longer than `BUSY_TIMEOUT_S`.
        """
        if getattr(self._held, "connection", None) is not None:
            raise AssertionError("a write within a read or a write: it would not belong to the same moment")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with _explained(), self._engine.connect() as plain:
                    if not self.is_sqlite:
                        _limit_wait(plain, WRITE_SILENCE_S)
                    connection = plain.execution_options(tickserve_begin="IMMEDIATE")
                    with connection.begin(), self._holding(connection):
                        if not self.is_sqlite:
                            # Locks the row until the commit: what is read below it is the latest.
                            connection.execute(select(audit_head.c.sequence).with_for_update())
                            limit_silence(connection, BUSY_TIMEOUT_S)
                        return change(connection)
            except _RolledBackError:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE_S * attempt)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()
        self._reading.dispose()

    @contextlib.contextmanager
    def _holding(self, connection: Connection) -> Iterator[None]:
        self._held.connection = connection
        try:
            yield
        finally:
            self._held.connection = None


def limit_silence(connection: Connection, limit_s: float) -> None:
    """Has PostgreSQL undo this transaction where nothing more comes of it for so long.

    A process that was stopped in the midst of one would keep all others from writing for as long as it is stopped. A
    file of SQLite has no such remedy: there they give up after `BUSY_TIMEOUT_S`.
    """
    if connection.dialect.name == "postgresql":
        limit = f"{max(1, round(limit_s * 1000))}ms"
        connection.execute(select(func.set_config("idle_in_transaction_session_timeout", limit, True)))


def _limit_wait(connection: Connection, silence_s: float) -> None:
    cast("AnsweringConnection", connection.connection.driver_connection).silence_s = silence_s


class _RolledBackError(UnreachableError):
    """The database undid the transaction for the sake of another one."""


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns failures of the database itself into UnreachableError, and rows that cannot be into RegistryError."""
    try:
        yield
    except (NoResultFound, MultipleResultsFound, ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RegistryError(
            f"the registry is damaged ({one_line(str(error))}); `tickserve models verify` names every row that "
            "is not as it was written",
            field="registry",
        ) from error
    except OperationalError as error:
        message = f"the registry's database failed: {one_line(str(error.orig))}"
        if getattr(error.orig, "sqlstate", None) in _REPEATABLE:
            raise _RolledBackError(message) from error
        raise UnreachableError(message) from error
    except PoolTimeoutError as error:
        raise UnreachableError(
            f"other threads of this process kept the registry's database for more than {BUSY_TIMEOUT_S:g} s"
        ) from error
    except StatementError as error:
        # A value was refused before it got to the database: what was asked for is wrong, not the database.
        if isinstance(error.orig, TickserveError):
            raise error.orig from None
        if not isinstance(error, DBAPIError):
            raise RegistryArgumentError(f"the registry cannot look for that: {one_line(str(error.orig))}") from None
        raise UnreachableError(f"the registry's database failed: {one_line(str(error.orig))}") from error


def sqlite_file(url: str) -> Path | None:
    """The file that a URL of SQLite names; None for any other URL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return None
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _make_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            if "connect_timeout" not in parsed.query and "PGCONNECT_TIMEOUT" not in os.environ:
                parsed = parsed.update_query_dict({"connect_timeout": str(CONNECT_TIMEOUT_S)})
            from mlops.registry.silence import answer_or_end

            engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_timeout=BUSY_TIMEOUT_S
            )
            answer_or_end(engine)
            return engine
        if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise ConfigurationError(
                f"registry {parsed.render_as_string()} is no file of SQLite and no PostgreSQL; "
                "give sqlite:////path/to/registry.db or postgresql://user@host/name",
                field="registry",
            )
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigurationError(f"registry: {one_line(str(error))}", field="registry") from None
    try:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"registry: cannot make its folder: {error.strerror}", field="registry") from None
    # Each connection holds descriptors and a cache of its own, and SQLite keeps the descriptor of a closed one for as
    # long as another is open: so there is one for all threads, and none comes or goes.
    engine = create_engine(
        parsed,
        connect_args={"timeout": BUSY_TIMEOUT_S},
        pool_size=1,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT_S,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transactions begin too late to hold a lock from the first read on.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_write_ahead_log(cursor)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Processes that make a file at once: SQLite refuses all but one of them there, and waits for nobody."""
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("tickserve_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")
