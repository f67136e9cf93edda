"""The reconciler: what the directory holds is served; whatever goes wrong leaves what was served."""

import shutil
from pathlib import Path

import pytest

from mlops.package import MANIFEST_FILE, MODEL_FILE
from server.engine import Prepared
from server.engine.python import PythonEngine
from server.models import (
    DirectorySource,
    LocalState,
    ModelRecord,
    Operations,
    Reconciler,
    Settling,
)
from server.models.values import only
from server.plan import VersionPlan
from tests.support.models import echo_model, huge_model
from tests.support.packages import add_constant, build_constant, flip_byte
from tests.support.reconciling import plan, served, with_rows
from tickserve.errors import Code, DamagedPackageError, PackageError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def record(reconciler: Reconciler, name: str = "demo") -> ModelRecord:
    return next(item for item in reconciler.snapshot().models if item.name == name)


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


def test_version_that_is_still_loaded_comes_back_with_another_schema_by_name_alone(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    reconciler = with_rows(models, engine, tmp_path)
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
