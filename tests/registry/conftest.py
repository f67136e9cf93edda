"""Every test here runs on each back end; those on PostgreSQL are integration tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.registry import Registry
from tests.support.postgresql import Cluster, cluster
from tests.support.registry import ANN, Backend, Clock, Packages, add
from tests.support.rollouts import World


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return Packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param == "sqlite":
        yield Backend(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path)
        return
    with request.getfixturevalue("postgresql").database() as url:
        yield Backend(url, tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(backend: Backend, clock: Clock) -> Iterator[Registry]:
    with backend.open(clock=clock) as opened:
        yield opened


@pytest.fixture
def world(registry: Registry, packages: Packages) -> World:
    """Three versions, of which the first is live, and windows that sidecars would write."""
    for value in (1.0, 2.0, 3.0):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    return World(registry)
