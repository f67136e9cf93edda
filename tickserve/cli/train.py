"""`tickserve train`: models from daily bars, packaged where a server finds them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from tickserve.home import home

if TYPE_CHECKING:
    from mlops.package import Metric
    from mlops.training import TrainedModel

#: Names for people, and digits worth showing.
_METRICS = {
    "accuracy": ("accuracy", 3),
    "auc": ("AUC", 3),
    "log_loss": ("log loss", 3),
    "ic": ("IC", 3),
    "sharpe": ("Sharpe", 2),
    "max_drawdown": ("drawdown", 2),
}


class Choice(StrEnum):
    """Which models to train."""

    LOGISTIC = "logistic"
    FOREST = "forest"
    BOOSTING = "boosting"
    MLP = "mlp"
    ALL = "all"


def train(
    *,
    data: Annotated[
        str, typer.Option(help="sp500, nasdaq, or a CSV file with Date, Open, High, Low, Close, Volume.")
    ] = "sp500",
    model: Annotated[Choice, typer.Option("--model", "-m", help="Which model to train.")] = Choice.ALL,
    models_dir: Annotated[
        Path | None,
        typer.Option(help="Where versions go; TICKSERVE_HOME/models where not given.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train models on daily prices and package them for the server."""
    from mlops.package import read_package
    from mlops.training import COST_BP, KINDS, always_long, comment, load_bars, publish, report, train_on

    kinds = [kind for kind in KINDS if model in (kind, Choice.ALL)]
    folder = models_dir or home() / "models"
    trained: list[TrainedModel] = []
    published: list[dict[str, Any]] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading prices", total=len(kinds) + 1)
        bars = load_bars(data)
        found = report(bars)
        for kind in kinds:
            progress.update(task, advance=1, description=f"training {bars.name}-{kind}")
            trained.append(train_on(bars, kind))
            version, path = publish(trained[-1], folder)
            digest = read_package(path).digest
            published.append({"name": trained[-1].name, "version": version, "digest": digest, "path": str(path)})
        progress.update(task, advance=1)
    if as_json:
        models = [
            entry | {"metrics": plain_metrics(fitted.metrics)} for entry, fitted in zip(published, trained, strict=True)
        ]
        result = {
            "data": asdict(found),
            "models": models,
            "always_long": plain_metrics(always_long(trained[0].split)),
            "comment": comment(trained),
        }
        typer.echo(json.dumps(result, indent=2))
        return
    console = Console()
    console.print(f"{found.sessions} sessions of {found.name}, {found.first} to {found.last}.", highlight=False)
    for sentence in found.sentences():
        console.print(sentence, highlight=False)
    for table in metric_tables(trained):
        console.print()
        console.print(table)
    console.print(f"± is one standard error. Sharpe and drawdown: of trading the sign, at {COST_BP:g} bp a trade.\n")
    console.print(comment(trained), highlight=False)
    console.print()
    for entry in published:
        console.print(f"{entry['name']} version {entry['version']}, digest {entry['digest'][:12]}", highlight=False)
    console.print(f"Serve them with: tickserve serve --models {folder}", soft_wrap=True, highlight=False)


def metric_tables(models: "Sequence[TrainedModel]") -> list[Group]:
    """One table for each part of the data, under its title: models of one data set beside `always long`."""
    from mlops.training import always_long

    split = models[0].split
    columns = {"always long": always_long(split)} | {model.kind: model.metrics for model in models}
    tables = []
    for part, rows in split.parts().items():
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        table.add_column("", no_wrap=True)
        for name in columns:
            table.add_column(name, justify="right", no_wrap=True)
        for metric, (label, digits) in _METRICS.items():
            table.add_row(label, *(_show(figures[part].get(metric), digits) for figures in columns.values()))
        # As the table's own title this would wrap at the width of a narrow table.
        tables.append(Group(f"{part}: {len(rows)} rows, {rows.sessions[0]} to {rows.sessions[-1]}", table))
    return tables


def _show(figure: "Metric | None", digits: int) -> str:
    if figure is None:
        return "undefined"
    if figure.standard_error is None:
        return f"{figure.value:.{digits}f}"
    return f"{figure.value:.{digits}f}±{figure.standard_error:.{digits}f}"


def plain_metrics(metrics: "Mapping[str, Mapping[str, Metric]]") -> dict[str, dict[str, Any]]:
    """Metrics by part and name as JSON has them."""
    return {part: {name: figure.model_dump() for name, figure in found.items()} for part, found in metrics.items()}
