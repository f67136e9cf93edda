"""The reconciler: what the directory holds is served; whatever goes wrong leaves what was served."""

import json
import os
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mlops.package import MANIFEST_FILE, MODEL_FILE
from server.engine import Prepared
from server.engine.python import PythonEngine
from server.models import (
    DesiredRows,
    DirectorySource,
    EventLog,
    LocalState,
    ModelRecord,
    Operations,
    Reconciler,
    Settling,
)
from server.models.values import only
from server.plan import Halt, Plan, VersionPlan
from tests.support.models import echo_model, huge_model
from tests.support.packages import add_constant, build_constant, flip_byte
from tickserve.errors import Code, ConfigurationError, ControlError, DamagedPackageError, PackageError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def reconciler(models: Path, engine: PythonEngine) -> Reconciler:
    return Reconciler(DirectorySource(models), engine, LocalState(models.parent))


@pytest.fixture
def operations(reconciler: Reconciler) -> Operations:
    return Operations(reconciler)


def plan(reconciler: Reconciler) -> Plan:
    return reconciler.snapshot().plan


def record(reconciler: Reconciler, name: str = "demo") -> ModelRecord:
    return next(item for item in reconciler.snapshot().models if item.name == name)


def served(reconciler: Reconciler, name: str = "demo") -> list[str]:
    return [segment.version for segment in plan(reconciler).models[name].split.segments]


def test_highest_version_is_served_and_a_higher_one_replaces_it(reconciler: Reconciler, models: Path) -> None:
    add_constant(models, 1.0)
    add_constant(models, 2.0)
    reconciler.reconcile()
    assert served(reconciler) == ["2"]
    assert record(reconciler).prepared["2"].golden_max_error == 0.0
    add_constant(models, 3.0)
    reconciler.reconcile()
    assert served(reconciler) == ["3"]


def test_nothing_changes_while_the_directory_does_not(reconciler: Reconciler, models: Path) -> None:
    add_constant(models, 1.0)
    reconciler.reconcile()
    generation = plan(reconciler).generation
    reconciler.reconcile()
    assert plan(reconciler).generation == generation


@pytest.mark.parametrize("file", [MODEL_FILE, MANIFEST_FILE, "golden.npz", "baseline.json"])
def test_damaged_version_is_refused_and_the_old_one_stays(reconciler: Reconciler, models: Path, file: str) -> None:
    add_constant(models, 1.0)
    reconciler.reconcile()
    flip_byte(add_constant(models, 2.0) / file)
    reconciler.reconcile()
    assert served(reconciler) == ["1"]
    failed = record(reconciler).failed["2"]
    assert failed.error.code in (Code.DATA_LOSS, Code.FAILED_PRECONDITION)
    assert file in failed.error.message


def test_failed_version_is_tried_again_only_when_it_changed(reconciler: Reconciler, models: Path) -> None:
    add_constant(models, 1.0)
    reconciler.reconcile()
    path = add_constant(models, 2.0)
    good = (path / MODEL_FILE).read_bytes()
    flip_byte(path / MODEL_FILE)
    reconciler.reconcile()
    reconciler.reconcile()
    assert record(reconciler).failed["2"].attempts == 1
    (path / MODEL_FILE).write_bytes(good)
    reconciler.reconcile()
    assert served(reconciler) == ["2"]
    assert record(reconciler).failed == {}


def test_failed_version_that_is_removed_is_forgotten(reconciler: Reconciler, models: Path) -> None:
    add_constant(models, 1.0)
    path = add_constant(models, 2.0)
    flip_byte(path / MODEL_FILE)
    reconciler.reconcile()
    assert served(reconciler) == ["1"]
    assert "2" in record(reconciler).failed
    shutil.rmtree(path)
    reconciler.reconcile()
    assert record(reconciler).failed == {}


def test_one_bad_model_does_not_keep_the_others_from_serving(reconciler: Reconciler, models: Path) -> None:
    add_constant(models, 1.0, name="good")
    flip_byte(add_constant(models, 1.0, name="bad") / MODEL_FILE)
    (models / "..odd" / "1").mkdir(parents=True)
    (models / "Bad Name" / "1").mkdir(parents=True)
    (models / "Bad Name" / "1" / MODEL_FILE).write_bytes(echo_model())
    reconciler.reconcile()
    assert list(plan(reconciler).models) == ["good"]
    assert set(plan(reconciler).not_loaded) == {"bad", "Bad Name"}
    assert "is damaged" in plan(reconciler).not_loaded["bad"]
    assert isinstance(record(reconciler, "bad").failed["1"].error, DamagedPackageError)
    assert "model name 'Bad Name'" in record(reconciler, "Bad Name").failed["1"].error.message


def test_package_of_another_model_is_refused(reconciler: Reconciler, models: Path) -> None:
    shutil.copytree(build_constant(models.parent / "packages", 1.0, name="demo"), models / "other" / "1")
    reconciler.reconcile()
    assert "holds a package of model 'demo', not of 'other'" in record(reconciler, "other").failed["1"].error.message


def test_version_with_another_schema_is_refused(reconciler: Reconciler, models: Path) -> None:
    add_constant(models, 1.0)
    reconciler.reconcile()
    add_constant(models, 1.0, feature_names=("rsi", "momentum", "volume"))
    reconciler.reconcile()
    assert served(reconciler) == ["1"]
    error = record(reconciler).failed["2"].error
    assert isinstance(error, PackageError)
    assert "has other feature names or their order than version 1" in error.message


def test_bare_onnx_file_is_served_with_a_synthetic_digest(reconciler: Reconciler, models: Path) -> None:
    folder = models / "echo" / "1"
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(echo_model())
    reconciler.reconcile()
    version = plan(reconciler).models["echo"].versions["1"]
    assert len(version.digest) == 32
    assert version.golden is None


def test_model_whose_folder_goes_is_no_longer_served_but_never_all_at_once(
    reconciler: Reconciler, models: Path
) -> None:
    add_constant(models, 1.0, name="one")
    add_constant(models, 1.0, name="two")
    reconciler.reconcile()
    shutil.rmtree(models / "one")
    reconciler.reconcile()
    assert list(plan(reconciler).models) == ["two"]
    # As when the volume is unmounted.
    shutil.rmtree(models / "two")
    reconciler.reconcile()
    assert list(plan(reconciler).models) == ["two"]
    assert "every model is gone" in reconciler.snapshot().source_error


def test_model_that_breaks_the_loader_itself_spoils_no_other(reconciler: Reconciler, models: Path) -> None:
    add_constant(models, 1.0, name="good")
    folder = models / "huge" / "1"
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(huge_model())
    reconciler.reconcile()
    assert list(plan(reconciler).models) == ["good"]
    assert "cannot be loaded" in record(reconciler, "huge").failed["1"].error.message


def test_removing_the_served_version_goes_back_below_a_broken_one(reconciler: Reconciler, models: Path) -> None:
    add_constant(models, 1.0)
    second = add_constant(models, 2.0)
    reconciler.reconcile()
    flip_byte(add_constant(models, 3.0) / MODEL_FILE)
    reconciler.reconcile()
    assert served(reconciler) == ["2"]
    shutil.rmtree(second)
    reconciler.reconcile()
    assert served(reconciler) == ["1"]
    assert record(reconciler).wanted == "3"


def test_directory_that_cannot_be_read_changes_nothing(reconciler: Reconciler, models: Path) -> None:
    add_constant(models, 1.0)
    reconciler.reconcile()
    models.rename(models.with_name("gone"))
    reconciler.reconcile()
    assert served(reconciler) == ["1"]
    assert "gone" not in reconciler.snapshot().source_error
    assert reconciler.snapshot().source_error
    models.with_name("gone").rename(models)
    reconciler.reconcile()
    assert reconciler.snapshot().source_error == ""


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


def test_pass_that_is_stopped_loads_no_further_model(reconciler: Reconciler, models: Path) -> None:
    add_constant(models, 1.0)
    reconciler.stop()
    reconciler.reconcile()
    assert list(plan(reconciler).models) == []


def test_failed_version_is_tried_again_when_its_time_comes(models: Path, engine: PythonEngine) -> None:
    now = 1000.0
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(models.parent), clock=lambda: now)
    flip_byte(add_constant(models, 1.0) / MODEL_FILE)
    reconciler.reconcile()
    reconciler.reconcile()
    assert record(reconciler).failed["1"].attempts == 1
    for seconds, attempts in ((4.9, 1), (0.2, 2), (9.8, 2), (0.3, 3)):
        now += seconds
        reconciler.reconcile()
        assert record(reconciler).failed["1"].attempts == attempts


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


def test_load_that_ends_after_the_server_installs_nothing(
    reconciler: Reconciler, models: Path, engine: PythonEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_constant(models, 1.0)
    prepare = engine.prepare

    def end_meanwhile(version: VersionPlan) -> Prepared:
        prepared = prepare(version)
        reconciler.close()
        engine.stop(0.0)
        return prepared

    monkeypatch.setattr(engine, "prepare", end_meanwhile)
    reconciler.reconcile()
    assert plan(reconciler).models == {}


def test_folder_that_may_still_be_copied_is_left_alone_until_it_is_a_package(
    models: Path, engine: PythonEngine
) -> None:
    settling = Settling(600.0)
    reconciler = Reconciler(DirectorySource(models, settling=settling), engine, LocalState(models.parent))
    add_constant(models, 1.0)
    reconciler.reconcile()
    package = build_constant(models.parent / "packages", 2.0)
    copied = models / "demo" / "2"
    copied.mkdir()
    # The manifest is the last to come, and the model alone would do as a bare one.
    for name in sorted((path.name for path in package.iterdir()), key=[MODEL_FILE].count, reverse=True):
        assert served(reconciler) == ["1"]
        assert record(reconciler).failed == {}
        if name != MANIFEST_FILE:
            shutil.copy(package / name, copied)
            reconciler.reconcile()
    shutil.copy(package / MANIFEST_FILE, copied)
    reconciler.reconcile()
    assert served(reconciler) == ["2"]
    assert plan(reconciler).models["demo"].versions["2"].golden is not None


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
    source = DirectorySource(models, rows=DesiredRows(tmp_path / "desired.json"))
    reconciler = Reconciler(source, engine, LocalState(tmp_path))
    reconciler.reconcile()
    operations = Operations(reconciler)
    operations.set_desired("demo", only("1"), Halt("bad fills", "ann", 1), 0, actor="ann", reason="stop")
    reconciler.reconcile()
    operations.unload("demo", actor="tool")
    with pytest.raises(ControlError, match=r"is halted by desired state \(ann: bad fills\)"):
        operations.load("demo", actor="tool")
    assert reconciler.halts == {}


def test_version_that_is_still_loaded_comes_back_with_another_schema_by_name_alone(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    source = DirectorySource(models, rows=DesiredRows(tmp_path / "desired.json"))
    reconciler = Reconciler(source, engine, LocalState(tmp_path))
    operations = Operations(reconciler)

    def want(version: str, name: str = "") -> None:
        operations.set_desired("demo", only(version, schema_override=name), None, None, actor="kim", reason="try")
        reconciler.reconcile()

    add_constant(models, 1.0)
    reconciler.reconcile()
    add_constant(models, 2.0, feature_names=("rsi", "momentum", "volume"))
    want("2", "2")
    assert served(reconciler) == ["2"]
    assert "1" in record(reconciler).loaded, "kept warm"
    want("1")
    assert served(reconciler) == ["2"]
    assert "has other feature names or their order than version 2" in record(reconciler).failed["1"].error.message
    # The way back is one that was accepted.
    operations.rollback("demo", actor="kim", reason="bad fills")
    assert served(reconciler) == ["1"]
    reconciler.reconcile()
    assert served(reconciler) == ["1"]
    want("2", "2")
    assert served(reconciler) == ["2"]
    want("1", "1")
    assert served(reconciler) == ["1"]


def test_breaker_leaves_a_model_alone_that_went_meanwhile(
    reconciler: Reconciler, operations: Operations, models: Path
) -> None:
    for name in ("demo", "other"):
        add_constant(models, 1.0, name=name)
    reconciler.reconcile()
    shutil.rmtree(models / "demo")
    reconciler.reconcile()
    operations.trip("demo", "1", "9 of 10 answers were bad", halts=False)
    assert reconciler.halts == {}
    reconciler.retry("demo")
