"""`tickserve replay`: runs what was logged once more, and says whether the same bits come out."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tickserve.errors import ConfigurationError, UnknownError
from tickserve.home import home as default_home

if TYPE_CHECKING:
    from mlops.prediction_log.batch import Batch
    from mlops.prediction_log.replay import Replayed
    from mlops.prediction_log.routed import Routed


def replay(
    model: Annotated[str | None, typer.Option(help="This model alone.", show_default=False)] = None,
    version: Annotated[str | None, typer.Option(help="This version alone.", show_default=False)] = None,
    day: Annotated[
        str | None, typer.Option("--date", help="What was answered on this day, UTC: 2026-11-26.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many records; 0 for all.")] = 0,
    home: Annotated[Path | None, typer.Option(help="Folder of state (TICKSERVE_HOME).", show_default=False)] = None,
    log: Annotated[Path | None, typer.Option(help="Folder of the prediction log.", show_default=False)] = None,
    models: Annotated[Path | None, typer.Option(help="Folder of <model>/<version>/.", show_default=False)] = None,
    registry: Annotated[str, typer.Option(help="URL of the registry.")] = "",
    artifacts: Annotated[str, typer.Option(help="Folder or URL of the registry's files.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run logged inputs through the package that answered them and compare bit for bit; route them once more.

    Exit 1 where outputs differ, or a request went elsewhere than its split sends its key.
    """
    try:
        from mlops.prediction_log.replay import replay as run
        from mlops.prediction_log.splits import read_splits
        from mlops.sidecar.packages import PackageFinder
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is not installed; `pip install 'tickserve[sidecar]'` brings it", field="replay"
        ) from None
    state = (home or default_home()).expanduser().absolute()
    folder = log or state / "log"
    if not folder.is_dir():
        raise UnknownError(f"there is no prediction log at {folder}; `tickserve sidecar` makes one", field="log")
    packages = PackageFinder(state, models or state / "models", registry, artifacts)
    found = run(_wanted(folder, model, version, _day(day), limit), packages.find, read_splits(folder))
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
    else:
        _show(found)
    if found.different or found.routing.wrong:
        raise typer.Exit(1)


def _wanted(folder: Path, model: str | None, version: str | None, day: date | None, limit: int) -> "Iterator[Batch]":
    import numpy as np

    from mlops.prediction_log.reading import read_all

    left = limit
    for batch in read_all(folder, model=model, version=version, day=day):
        chosen = batch.take(np.arange(min(left, len(batch)))) if limit else batch
        yield chosen
        left -= len(chosen)
        if limit and not left:
            return


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"--date is {text!r}, it must be a day such as 2026-11-26", field="date") from None


def _show(found: "Replayed") -> None:
    console = Console()
    reasons = "".join(f", {count} not replayed ({why})" for why, count in sorted(found.not_replayed.items()))
    console.print(f"{found.records} records: {found.equal} equal, {found.different} different{reasons}")
    _show_routing(console, found.routing)
    if not found.differences:
        return
    table = Table("position", "request", "model", "version", "tensor", "row", "column", "logged", "replayed")
    for each in found.differences:
        place = str(each.row), str(each.column)
        table.add_row(
            str(each.position),
            each.request_id,
            each.model,
            each.version,
            each.tensor,
            *place,
            repr(each.logged),
            repr(each.replayed),
        )
    console.print(table)


def _show_routing(console: Console, routing: "Routed") -> None:
    without = f", {routing.without_history} unproven (the log has not their split)" if routing.without_history else ""
    if routing.checked:
        proven = routing.checked - routing.wrong
        console.print(f"routing of {routing.checked}: {proven} proven, {routing.wrong} wrong{without}")
    else:
        console.print(f"routing: nothing proven{without}")
    if not routing.elsewhere:
        return
    table = Table("position", "request", "model", "version", "by its split")
    for each in routing.elsewhere:
        table.add_row(str(each.position), each.request_id, each.model, each.version, each.expected)
    console.print(table)
