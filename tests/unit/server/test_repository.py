"""The repository calls: what they wait for, and what they say where waiting is of no use."""

import threading
from pathlib import Path

import pytest

from server.api.repository import RepositoryService
from server.engine.python import PythonEngine
from server.fleet import _why
from server.models import Operations, Reconciler
from server.models.values import only
from tests.support.packages import add_constant
from tests.support.reconciling import with_rows
from tests.support.waiting import until
from tickserve.errors import Code, ControlError
from tickserve.wire import grpc_service_pb2 as oip

LOAD = oip.RepositoryModelLoadRequest(model_name="demo")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for value in (1.0, 2.0):
        add_constant(folder, value)
    return folder


@pytest.fixture
def reconciler(models: Path, engine: PythonEngine, tmp_path: Path) -> Reconciler:
    made = with_rows(models, engine, tmp_path)
    made.reconcile()
    return made


@pytest.fixture
def operations(reconciler: Reconciler) -> Operations:
    return Operations(reconciler)


def test_load_of_a_model_that_is_held_says_so_at_once(
    reconciler: Reconciler, operations: Operations, models: Path
) -> None:
    operations.follow("demo", is_following=False, actor="kim", reason="freeze")
    add_constant(models, 3.0)
    reconciler.reconcile()
    with pytest.raises(ControlError, match="model 'demo': held by kim: freeze; `tickserve follow on demo`") as refused:
        RepositoryService(reconciler, operations).load(LOAD, "tool")
    assert refused.value.code is Code.FAILED_PRECONDITION


def test_version_that_was_taken_out_is_named_only_where_it_is_wanted(
    reconciler: Reconciler, operations: Operations, models: Path
) -> None:
    add_constant(models, 3.0)
    reconciler.reconcile()
    operations.trip("demo", "3", "9 of 10 answers were bad", halts=False)
    reconciler.reconcile()
    [record] = reconciler.snapshot().models
    assert _why(record, reconciler.snapshot()).startswith("version 3 was taken out by breaker")
    with pytest.raises(ControlError, match="version 3 was taken out by breaker"):
        RepositoryService(reconciler, operations).load(LOAD, "tool")
    add_constant(models, 4.0, feature_names=("rsi", "momentum", "volume"))
    reconciler.reconcile()
    [record] = reconciler.snapshot().models
    assert _why(record, reconciler.snapshot()).startswith("version 4 of model 'demo' has other feature names")


def test_few_loads_are_waited_for_at_once(reconciler: Reconciler, operations: Operations) -> None:
    # Nobody reads what is desired here, so all of them wait.
    operations.set_desired("demo", only("1"), None, 0, actor="kim", reason="compare")
    reconciler.refresh()
    reconciler._adopt()
    service = RepositoryService(reconciler, operations)

    def load() -> None:
        service.load(LOAD, "tool")

    waiting = [threading.Thread(target=load) for _ in range(4)]
    for thread in waiting:
        thread.start()
    until(lambda: service._waits._value == 0)
    with pytest.raises(ControlError, match="4 loads are waited for already; model 'demo' is being loaded"):
        service.load(LOAD, "tool")
    reconciler.converge()
    for thread in waiting:
        thread.join(60)
        assert not thread.is_alive()
    service.load(LOAD, "tool")
