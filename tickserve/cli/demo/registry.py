"""The demo's registry: models are registered with their predictions row by row, gated, approved, promoted."""

from pathlib import Path

from rich.console import Console

from mlops.package import read_package
from mlops.registry import Author, GateError, ModelFacts, Registration, Registry, Version, open_registry
from mlops.registry.evaluation import Table
from mlops.training import TITLES, TrainedModel, close_times
from mlops.training.fitting import probabilities
from tickserve.cli.models.options import print_table

AUTHOR = Author("demo", "demonstration")


def show_registry(home: Path, models: Path, trained: list[TrainedModel], console: Console) -> None:
    """Registers every model, promotes the first one as far as its gates let it, and shows who did what."""
    with open_registry(home) as registry:
        versions = [_register(registry, models, model) for model in trained]
        for version in versions:
            line = f"{version.model} version {version.version} is {version.status}, digest {version.digest[:12]}"
            console.print(line, markup=False, soft_wrap=True)
        _promote(registry, versions[0], console)
        print_table(
            ("no.", "who", "what", "model", "version"),
            [
                (c.sequence, c.actor, c.action, c.model, c.version)
                for c in registry.history(versions[0].model, limit=10)
            ],
            f"history of {versions[0].model}, newest first",
        )
        found = registry.verify()
        state = "whole" if not found.findings else f"damaged: {found.findings[0].place} {found.findings[0].what}"
        text = f"verified: {found.changes} changes, {found.rows} rows and {found.files} files are {state}"
        console.print(text, markup=False, soft_wrap=True)


def _register(registry: Registry, models: Path, model: TrainedModel) -> Version:
    """The version that holds what was published last for this model."""
    folder = models / model.name
    newest = max(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    package = folder / str(newest)
    facts = ModelFacts("direction", model.dataset, TITLES[model.kind], read_package(package).manifest.description)
    evaluations = {part: _evaluation(model, part) for part in ("validation", "test")}
    return registry.register(package, AUTHOR, Registration(facts, evaluations=evaluations))


def _evaluation(model: TrainedModel, part: str) -> Table:
    rows = model.split.parts()[part]
    return {
        "time": close_times(rows.sessions),
        "prediction": probabilities(model.estimator, rows.features)[:, 1],
        "outcome": rows.labels,
        "return": rows.returns,
    }


def _promote(registry: Registry, version: Version, console: Console) -> None:
    """Promotes a version; where gates cannot decide, somebody approves that by name, as an operator would."""
    registry.approve(version.model, version.version, AUTHOR)
    report = registry.check(version.model, version.version, AUTHOR)
    print_table(("gate", "verdict", "why"), [(gate.name, gate.verdict, gate.text) for gate in report.gates])
    if report.verdict == "inconclusive":
        console.print("gates cannot decide: approved by demo all the same, and that is on record")
        registry.approve_inconclusive(version.model, version.version, AUTHOR)
    try:
        desired, _ = registry.promote(version.model, version.version, AUTHOR)
    except GateError as error:
        console.print(f"not promoted: {error.message}", markup=False, soft_wrap=True)
        return
    number = desired.state.named("stable")
    console.print(f"{version.model} version {number} is meant to be live since revision {desired.revision}")
