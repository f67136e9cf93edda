"""A server of a PostgreSQL registry goes on while the database is stopped, and follows again once it is back."""

import contextlib
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url

from mlops.registry import Registry
from tests.e2e.conftest import Launcher
from tests.support.packages import build_constant
from tests.support.postgresql import cluster
from tests.support.registry import ANN, add, gates
from tickserve.client import Client

pytestmark = pytest.mark.integration


@pytest.fixture
def url() -> Iterator[str]:
    with cluster() as running, running.database() as made:
        yield made


@contextlib.contextmanager
def refusing(url: str) -> Iterator[None]:
    """Ends every connection to the database, and lets nobody in until the context is left."""
    made = make_url(url)
    name = str(made.database)
    with psycopg.connect(
        host=str(made.query["host"]), user="registry", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        yield
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())


def test_database_that_is_away_stops_neither_serving_nor_changes_after_it(launcher: Launcher, url: str) -> None:
    registry = Registry(
        url, str(launcher.home / "artifacts"), launcher.home / "cache", launcher.home / "keys", evaluate=gates("pass")
    )
    for value in (1.0, 2.0):
        add(registry, build_constant(launcher.home / "packages", value))
    registry.promote("demo", 1, ANN)
    options = ("--registry", url, "--artifacts", str(launcher.home / "artifacts"))
    with launcher.serve(*options) as running, Client(running.address, model="demo", timeout_s=60.0) as client:
        registry.close()
        with refusing(url):
            status = running.control.wait(lambda status: bool(status.source_error), 60)
            assert "the registry's database failed" in status.source_error
            assert client.predict([1.0, 2.0, 3.0]).version == "1"
            running.control.halt("demo", actor="kim", reason="test")
            running.control.resume("demo", actor="kim")
            assert client.predict([1.0, 2.0, 3.0]).version == "1"
        registry.promote("demo", 2, ANN)
        running.control.wait(lambda status: status.models[0].stable == "2", 60)
        assert client.predict([1.0, 2.0, 3.0]).version == "2"
        assert running.terminate() == 0
    registry.close()
