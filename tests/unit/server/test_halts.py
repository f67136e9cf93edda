"""Halts at a server: obeyed at once whatever the disk does, kept over a restart, ended by whoever may."""

import json
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mlops.package import MODEL_FILE
from server.engine.python import PythonEngine
from server.models import (
    DirectorySource,
    EventLog,
    LocalState,
    Operations,
    Reconciler,
)
from server.models.values import only
from server.plan import Halt
from tests.support.packages import add_constant, flip_byte
from tests.support.reconciling import plan, served, with_rows
from tickserve.errors import ConfigurationError, ControlError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def test_halt_is_obeyed_and_survives_a_restart_until_resumed(
    reconciler: Reconciler, operations: Operations, models: Path, engine: PythonEngine
) -> None:
    add_constant(models, 1.0)
    reconciler.reconcile()
    assert operations.halt("demo", actor="kim", reason="bad fills") == ["demo"]
    halt = plan(reconciler).models["demo"].halt
    assert halt is not None
    assert (halt.actor, halt.reason) == ("kim", "bad fills")

    again = Reconciler(DirectorySource(models), engine, LocalState(models.parent))
    again.reconcile()
    assert plan(again).models["demo"].halt == halt
    add_constant(models, 2.0)
    again.reconcile()
    assert served(again) == ["2"]
    assert plan(again).models["demo"].halt == halt

    assert Operations(again).resume("demo", actor="kim", reason="") == ["demo"]
    assert plan(again).models["demo"].halt is None
    assert Operations(again).resume("demo", actor="kim", reason="") == []
    assert LocalState(models.parent).read_halts() == {}


def test_halt_of_all_and_of_an_unknown_model(reconciler: Reconciler, operations: Operations, models: Path) -> None:
    add_constant(models, 1.0, name="a")
    add_constant(models, 1.0, name="b")
    reconciler.reconcile()
    assert operations.halt("", actor="kim", reason="exchange down") == ["a", "b"]
    assert operations.resume("", actor="kim", reason="") == ["a", "b"]
    with pytest.raises(ControlError, match="unknown model 'c'; models here: a, b"):
        operations.halt("c", actor="kim", reason="typo")


def test_halt_can_be_lifted_while_the_models_folder_is_away(
    reconciler: Reconciler, operations: Operations, models: Path
) -> None:
    add_constant(models, 1.0)
    reconciler.reconcile()
    operations.halt("demo", actor="kim", reason="bad fills")
    (models / "demo").rename(models.parent / "away")
    reconciler.reconcile()
    assert operations.resume("demo", actor="kim", reason="") == ["demo"]
    (models.parent / "away").rename(models / "demo")
    reconciler.reconcile()
    assert plan(reconciler).models["demo"].halt is None


def test_halt_is_obeyed_even_where_it_cannot_be_written(
    reconciler: Reconciler, operations: Operations, models: Path, tmp_path: Path
) -> None:
    add_constant(models, 1.0)
    reconciler.reconcile()
    (tmp_path / "halts.json").mkdir()
    with capture_logs() as logs, pytest.raises(ControlError, match="it will not survive a restart"):
        operations.halt("demo", actor="kim", reason="now")
    assert plan(reconciler).models["demo"].halt is not None
    assert [entry["event"] for entry in logs] == ["decision_not_written", "halted"]
    assert list(tmp_path.glob("*.tmp")) == []
    (tmp_path / "halts.json").rmdir()
    with capture_logs() as logs:
        reconciler.reconcile()
        reconciler.reconcile()
    assert [entry["event"] for entry in logs] == ["decision_written"]
    assert list(LocalState(tmp_path).read_halts()) == ["demo"]


def test_halts_are_obeyed_while_the_disk_hangs(
    reconciler: Reconciler, operations: Operations, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        add_constant(models, 1.0, name=name)
    reconciler.reconcile()
    hanging, release, sync = threading.Event(), threading.Event(), os.fsync

    def hang(descriptor: int) -> None:
        hanging.set()
        release.wait(2 * 60)
        sync(descriptor)

    monkeypatch.setattr("server.models.files.os.fsync", hang)
    with ThreadPoolExecutor(2) as threads:
        try:
            asked = [threads.submit(operations.halt, "a", actor="kim", reason="now")]
            assert hanging.wait(60)
            asked.append(threads.submit(operations.halt, "b", actor="kim", reason="now"))
            end = time.monotonic() + 60
            while plan(reconciler).models["b"].halt is None:
                assert time.monotonic() < end, "not obeyed"
                threading.Event().wait(0.01)
            assert not any(each.done() for each in asked), "it is not written yet"
        finally:
            release.set()
        assert [each.result(60) for each in asked] == [["a"], ["b"]]
    assert list(LocalState(tmp_path).read_halts()) == ["a", "b"]


def test_versions_are_installed_and_halts_obeyed_while_no_event_can_be_written(
    models: Path, engine: PythonEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = tmp_path / "events.jsonl"
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(tmp_path), events=EventLog(audit))
    operations = Operations(reconciler)
    hanging, release = threading.Event(), threading.Event()

    def hang(*given: Any, **named: Any) -> Any:
        hanging.set()
        release.wait(2 * 60)
        return open(*given, **named)

    monkeypatch.setattr("server.models.events.open", hang, raising=False)
    add_constant(models, 1.0)
    with ThreadPoolExecutor(2) as threads:
        try:
            asked: list[Future[Any]] = [threads.submit(reconciler.reconcile)]
            assert hanging.wait(60)
            assert served(reconciler) == ["1"]
            asked.append(threads.submit(operations.halt, "demo", actor="kim", reason="now"))
            end = time.monotonic() + 60
            while plan(reconciler).models["demo"].halt is None:
                assert time.monotonic() < end, "not obeyed"
                threading.Event().wait(0.01)
            assert not any(each.done() for each in asked), "it is not written yet"
        finally:
            release.set()
        for each in asked:
            each.result(60)
    assert [json.loads(line)["kind"] for line in audit.read_text().splitlines()] == ["installed", "halted"]


def test_damaged_halt_file_keeps_the_server_from_starting(models: Path, engine: PythonEngine, tmp_path: Path) -> None:
    (tmp_path / "halts.json").write_text('{"demo": {"reason": "x"')
    with pytest.raises(ConfigurationError, match="is damaged; it says which models are halted"):
        Reconciler(DirectorySource(models), engine, LocalState(tmp_path))


def test_unload_leaves_the_halt_of_somebody_else_and_load_does_not_end_it(
    reconciler: Reconciler, operations: Operations, models: Path
) -> None:
    add_constant(models, 1.0)
    reconciler.reconcile()
    operations.halt("demo", actor="kim", reason="unloaded by hand, bad fills")
    operations.unload("demo", actor="tool")
    assert reconciler.halts["demo"].actor == "kim"
    with pytest.raises(ControlError, match="was halted by kim: unloaded by hand, bad fills; `tickserve resume demo`"):
        operations.load("demo", actor="tool")
    operations.resume("demo", actor="kim", reason="mended")
    operations.unload("demo", actor="tool")
    assert plan(reconciler).models["demo"].halt is not None
    operations.load("demo", actor="tool")
    assert plan(reconciler).models["demo"].halt is None


def test_load_ends_its_own_halt_of_a_model_that_is_not_loaded_yet(
    reconciler: Reconciler, operations: Operations, models: Path
) -> None:
    path = add_constant(models, 1.0)
    flip_byte(path / MODEL_FILE)
    reconciler.reconcile()
    operations.unload("demo", actor="tool")
    flip_byte(path / MODEL_FILE)
    operations.load("demo", actor="tool")
    reconciler.reconcile()
    assert plan(reconciler).models["demo"].halt is None


def test_load_says_where_desired_state_halts_the_model(models: Path, engine: PythonEngine, tmp_path: Path) -> None:
    add_constant(models, 1.0)
    reconciler = with_rows(models, engine, tmp_path)
    reconciler.reconcile()
    operations = Operations(reconciler)
    operations.set_desired("demo", only("1"), Halt("bad fills", "ann", 1), 0, actor="ann", reason="stop")
    reconciler.reconcile()
    operations.unload("demo", actor="tool")
    with pytest.raises(ControlError, match=r"is halted by desired state \(ann: bad fills\)"):
        operations.load("demo", actor="tool")
    assert reconciler.halts == {}
