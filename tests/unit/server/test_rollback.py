"""Going back at a server: at once, whatever the source of desired state says or does not say."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlops.routing import MAX_HASH
from server.engine.python import PythonEngine
from server.models import (
    DesiredRows,
    DirectorySource,
    LocalState,
    Operations,
    Reconciler,
)
from server.models.values import RuleChange, Target, only
from server.plan import Halt
from tests.support.packages import add_constant
from tests.support.reconciling import no_room, segments, shares, stable, with_rows
from tests.support.waiting import BOUND_S, until
from tickserve.errors import Code, ControlError


def test_what_a_rollback_took_out_comes_back_with_the_next_write(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    reconciler = with_rows(models, engine, tmp_path)
    operations = Operations(reconciler)
    reconciler.reconcile()

    def desire(version: str) -> str:
        operations.set_desired("demo", only(version), None, None, actor="kim", reason="try it")
        reconciler.reconcile()
        return stable(reconciler)

    assert desire("2") == "2"
    assert operations.rollback("demo", actor="kim", reason="bad fills").version == "3"
    reconciler.reconcile()
    assert stable(reconciler) == "3"
    assert desire("2") == "2"


def test_going_back_at_once_leaves_the_segments_of_the_split_behind(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    reconciler = with_rows(models, engine, tmp_path)
    operations = Operations(reconciler, reconciler.reconcile)
    reconciler.reconcile()
    for wanted in (only("1").shares, shares("2", 6_000, "1"), shares("3", 3_000, "2")):
        operations.set_desired("demo", Target(wanted), None, None, actor="kim", reason="try")
    operations.rollback("demo", actor="kim", reason="bad fills")
    assert segments(reconciler) == [("1", MAX_HASH)]
    reconciler.reconcile()
    assert segments(reconciler) == [("1", MAX_HASH)]


def trying(source: DirectorySource, engine: PythonEngine, folder: Path) -> tuple[Reconciler, Operations]:
    """A server that was told to try version 2, and keeps 3 warm."""
    reconciler = Reconciler(source, engine, LocalState(folder))
    reconciler.reconcile()
    operations = Operations(reconciler)
    operations.set_desired("demo", only("2"), None, 0, actor="kim", reason="try it")
    reconciler.reconcile()
    assert stable(reconciler) == "2"
    return reconciler, operations


class Interrupted(DirectorySource):
    """Somebody else writes in between."""

    others: ClassVar[list[Callable[[], object]]] = []

    def write(self, *arguments: Any, **named: Any) -> int:
        while self.others:
            self.others.pop()()
        return super().write(*arguments, **named)


@pytest.mark.parametrize("wanted", ["2", "1"])
def test_rollback_writes_over_nothing_that_it_has_not_read(
    models: Path, engine: PythonEngine, tmp_path: Path, wanted: str
) -> None:
    source = Interrupted(models, rows=DesiredRows(tmp_path / "desired.json"))
    reconciler, operations = trying(source, engine, tmp_path)
    stop = threading.Event()
    reading = threading.Thread(target=lambda: [reconciler.reconcile() for _ in iter(lambda: stop.wait(0.01), True)])

    def halt() -> None:
        DirectorySource.write(source, "demo", only(wanted), Halt("bad", "ann", 1), 1, actor="ann", reason="stop")
        reading.start()

    Interrupted.others.append(halt)
    try:
        assert operations.rollback("demo", actor="kim", reason="bad fills").version == "3"
    finally:
        stop.set()
        reading.join()
    reconciler.reconcile()
    [record] = reconciler.snapshot().models
    assert record.plan is not None
    assert record.plan.halt == Halt("bad", "ann", 1)
    # Where it is no longer desired anyway, what is desired by now stands.
    assert record.desired.wanted == ("3" if wanted == "2" else "1")
    refused = [event.message for event in reconciler.events.after(0) if event.kind == "rollback_not_desired"]
    assert refused == ([] if wanted == "2" else ["version 1 of model 'demo' is desired by now (revision 2)"])


def test_rollback_of_a_model_that_goes_meanwhile_is_done_and_says_so(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    add_constant(models, 1.0, name="other")
    source = Interrupted(models, rows=DesiredRows(tmp_path / "desired.json"))
    reconciler, operations = trying(source, engine, tmp_path)

    def go() -> None:
        shutil.rmtree(models / "demo")
        reconciler.reconcile()
        raise ControlError("the revision is another one by now", code=Code.ABORTED)

    Interrupted.others.append(go)
    assert operations.rollback("demo", actor="kim", reason="bad fills").not_desired == "model 'demo' is gone"


def test_rollback_that_nothing_could_be_told_of_says_so(
    models: Path, engine: PythonEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DirectorySource(models, rows=DesiredRows(tmp_path / "desired.json"))
    reconciler, operations = trying(source, engine, tmp_path)
    monkeypatch.setattr("server.models.files.os.fsync", no_room)
    with pytest.raises(ControlError, match=r"a restart before the disk takes it \(No space"):
        operations.rollback("demo", actor="kim", reason="bad fills")
    assert stable(reconciler) == "3"
    operations.trip("demo", "3", "9 of 10 answers were bad", halts=True)


def test_rollback_does_not_wait_for_a_source_that_does_not_answer(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    source = Interrupted(models, rows=DesiredRows(tmp_path / "desired.json"))
    reconciler, _ = trying(source, engine, tmp_path)
    answer = threading.Event()
    Interrupted.others.append(lambda: answer.wait(BOUND_S))
    operations = Operations(reconciler, within_s=0.05)
    done = operations.rollback("demo", actor="kim", reason="bad fills")
    assert (done.version, done.not_desired) == (
        "3",
        "the directory has not answered for 0.05 s; it is told once it does",
    )
    assert stable(reconciler) == "3"
    [event] = [event for event in reconciler.events.after(0) if event.kind == "rollback_not_desired"]
    assert event.message == "the directory has not answered for 0.05 s; it is told once it does"
    assert reconciler.snapshot().overrides.refused["demo"]["2"].until_revision == 0
    answer.set()
    until(lambda: reconciler.snapshot().overrides.refused["demo"]["2"].until_revision == 2)
    reconciler.reconcile()
    assert reconciler.snapshot().models[0].desired.reason == "rolled back from version 2: bad fills"


def test_version_that_is_gone_back_to_answers_by_the_rules_that_it_was_loaded_with(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    reconciler = with_rows(models, engine, tmp_path)
    reconciler.reconcile()
    operations = Operations(reconciler)
    rules = (RuleChange("finite", "flag"),)
    operations.set_desired("demo", replace(only("2"), rules=rules), None, 0, actor="kim", reason="only say so")
    reconciler.reconcile()
    assert operations.rollback("demo", actor="kim", reason="bad fills").version == "3"
    [record] = reconciler.snapshot().models
    assert record.target is not None
    assert record.target.rules == record.loaded["3"].rules == ()
    # Desired state keeps its rules, so it is loaded again for them.
    reconciler.reconcile()
    [record] = reconciler.snapshot().models
    assert record.target is not None
    assert record.target.rules == record.loaded["3"].rules == rules
