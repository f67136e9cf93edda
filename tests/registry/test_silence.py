"""A PostgreSQL that says nothing on a connection which is open, as where its process was stopped."""

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection

from mlops.registry import database
from mlops.registry.database import Database
from tests.support.postgresql import Cluster
from tests.support.waiting import BOUND_S
from tickserve.errors import UnreachableError

pytestmark = pytest.mark.integration


@pytest.fixture
def opened(postgresql: Cluster) -> Iterator[Database]:
    with postgresql.database() as url:
        found = Database(url)
        yield found
        found.close()


def backend(connection: Connection) -> int:
    """The process that answers on this connection."""
    return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def read_backend(opened: Database) -> int:
    with opened.read() as connection:
        return backend(connection)


@contextlib.contextmanager
def frozen(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def hurry(connection: Connection) -> float | None:
    """Bounds what is asked from here on by half a second, and gives the bound that it had."""
    raw: Any = connection.connection.driver_connection
    before, raw.silence_s = raw.silence_s, 0.5
    return before


def test_read_that_is_not_answered_ends_and_the_next_has_another_connection(opened: Database) -> None:
    seen = []

    def read() -> None:
        with opened.read() as connection:
            seen.append(backend(connection))
            with frozen(seen[0]):
                assert hurry(connection) == database.READ_SILENCE_S
                backend(connection)

    with ThreadPoolExecutor(1) as other:
        with pytest.raises(UnreachableError, match=r"it has not answered for 0\.5 s"):
            other.submit(read).result(BOUND_S)
        assert other.submit(read_backend, opened).result(BOUND_S) not in seen


def test_write_that_is_not_answered_ends(opened: Database) -> None:
    def change(connection: Connection) -> None:
        with frozen(backend(connection)):
            assert hurry(connection) == database.WRITE_SILENCE_S
            backend(connection)

    # Without the registry's tables: there is no row that writers take turns with.
    with opened.engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("CREATE TABLE audit_head (id INTEGER, sequence INTEGER)")
    with ThreadPoolExecutor(1) as other, pytest.raises(UnreachableError, match=r"it has not answered for 0\.5 s"):
        other.submit(opened.write, change).result(BOUND_S)


def test_connection_that_froze_in_the_pool_is_replaced(opened: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops.registry.silence._ALIVE_S", 0.5)
    before = read_backend(opened)
    with frozen(before), ThreadPoolExecutor(1) as other:
        assert other.submit(read_backend, opened).result(BOUND_S) != before


def test_long_statement_outside_of_reads_and_writes_is_waited_for(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.registry.silence._ALIVE_S", 0.5)
    read_backend(opened)
    # As a migration of a large table.
    with opened.engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(1)")
