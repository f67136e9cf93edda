"""`tickserve drift show`: the last drift windows and the last figures of outcomes, in the terminal."""

import json
from typing import TYPE_CHECKING

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tickserve.cli.drift.log import Home, Json, Log, Model, sources
from tickserve.cli.drift.options import print_table
from tickserve.errors import ConfigurationError

if TYPE_CHECKING:
    from mlops.drift import WindowResult
    from mlops.outcomes import OutcomeFigure

_STYLES = {"ok": "green", "insufficient": "dim", "warning": "yellow", "critical": "bold red"}


def show(model: Model = None, home: Home = None, log: Log = None, as_json: Json = False) -> None:
    """Show the last window of every version, and what came of its predictions."""
    from mlops.drift.table import read_windows
    from mlops.outcomes.table import read_latest

    read_from = sources(home=home, log=log, models=None, registry=None, artifacts=None)
    windows = {(each.model, each.version): each for each in read_windows(read_from.windows, model or "")}
    try:
        figures = [each for each in read_latest(read_from.windows.parent) if model in (None, each.model)]
    except ValueError as error:
        raise ConfigurationError(f"{error}; the sidecar writes it anew", field="log") from None
    if as_json:
        plain = {
            "windows": [each.as_dict() for each in windows.values()],
            "figures": [each.as_dict() for each in figures],
        }
        typer.echo(json.dumps(plain, allow_nan=False))
        return
    console = Console()
    if not windows and not figures:
        console.print(f"no window has closed and no outcome is known in {read_from.log}", markup=False)
    for window in windows.values():
        print_table(_window(window), console)
    for key in dict.fromkeys((each.model, each.version, each.horizon) for each in figures):
        of_key = [each for each in figures if (each.model, each.version, each.horizon) == key]
        print_table(_figures(key, of_key), console)


def _window(window: "WindowResult") -> Table:
    title = (
        f"{window.model} {window.version}: {window.rows} rows from {_day(window.first_ns)} to {_day(window.last_ns)}"
    )
    table = Table(title=escape(title), title_justify="left", collapse_padding=True, pad_edge=False, box=SIMPLE)
    table.add_column("column", no_wrap=True)
    for name in ("PSI", "null 99%", "p", "warns at"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for decision in window.decisions:
        figure = window.figure(decision.side, decision.column, "psi")
        table.add_row(
            escape(decision.column),
            *map(_number, (figure.value, figure.null_q99, figure.p, decision.warning)),
            f"[{_STYLES[decision.state]}]{decision.state}[/]",
        )
    return table


def _figures(key: tuple[str, str, str], figures: "list[OutcomeFigure]") -> Table:
    model, version, horizon = key
    title = f"{model} {version or '(whoever answered)'}: {horizon}"
    table = Table("figure", title=escape(title), title_justify="left", box=SIMPLE)
    for name in ("value", "95% from", "to", "n"):
        table.add_column(name, justify="right")
    table.add_column("until")
    table.add_column("state")
    for figure in figures:
        if figure.value is not None:
            table.add_row(
                escape(figure.figure),
                *map(_number, (figure.value, figure.lower, figure.upper, figure.n)),
                _day(figure.end_ns),
                f"[{_STYLES[figure.state]}]{figure.state}[/]",
            )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _day(unix_ns: int) -> str:
    from mlops.report.page import day

    return day(unix_ns)
