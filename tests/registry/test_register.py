import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rfc8785
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from mlops.package import MANIFEST_FILE, load_private_key, new_key, sign_package
from mlops.registry import ModelFacts, Registration, Registry, RunFacts, Status, migrate
from mlops.registry.database import Database
from mlops.registry.schema import metadata
from tests.support.packages import flip_byte
from tests.support.registry import ANN, Backend, Packages, add
from tickserve.errors import (
    ConfigurationError,
    ExistsError,
    PackageError,
    RegistryArgumentError,
    RegistryError,
    UnknownError,
)

#: 1e20 is written as 100000000000000000000, which is no integer that RFC 8785 takes.
METADATA = {"ticket": [1, {"a": None}], "capital": 1e20, "rows": 2**53 - 1}


def test_versions_count_up_per_model_and_start_validated(registry: Registry, packages: Packages) -> None:
    first, second = (registry.register(packages(value), ANN) for value in (1, 2))
    other = registry.register(packages(1, name="other"), ANN)
    assert [first.version, second.version, other.version] == [1, 2, 1]
    assert {first.status, second.status, other.status} == {Status.VALIDATED}
    assert [version.version for version in registry.versions("demo")] == [2, 1]


def test_the_same_package_is_the_same_version_and_is_logged_once(registry: Registry, packages: Packages) -> None:
    first = registry.register(packages(1), ANN)
    assert registry.register(packages(1), ANN, Registration(description="again")) == first
    assert [change.action for change in registry.history("demo")] == ["register"]


def test_a_later_registration_adds_evaluations_and_a_label(registry: Registry, packages: Packages) -> None:
    table = {"time": np.arange(3), "prediction": np.ones(3)}
    registry.register(packages(1), ANN)
    again = Registration(label="1.0.0", evaluations={"test": table})
    assert registry.register(packages(1), ANN, again).label == "1.0.0"
    changes = registry.history("demo")
    version = registry.register(packages(1), ANN, again)
    assert registry.evaluations(version)["test"]["prediction"].tolist() == [1, 1, 1]
    assert (version.version, len(changes), registry.history("demo")) == (1, 2, changes)
    with pytest.raises(ExistsError, match=r"has the label 1\.0\.0; relabel it"):
        registry.register(packages(1), ANN, Registration(label="2.0.0"))
    assert registry.verify().findings == ()


def test_what_is_said_at_registration_is_kept(registry: Registry, packages: Packages) -> None:
    table = {"time": np.arange(4) * 10**9, "prediction": np.linspace(0, 1, 4), "return": np.full(4, 0.01)}
    facts = ModelFacts("momentum", "SPX", "constant", "a model", {"desk": "eq"})
    run = RunFacts(parameters={"depth": 3}, code_revision="abc", seed=7, duration_s=1.5)
    said = Registration(facts, "1.4.0", "eve", "better", METADATA, run, {"backtest": table})
    version = registry.register(packages(1), ANN, said)
    assert (version.label, version.author, version.description) == ("1.4.0", "eve", "better")
    assert version.metadata == METADATA
    assert registry.verify().findings == ()
    assert registry.model("demo").facts == facts
    assert registry.runs("demo", 1)[0].facts == run
    assert registry.manifest(version).name == "demo"
    kept = registry.evaluations(version)["backtest"]
    assert {name: column.tolist() for name, column in kept.items()} == {
        name: column.tolist() for name, column in table.items()
    }


def test_a_package_comes_back_byte_for_byte(registry: Registry, packages: Packages) -> None:
    package = registry.fetch(registry.register(packages(1), ANN))
    assert {path.name: path.read_bytes() for path in package.path.iterdir()} == {
        path.name: path.read_bytes() for path in packages(1).iterdir()
    }


def test_a_damaged_cache_is_replaced(registry: Registry, packages: Packages) -> None:
    version = registry.register(packages(1), ANN)
    flip_byte(registry.fetch(version).path / "model.onnx")
    assert registry.fetch(version).digest == version.digest


def pickle_inside(folder: Path) -> None:
    (folder / "scaler.pkl").write_bytes(b"\x80\x04N.")


def link_outside(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    (folder / "model.onnx").rename(outside)
    (folder / "model.onnx").symlink_to(outside)


def folder_inside(folder: Path) -> None:
    (folder / "extra").mkdir()


def flipped(folder: Path) -> None:
    flip_byte(folder / "golden.npz")


def wrong_digest(folder: Path) -> None:
    (folder / "manifest.sha256").write_text(f"{'0' * 64}  manifest.json\n")


def dotted_name(folder: Path) -> None:
    manifest = folder / MANIFEST_FILE
    (folder / "manifest.sha256").unlink()
    manifest.write_bytes(manifest.read_bytes().replace(b'"name":"demo"', b'"name":"../x"'))


def absolute_path(folder: Path) -> None:
    manifest = folder / MANIFEST_FILE
    (folder / "manifest.sha256").unlink()
    entries = json.loads(manifest.read_bytes())
    entries["files"]["/etc/hosts"] = entries["files"].pop("golden.npz")
    manifest.write_bytes(rfc8785.dumps(entries))


def huge_header(folder: Path) -> None:
    with open(folder / "manifest.json", "ab") as file:
        os.truncate(file.fileno(), 1 << 30)


def named_pipe(folder: Path) -> None:
    (folder / "baseline.json").unlink()
    subprocess.run(["mkfifo", folder / "baseline.json"], check=True)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (pickle_inside, "'scaler.pkl' is no file of a package"),
        (folder_inside, "'extra' is no file of a package"),
        (link_outside, "model.onnx cannot be read as a regular file"),
        (flipped, "golden.npz is damaged"),
        (wrong_digest, "manifest.sha256 says another"),
        (dotted_name, "hold no '..'"),
        (absolute_path, "/etc/hosts"),
        (huge_header, "at most 4194304 are read"),
        (named_pipe, "baseline.json is no regular file"),
    ],
)
def test_a_package_that_cannot_be_trusted_is_refused_and_leaves_nothing(
    registry: Registry, backend: Backend, packages: Packages, tmp_path: Path, spoil: object, reason: str
) -> None:
    folder = tmp_path / "package"
    shutil.copytree(packages(1), folder)
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(PackageError, match=reason):
        registry.register(folder, ANN)
    assert registry.history() == []
    assert not backend.artifacts.exists()


def test_labels_are_unique_in_a_model_and_ordered_as_semantic_versions(registry: Registry, packages: Packages) -> None:
    for value, label in ((1, "1.0.10"), (2, "1.0.9"), (3, "2.0.0-rc.1"), (4, "2.0.0")):
        registry.register(packages(value), ANN, Registration(label=label))
    with pytest.raises(ExistsError, match=r"version 2 of model 'demo' has the label 1\.0\.9"):
        registry.register(packages(5), ANN, Registration(label="1.0.9"))
    with pytest.raises(RegistryArgumentError, match="no semantic version"):
        registry.register(packages(5), ANN, Registration(label="v1"))
    assert [version.label for version in registry.labelled("demo")] == ["1.0.9", "1.0.10", "2.0.0-rc.1", "2.0.0"]
    assert registry.resolve("demo", "1.0.10").version == 1


def test_what_was_deleted_does_not_come_back(registry: Registry, packages: Packages) -> None:
    registry.register(packages(1), ANN)
    registry.delete("demo", 1, ANN)
    with pytest.raises(RegistryError, match="was version 1 of model 'demo', which was deleted"):
        registry.register(packages(1), ANN)
    assert registry.register(packages(2), ANN).version == 2


def test_search_finds_by_every_fact(registry: Registry, packages: Packages) -> None:
    for name, strategy, tags in (("alpha", "momentum", {"desk": "eq"}), ("beta", "carry", {"desk": "fx"})):
        registry.register(packages(1, name=name), ANN, Registration(ModelFacts(strategy, "SPX", "mlp", name, tags)))

    def names(**filters: object) -> list[str]:
        return [model.name for model in registry.search(**filters)]

    assert names() == ["alpha", "beta"]
    assert names(text="ALP") == ["alpha"]
    assert names(text="%") == []
    assert names(strategy_type="carry") == ["beta"]
    assert names(tags=[("desk", "eq")]) == ["alpha"]
    assert names(universe="SPX", after="alpha") == ["beta"]
    assert names(limit=1) == ["alpha"]


def test_unknown_names_say_so(registry: Registry, packages: Packages) -> None:
    for ask in (lambda: registry.best("sharpe", model="other"), lambda: registry.served("other")):
        with pytest.raises(UnknownError, match="no model 'other'"):
            ask()
    with pytest.raises(UnknownError, match="no model 'demo'"):
        registry.resolve("demo", 1)
    add(registry, packages(1))
    for reference in ("2", "live", "canary", "champion", "1.0.0", "../1", "01", "-1", ""):
        with pytest.raises(UnknownError):
            registry.resolve("demo", reference)


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 10_001])
def test_text_that_a_database_cannot_hold_is_refused(registry: Registry, packages: Packages, text: str) -> None:
    with pytest.raises(RegistryArgumentError):
        registry.register(packages(1), ANN, Registration(description=text))
    assert registry.history() == []


def test_migrations_make_the_schema_that_the_code_knows(backend: Backend) -> None:
    backend.open().close()
    database = Database(backend.url)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, metadata) == []
    assert migrate.newest() == migrate.HEAD


def test_a_database_of_another_schema_is_refused(backend: Backend) -> None:
    backend.open().close()
    database = Database(backend.url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match="schema is 9999"):
        backend.open()


def test_a_registry_can_require_a_trusted_signature(
    registry: Registry, backend: Backend, packages: Packages, tmp_path: Path
) -> None:
    folder, stranger = tmp_path / "package", tmp_path / "stranger"
    shutil.copytree(packages(1), folder)
    registry.register(folder, ANN)
    registry.require_signature(True, ANN)
    version = registry.version("demo", 1)
    with pytest.raises(PackageError, match="no trusted keys in"):
        registry.fetch(version)
    new_key(backend.folder / "keys", "desk")
    new_key(stranger, "stranger")
    for unsigned in (lambda: registry.fetch(version), lambda: registry.register(packages(2), ANN)):
        with pytest.raises(PackageError, match="is not signed"):
            unsigned()
    sign_package(folder, load_private_key(stranger, "stranger"))
    with pytest.raises(PackageError, match=r"which is not trusted; trusted keys in .*: desk"):
        registry.register(folder, ANN)
    sign_package(folder, load_private_key(backend.folder / "keys", "desk"))
    assert registry.register(folder, ANN) == version, "a signature changes no version"
    package = registry.fetch(version)
    assert package.signature is not None
    assert registry.verify().findings == ()
    (backend.folder / "keys" / "desk.pub").unlink()
    with pytest.raises(PackageError, match="not trusted"):
        registry.fetch(version)
