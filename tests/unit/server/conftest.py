"""An engine that serves on a free port, and models for it, for tests of what stands above it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engine.python import PythonEngine
from server.models import DirectorySource, LocalState, Operations, Reconciler
from tests.support.packages import add_constant


@pytest.fixture
def engine() -> Iterator[PythonEngine]:
    made = PythonEngine(
        ["127.0.0.1:0"], pool_threads=1, max_in_flight=8, max_in_flight_per_client=8, max_message_bytes=1 << 20
    )
    made.start()
    yield made
    made.stop(0.0)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory with three versions of the model `demo`, whose answers are their numbers."""
    folder = tmp_path / "models"
    folder.mkdir()
    for value in (1.0, 2.0, 3.0):
        add_constant(folder, value)
    return folder


@pytest.fixture
def reconciler(models: Path, engine: PythonEngine) -> Reconciler:
    """Over these models, before its first pass."""
    return Reconciler(DirectorySource(models), engine, LocalState(models.parent))


@pytest.fixture
def operations(reconciler: Reconciler) -> Operations:
    return Operations(reconciler)
