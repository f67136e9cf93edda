"""When a server that starts is ready, and when it must not become so."""

from pathlib import Path

import pytest

from mlops.package import MODEL_FILE
from server.engine.python import PythonEngine
from server.models import DirectorySource, LocalState, Reconciler, ServedFile, parse_policy
from server.starting import is_loaded
from tests.support.packages import add_constant, flip_byte
from tickserve.errors import PackageError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    add_constant(folder, 1.0, name="good")
    flip_byte(add_constant(folder, 1.0, name="bad") / MODEL_FILE)
    return folder


def reconciled(models: Path, engine: PythonEngine) -> Reconciler:
    served = ServedFile(models.parent / "served.json")
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(models.parent), served=served)
    reconciler.reconcile()
    return reconciler


def ask(reconciler: Reconciler, *required: str, serve_rest: bool = False) -> bool:
    return is_loaded(reconciler.snapshot(), where="here", required=required, serve_rest=serve_rest)


def test_every_model_is_needed_unless_some_are_named(models: Path, engine: PythonEngine) -> None:
    reconciler = reconciled(models, engine)
    with pytest.raises(PackageError, match=r"model 'bad', version 1: .* is damaged.* Use --serve-rest"):
        ask(reconciler)
    assert ask(reconciler, "good")
    assert ask(reconciler, serve_rest=True)
    with pytest.raises(PackageError, match="model 'bad'"):
        ask(reconciler, "good", "bad")
    with pytest.raises(PackageError, match="required_models: here has no other"):
        ask(reconciler, "good", "other")


def test_model_that_has_no_version_yet_is_waited_for(models: Path, engine: PythonEngine) -> None:
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(models.parent))
    reconciler.refresh()
    reconciler.stop()
    reconciler.converge()
    assert not ask(reconciler, "good")


def test_model_that_goes_on_with_what_it_served_is_there(models: Path, engine: PythonEngine) -> None:
    reconciled(models, engine)
    flip_byte(add_constant(models, 2.0, name="good") / MODEL_FILE)
    assert ask(reconciled(models, engine), "good")
    (models.parent / "served.json").unlink()
    with pytest.raises(PackageError, match="model 'good', version 2"):
        ask(reconciled(models, engine), "good")


def test_nothing_to_serve_is_said(tmp_path: Path, engine: PythonEngine) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(PackageError, match="no models in here"):
        ask(reconciled(tmp_path / "models", engine))
    (tmp_path / "models").rmdir()
    with pytest.raises(PackageError, match="models cannot be read"):
        ask(reconciled(tmp_path / "models", engine))


def test_version_that_only_may_be_pinned_holds_nothing_up(models: Path, engine: PythonEngine) -> None:
    flip_byte(models / "good" / "1" / MODEL_FILE)
    add_constant(models, 2.0, name="good")
    source = DirectorySource(models, policies={"good": parse_policy("latest 2")})
    reconciler = Reconciler(source, engine, LocalState(models.parent))
    reconciler.reconcile()
    [record] = [record for record in reconciler.snapshot().models if record.name == "good"]
    assert "1" in record.failed
    assert ask(reconciler, "good")
