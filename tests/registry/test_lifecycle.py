import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
from sqlalchemy import update

from mlops.package import Metric
from mlops.registry import ModelFacts, Registration, Registry, RunFacts, ServerEvent, Status
from mlops.registry.database import Database
from mlops.registry.journal import Journal
from mlops.registry.register import Registrar
from mlops.registry.schema import metrics
from tests.support.packages import flip_byte
from tests.support.registry import ANN, Backend, Clock, Packages, add
from tickserve.errors import (
    DamagedPackageError,
    RegistryArgumentError,
    RegistryError,
    UnknownError,
)

TABLE = {"time": np.arange(3), "prediction": np.ones(3)}


def test_statuses_move_only_along_their_way(registry: Registry, packages: Packages) -> None:
    add(registry, packages(1))
    with pytest.raises(RegistryError, match="is approved and cannot become deleted; it can become retired"):
        registry.delete("demo", 1, ANN)
    assert registry.retire("demo", 1, ANN).status == Status.RETIRED
    assert registry.approve("demo", 1, ANN).status == Status.APPROVED
    registry.retire("demo", 1, ANN)
    assert registry.delete("demo", 1, ANN).status == Status.DELETED
    with pytest.raises(RegistryError, match="cannot become approved; it can become nothing"):
        registry.approve("demo", 1, ANN)
    with pytest.raises(UnknownError, match="is deleted"):
        registry.resolve("demo", 1)
    assert registry.versions("demo") == []
    assert registry.version("demo", 1).status == Status.DELETED


def test_a_deleted_version_takes_no_label_from_others(registry: Registry, packages: Packages) -> None:
    for value in (1, 2):
        registry.register(packages(value), ANN)
    registry.set_label("demo", 1, "1.0.0", ANN)
    registry.delete("demo", 1, ANN)
    with pytest.raises(RegistryError, match="version 1 of model 'demo' is deleted"):
        registry.set_label("demo", 1, "1.0.0", ANN)
    assert registry.set_label("demo", 2, "1.0.0", ANN).label == "1.0.0"


def test_what_is_used_can_be_neither_retired_nor_deleted(registry: Registry, packages: Packages, clock: Clock) -> None:
    for value in (1, 2):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    registry.set_alias("demo", "champion", 1, ANN)
    registry.report("s1", [ServerEvent("installed", clock.now, "demo", 1, "stable", "d")], ANN)
    with pytest.raises(RegistryError, match=r"used by desired state \(revision 1\), alias 'champion', server s1"):
        registry.retire("demo", 1, ANN)
    registry.promote("demo", 2, ANN)
    registry.remove_alias("demo", "champion", ANN)
    with pytest.raises(RegistryError, match="used by server s1"):
        registry.retire("demo", 1, ANN)
    registry.report("s1", [ServerEvent("drained", clock.now, "demo", 1)], ANN)
    assert registry.retire("demo", 1, ANN).status == Status.RETIRED


@pytest.mark.parametrize("alias", ["live", "canary", "latest", "1", "1.0.0", "", "A", "../x", "a b"])
def test_an_alias_cannot_be_taken_for_something_else(registry: Registry, packages: Packages, alias: str) -> None:
    add(registry, packages(1))
    with pytest.raises(RegistryArgumentError):
        registry.set_alias("demo", alias, 1, ANN)


def test_best_passes_over_what_is_undefined_or_out_of_use(registry: Registry, packages: Packages) -> None:
    for value in range(1, 6):
        add(registry, packages(value))
    for version, figure in ((1, 1.0), (2, float("nan")), (3, 3.0), (4, 2.0)):
        registry.log_metrics("demo", version, "validation", {"sharpe": figure, "log_loss": figure}, ANN)
    assert registry.best("sharpe")[0].version == 3
    assert registry.best("log_loss")[0].version == 1
    registry.retire("demo", 3, ANN)
    assert registry.best("sharpe")[0].version == 4
    registry.log_metrics("demo", 4, "validation", {"sharpe": float("nan")}, ANN)
    assert registry.best("sharpe")[0].version == 1, "the figure logged last counts"
    registry.log_metrics("demo", 5, "validation", {"sharpe": 9.0}, ANN, step=1)
    registry.log_metrics("demo", 5, "validation", {"sharpe": 0.5}, ANN, step=2)
    assert registry.best("sharpe")[1].value == 1.0, "the last step counts"


def test_best_needs_a_direction_and_keeps_off_the_test_set(registry: Registry, packages: Packages) -> None:
    add(registry, packages(1))
    registry.log_metrics("demo", 1, "test", {"sharpe": 1.0, "oddness": 1.0}, ANN)
    with pytest.raises(RegistryArgumentError, match="choosing on the test set"):
        registry.best("sharpe", dataset="test")
    assert registry.best("sharpe", dataset="test", may_use_test=True)[0].version == 1
    with pytest.raises(RegistryArgumentError, match="which way is metric 'oddness' better"):
        registry.best("oddness", dataset="test", may_use_test=True)
    with pytest.raises(UnknownError, match="no version has a defined sharpe on validation"):
        registry.best("sharpe")


def test_best_looks_across_a_strategy_type(registry: Registry, packages: Packages) -> None:
    for name, strategy, sharpe in (("alpha", "momentum", 1.0), ("beta", "momentum", 2.0), ("gamma", "carry", 3.0)):
        registry.register(packages(1, name=name), ANN, Registration(ModelFacts(strategy)))
        registry.log_metrics(name, 1, "backtest", {"sharpe": Metric(value=sharpe, standard_error=0.1, n=9)}, ANN)
    version, figure = registry.best("sharpe", dataset="backtest", strategy_type="momentum")
    assert (version.model, figure.value, figure.standard_error, figure.n) == ("beta", 2.0, 0.1, 9)


def test_infinite_figures_are_refused(registry: Registry, packages: Packages) -> None:
    add(registry, packages(1))
    with pytest.raises(RegistryArgumentError, match="is infinite"):
        registry.log_metrics("demo", 1, "live", {"sharpe": float("inf")}, ANN)


def test_versions_are_compared_with_their_intervals(registry: Registry, packages: Packages) -> None:
    for value, sharpe, features in ((1, 1.0, ("a", "b", "c")), (2, 2.0, ("a", "c", "d"))):
        add(registry, packages(value, feature_names=features))
        figure = {"sharpe": Metric(value=sharpe, standard_error=0.2, n=9)}
        registry.log_metrics("demo", value, "backtest", figure, ANN)
    pair = registry.compare(("demo", 1), ("demo", "2"))
    [metric] = pair.metrics
    assert metric.better == "right"
    assert metric.left is not None
    assert metric.left.low == pytest.approx(1 - 1.96 * 0.2, abs=1e-3)
    assert pair.schema == ("features: added d and removed b",)
    assert [(data.dataset, data.is_same) for data in pair.datasets] == [("train", True)]


def test_a_run_that_made_no_version_is_kept_and_ends_once(registry: Registry) -> None:
    run = registry.log_run("demo", RunFacts("running", {"depth": 3}, code_revision="abc", seed=7), ANN)
    registry.end_run(run, "failed", ANN, 12.5)
    [found] = registry.runs("demo")
    assert (found.version, found.facts) == (
        None,
        RunFacts("failed", {"depth": 3}, code_revision="abc", seed=7, duration_s=12.5),
    )
    with pytest.raises(RegistryError, match="is failed already"):
        registry.end_run(run, "completed", ANN)
    with pytest.raises(UnknownError, match="no training run"):
        registry.end_run("none", "completed", ANN)
    assert registry.verify().findings == ()


def files(backend: Backend) -> set[str]:
    return {path.name for path in backend.artifacts.rglob("*") if path.is_file()}


def test_gc_takes_only_what_nobody_needs(
    registry: Registry, backend: Backend, packages: Packages, clock: Clock
) -> None:
    for value in (1, 2, 3, 4):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    registry.promote("demo", 2, ANN)
    stray = backend.artifacts / "incoming" / "left-behind"
    stray.write_bytes(b"half")
    orphan = backend.artifacts / "sha256" / "ab" / ("ab" + "0" * 62)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"nobody's")
    before = files(backend)
    assert registry.collect_garbage(ANN) == [], "young files may belong to a registration under way"
    grace = timedelta(0)
    for version in (1, 3):
        registry.retire("demo", version, ANN)
        registry.delete("demo", version, ANN)
    found = registry.find_garbage(grace=grace)
    removed = registry.collect_garbage(ANN, grace=grace)
    assert removed == found
    gone = before - files(backend)
    assert {stray.name, orphan.name} <= gone
    assert len(gone) == 2 + 3, "version 3 shares its baseline with the others; 1 was live within the retention"
    assert registry.verify().findings == ()
    assert registry.fetch(registry.version("demo", 1)).digest
    clock.step(timedelta(days=366).total_seconds())
    assert len(registry.collect_garbage(ANN, grace=grace)) == 3
    for version in (2, 4):
        registry.fetch(registry.resolve("demo", version))
    assert registry.verify().findings == ()


def test_gc_leaves_what_an_alias_had_within_the_retention(registry: Registry, packages: Packages, clock: Clock) -> None:
    registry.register(packages(1), ANN)
    add(registry, packages(2))
    registry.set_alias("demo", "champion", 1, ANN)
    clock.step(timedelta(days=700).total_seconds())
    registry.set_alias("demo", "champion", 2, ANN)
    registry.delete("demo", 1, ANN)
    assert registry.find_garbage(grace=timedelta(0)) == [], "the alias had it until a moment ago"
    clock.step(timedelta(days=366).total_seconds())
    assert len(registry.find_garbage(grace=timedelta(0))) == 3


def test_gc_leaves_what_a_server_has(registry: Registry, packages: Packages, clock: Clock) -> None:
    registry.register(packages(1), ANN)
    registry.delete("demo", 1, ANN)
    registry.report("s1", [ServerEvent("installed", clock.now, "demo", 1)], ANN)
    clock.step(timedelta(days=1000).total_seconds())
    assert registry.find_garbage(grace=timedelta(0)) == []
    registry.report("s1", [ServerEvent("stopped", clock.now)], ANN)
    assert registry.find_garbage(grace=timedelta(0)) == []
    clock.step(timedelta(days=366).total_seconds())
    assert len(registry.find_garbage(grace=timedelta(0))) == 4


def test_an_exported_version_is_imported_with_its_history(
    registry: Registry, packages: Packages, tmp_path: Path
) -> None:
    add(registry, packages(1))
    add(registry, packages(2))
    registry.log_metrics("demo", 2, "live", {"sharpe": Metric(value=1.5, standard_error=0.5, n=20)}, ANN, step=3)
    registry.log_evaluation("demo", 2, "live", TABLE, ANN)
    folder = registry.export(registry.resolve("demo", 2), tmp_path / "out")
    other = Backend(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other")
    with other.open() as target:
        version = target.import_version(folder, ANN)
        assert (version.version, version.status) == (1, Status.VALIDATED)
        assert version.metadata["imported_from"]["version"] == 2
        assert [(row.dataset, row.step, row.value, row.n) for row in target.metrics(version)] == [("live", 3, 1.5, 20)]
        assert target.evaluations(version)["live"]["prediction"].tolist() == [1, 1, 1]
        assert target.verify().findings == ()
        changes = target.history()
        assert target.import_version(folder, ANN) == version
        assert target.history() == changes, "the same import again changes nothing"


@pytest.mark.parametrize(
    "forged",
    [
        {"model": "other"},
        {"facts": {"strategy_type": "carry"}},
        {"metadata": ["a"]},
        {"metrics": [{"dataset": "live"}]},
        {"metrics": 3},
        {"evaluations": ["live"]},
        {"author": 5},
        {"more": 1},
    ],
    ids=str,
)
def test_an_export_of_another_form_is_refused_though_its_hash_fits(
    registry: Registry, packages: Packages, tmp_path: Path, forged: dict[str, Any]
) -> None:
    add(registry, packages(1))
    folder = registry.export(registry.resolve("demo", 1), tmp_path / "out")
    history = json.loads((folder / "history.json").read_text()) | forged
    del history["hash"]
    history["hash"] = hashlib.sha256(rfc8785.dumps(history)).hexdigest()
    (folder / "history.json").write_bytes(rfc8785.dumps(history))
    with Backend(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other").open() as target:
        with pytest.raises(DamagedPackageError, match=r"history\.json"):
            target.import_version(folder, ANN)
        (folder / "history.json").write_text("[" * 99_999)
        with pytest.raises(DamagedPackageError, match="malformed"):
            target.import_version(folder, ANN)
        assert target.search() == []


def test_an_import_changes_nothing_that_is_said_here(registry: Registry, packages: Packages, tmp_path: Path) -> None:
    for value in (1, 2):
        add(registry, packages(value))
    registry.log_evaluation("demo", 2, "live", TABLE, ANN)
    folder = registry.export(registry.resolve("demo", 2), tmp_path / "out")
    with Backend(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other").open() as target:
        facts = ModelFacts("carry", "SPX")
        ours = TABLE | {"prediction": np.zeros(3)}
        target.register(packages(2), ANN, Registration(facts, evaluations={"live": ours}))
        version = target.import_version(folder, ANN)
        assert target.model("demo").facts == facts
        assert target.evaluations(version)["live"]["prediction"].tolist() == [0, 0, 0]
        assert "imported_from" not in version.metadata


@pytest.mark.parametrize("file", ["history.json", "evaluation-live.npz"])
def test_any_flipped_byte_of_an_export_is_refused(
    registry: Registry, packages: Packages, tmp_path: Path, file: str
) -> None:
    add(registry, packages(1))
    registry.log_evaluation("demo", 1, "live", TABLE, ANN)
    registry.log_metrics("demo", 1, "live", {"sharpe": 1.25}, ANN)
    folder = registry.export(registry.resolve("demo", 1), tmp_path / "out")
    with Backend(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other").open() as target:
        size_bytes = (folder / file).stat().st_size
        for position in range(0, size_bytes, max(1, size_bytes // 200)):
            flip_byte(folder / file, position)
            with pytest.raises(DamagedPackageError):
                target.import_version(folder, ANN)
            flip_byte(folder / file, position)
        text = (folder / "history.json").read_text()
        (folder / "history.json").write_text(text.replace('"value":1.25', '"value":9.25'))
        with pytest.raises(DamagedPackageError, match="as it was exported"):
            target.import_version(folder, ANN)
        assert target.history() == []


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), None])
def test_best_is_not_fooled_by_what_was_written_past_the_registry(
    registry: Registry, backend: Backend, packages: Packages, figure: float | None
) -> None:
    for value in (1, 2):
        add(registry, packages(value))
        registry.log_metrics("demo", value, "validation", {"sharpe": 1.0, "log_loss": 1.0}, ANN)
    with Database(backend.url).engine.begin() as connection:
        connection.execute(update(metrics).where(metrics.c.version == 2).values(value=figure))
    assert registry.best("sharpe")[0].version == 1
    assert registry.best("log_loss")[0].version == 1


class CollectingJournal(Journal):
    """Garbage is collected between the storing of a version's files and the writing of its rows."""

    registry: Registry

    def write(self, *given: Any, **named: Any) -> Any:
        removed = self.registry.collect_garbage(ANN, grace=timedelta(0))
        assert removed
        return super().write(*given, **named)


def test_a_registration_survives_garbage_collected_in_its_middle(registry: Registry, packages: Packages) -> None:
    journal = CollectingJournal(registry._database, registry.journal.clock)
    object.__setattr__(journal, "registry", registry)
    registrar = Registrar(journal, registry._store, registry._registrar.trust)
    version = registrar.register(packages(1), ANN, Registration())
    assert registry.verify().findings == ()
    assert registry.fetch(version).digest == version.digest
