"""Changes of desired state, where the source that is to take them does not answer."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import pytest

from server.api.admin import AdminServer
from server.api.control import ControlService, ProcessFacts
from server.api.repository import RepositoryService
from server.engine.python import PythonEngine
from server.models import DesiredRows, DirectorySource, LocalState, Memory, Operations, Reconciler
from server.models.values import Target, only
from tests.support.waiting import BOUND_S, until
from tickserve.client import ControlClient
from tickserve.errors import Code, ControlError

WITHIN_S = 0.2


class Hanging(DirectorySource):
    """Answers nobody until the test says so."""

    answer: ClassVar[threading.Event]
    asked: ClassVar[list[object]]

    def write(self, *arguments: Any, **named: Any) -> int:
        self.asked.append(arguments)
        assert self.answer.wait(BOUND_S)
        return super().write(*arguments, **named)


@pytest.fixture
def source(models: Path, tmp_path: Path) -> Iterator[Hanging]:
    made = Hanging(models, rows=DesiredRows(tmp_path / "desired.json"))
    Hanging.answer, Hanging.asked = threading.Event(), []
    yield made
    made.answer.set()


@pytest.fixture
def reconciler(source: Hanging, engine: PythonEngine, tmp_path: Path) -> Reconciler:
    made = Reconciler(source, engine, LocalState(tmp_path))
    made.reconcile()
    return made


@pytest.fixture
def operations(reconciler: Reconciler) -> Operations:
    return Operations(reconciler, within_s=WITHIN_S)


def desire(operations: Operations, target: Target, expected_revision: int | None = None) -> int:
    return operations.set_desired("demo", target, None, expected_revision, actor="kim", reason="try it")


def told(reconciler: Reconciler) -> list[tuple[str, str]]:
    return [(event.kind, event.actor) for event in reconciler.events.after(0) if "desired" in event.kind]


def test_change_that_is_not_answered_says_that_it_may_be_written(
    source: Hanging, reconciler: Reconciler, operations: Operations
) -> None:
    with pytest.raises(ControlError, match=r"directory has not answered for 0\.2 s: .* may be written") as refused:
        desire(operations, only("2"))
    assert refused.value.code is Code.DEADLINE_EXCEEDED
    assert told(reconciler) == []
    with pytest.raises(ControlError, match=r"an earlier change waits; nothing was written") as refused:
        desire(operations, only("1"))
    assert refused.value.code is Code.UNAVAILABLE
    # Nothing else waits with it.
    assert operations.halt("demo", actor="kim", reason="stop") == ["demo"]
    assert operations.resume("demo", actor="kim", reason="") == ["demo"]
    operations.unload("demo", actor="kim")
    operations.load("demo", actor="kim")
    source.answer.set()
    until(lambda: told(reconciler) == [("desired", "kim")])
    reconciler.refresh()
    reconciler.converge()
    assert reconciler.snapshot().models[0].desired.revision == 1
    assert len(source.asked) == 1
    operations._desiring.within_s = BOUND_S
    assert desire(operations, only("3")) == 2


def test_change_that_is_refused_after_its_time_is_told(
    source: Hanging, reconciler: Reconciler, operations: Operations
) -> None:
    with pytest.raises(ControlError, match="may be written"):
        desire(operations, only("2"), expected_revision=7)
    source.answer.set()
    until(lambda: told(reconciler) == [("not_desired", "kim")])
    assert reconciler.events.after(0)[-1].message.startswith("the desired state of model 'demo' moved from revision 7")


def test_halt_goes_through_whatever_waits_for_desired_state(
    source: Hanging, reconciler: Reconciler, engine: PythonEngine, tmp_path: Path
) -> None:
    operations = Operations(reconciler, within_s=BOUND_S)
    facts = ProcessFacts("serving", (), "")
    control = ControlService(reconciler, operations, engine, Memory(), process=lambda: facts, drain=lambda: None)
    admin = AdminServer(f"unix:{tmp_path / 'admin.sock'}", control, RepositoryService(reconciler, operations))
    admin.start()
    refused: list[Future[str]] = [Future() for _ in range(16)]

    def ask(result: "Future[str]") -> None:
        with ControlClient(admin.address, timeout_s=2 * BOUND_S) as client:
            try:
                client.set_desired("demo", "2", actor="kim", reason="try it", expected_revision=0)
            except ControlError as error:
                result.set_result(error.code.name)
            else:
                result.set_result("written")

    threads = [threading.Thread(target=ask, args=(result,)) for result in refused]
    for thread in threads:
        thread.start()
    try:
        until(lambda: sum(result.done() for result in refused), lambda done: done == len(refused) - 4)
        with ControlClient(admin.address, timeout_s=BOUND_S) as client:
            assert client.halt("demo", actor="kim", reason="stop").models == ("demo",)
        assert not any(result.done() and result.result() == "written" for result in refused)
    finally:
        source.answer.set()
        for thread in threads:
            thread.join(BOUND_S)
        admin.stop()
    found = sorted(result.result(BOUND_S) for result in refused)
    assert found == ["ABORTED"] * 3 + ["UNAVAILABLE"] * 12 + ["written"]


def test_client_is_told_by_the_server_and_not_that_there_is_none(
    source: Hanging, reconciler: Reconciler, operations: Operations, engine: PythonEngine, tmp_path: Path
) -> None:
    facts = ProcessFacts("serving", (), "")
    control = ControlService(reconciler, operations, engine, Memory(), process=lambda: facts, drain=lambda: None)
    admin = AdminServer(f"unix:{tmp_path / 'admin.sock'}", control, RepositoryService(reconciler, operations))
    admin.start()
    try:
        with (
            ControlClient(admin.address, timeout_s=BOUND_S) as client,
            pytest.raises(ControlError, match="may be written") as refused,
        ):
            client.set_desired("demo", "2", actor="kim", reason="try it", expected_revision=0)
        assert refused.value.code is Code.DEADLINE_EXCEEDED
    finally:
        source.answer.set()
        admin.stop()
