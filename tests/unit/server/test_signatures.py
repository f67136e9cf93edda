"""A server that requires signatures serves what a trusted key signed, and goes on with it when something else comes."""

from pathlib import Path

import pytest

from mlops.package import MODEL_FILE, SIGNATURE_FILE, load_private_key, new_key, sign_package
from server.engine.python import PythonEngine
from server.models import DirectorySource, LocalState, Reconciler, VersionRef
from tests.support.models import echo_model
from tests.support.packages import add_constant
from tickserve.errors import ConfigurationError, DamagedPackageError, PackageError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Of a server that trusts `desk`."""
    folder = tmp_path / "keys"
    new_key(folder, "desk")
    return folder


@pytest.fixture
def source(models: Path, keys: Path) -> DirectorySource:
    return DirectorySource(models, keys)


def test_package_of_a_trusted_key_is_read(source: DirectorySource, models: Path, keys: Path) -> None:
    path = add_constant(models, 1.0)
    sign_package(path, load_private_key(keys, "desk"))
    assert source.open("demo", VersionRef("1", place=str(path))).version == "1"


def test_unsigned_package_and_bare_model_are_refused(source: DirectorySource, models: Path) -> None:
    path = add_constant(models, 1.0)
    with pytest.raises(PackageError, match="is not signed"):
        source.open("demo", VersionRef("1", place=str(path)))
    bare = models / "bare" / "1"
    bare.mkdir(parents=True)
    (bare / MODEL_FILE).write_bytes(echo_model())
    with pytest.raises(PackageError, match="is not signed"):
        source.open("bare", VersionRef("1", place=str(bare)))


def test_foreign_and_altered_signatures_are_refused(source: DirectorySource, models: Path, tmp_path: Path) -> None:
    new_key(tmp_path / "others", "mallory")
    path = add_constant(models, 1.0)
    sign_package(path, load_private_key(tmp_path / "others", "mallory"))
    with pytest.raises(PackageError, match="not trusted"):
        source.open("demo", VersionRef("1", place=str(path)))
    another = add_constant(models, 2.0)
    (another / SIGNATURE_FILE).write_bytes((path / SIGNATURE_FILE).read_bytes())
    with pytest.raises(DamagedPackageError, match="did not sign"):
        source.open("demo", VersionRef("2", place=str(another)))
    # Where no signature is required, a false one is damage all the same.
    with pytest.raises(DamagedPackageError, match="did not sign"):
        DirectorySource(models).open("demo", VersionRef("2", place=str(another)))


def test_key_that_is_taken_away_vouches_for_nothing_any_more(source: DirectorySource, models: Path, keys: Path) -> None:
    path = add_constant(models, 1.0)
    sign_package(path, load_private_key(keys, "desk"))
    source.open("demo", VersionRef("1", place=str(path)))
    (keys / "desk.pub").unlink()
    with pytest.raises(PackageError, match="not trusted"):
        source.open("demo", VersionRef("1", place=str(path)))
    (keys / "desk.key").unlink()
    keys.rmdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        source.open("demo", VersionRef("1", place=str(path)))


def test_unsigned_version_leaves_the_signed_one_serving_until_it_is_signed(
    source: DirectorySource, models: Path, keys: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    key = load_private_key(keys, "desk")
    sign_package(add_constant(models, 1.0), key)
    reconciler = Reconciler(source, engine, LocalState(tmp_path))
    reconciler.reconcile()
    later = add_constant(models, 2.0)
    reconciler.reconcile()
    [record] = reconciler.snapshot().models
    assert list(reconciler.snapshot().plan.models["demo"].versions) == ["1"]
    assert "is not signed" in record.failed["2"].error.message
    sign_package(later, key)
    reconciler.reconcile()
    assert reconciler.snapshot().plan.models["demo"].split.segments[0].version == "2"
