"""`tickserve drift check`: a file of rows against a package."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tickserve.cli.drift.options import (
    BudgetDays,
    Folder,
    Json,
    Window,
    open_package,
    print_table,
    show,
    window_settings,
)
from tickserve.errors import DataError

if TYPE_CHECKING:
    from mlops.drift import WindowResult
    from mlops.package import Baseline, CategoricalColumn, NumericColumn


def check(
    package: Folder,
    data: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Rows: .csv, .parquet or .npz.")],
    *,
    time_column: Annotated[
        str | None,
        typer.Option(help="Column of event times; without it rows are in time order.", show_default=False),
    ] = None,
    window: Window = None,
    budget_days: BudgetDays = 90.0,
    as_json: Json = False,
) -> None:
    """Compare rows with a package's baseline: one window of all rows, or tumbling ones.

    Columns are the model's features, by name; columns named as its outputs are compared too. Exit 1 where a column is
    critical.
    """
    from mlops.drift import check_columns, default_spec
    from mlops.package.tables import read_table

    found, baseline = open_package(package)
    tensors = {spec.name for spec in (*found.manifest.inputs, *found.manifest.outputs) if spec.datatype == "BYTES"}
    of_text = [column.name for column in _columns(baseline) if column.tensor in tensors]
    table = read_table(data, time_column, text_columns=of_text)
    if table.tensors:
        raise DataError(f"{data} holds whole tensors; one column a feature is expected", field=str(data))
    settings = window_settings(window) or {"kind": "count", "rows": max(20, _rows(table.columns)), "sub_blocks": 20}
    spec = default_spec(found.manifest, baseline, budget_days=budget_days, **settings)
    results = check_columns(table.columns, table.times, found, spec)
    if as_json:
        typer.echo(json.dumps({"digest": found.digest, "windows": [result.as_dict() for result in results]}))
    else:
        for result in results:
            print_window(result, Console())
    if any(result.state == "critical" for result in results):
        raise typer.Exit(1)


def print_window(result: "WindowResult", console: Console) -> None:
    """One window as a table of its decisions, with what is notable below."""
    from mlops.package.reference import iso

    dated = result.first_ns > 10**15
    period = f", {iso(result.first_ns)} to {iso(result.last_ns)}" if dated else ""
    console.print(f"{result.rows} rows{period}: {result.state}", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("")
    for name in ("PSI", "null 95%", "p", "warning", "critical", "effective n", "missing"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for decision in result.decisions:
        psi = result.figure(decision.side, decision.column, "psi")
        missing = result.figure(decision.side, decision.column, "missing").value
        table.add_row(
            escape(decision.column),
            show(psi.value),
            show(psi.null_q95),
            show(psi.p),
            show(decision.warning),
            show(decision.critical),
            show(psi.effective_n, 0),
            show(missing),
            decision.state,
        )
    print_table(table, console)
    for decision in result.decisions:
        if decision.reason:
            console.print(f"{decision.column}: {decision.reason}", highlight=False, markup=False)
    for onset in result.onsets if dated else ():
        low = "before what is remembered" if onset.low_ns is None else iso(onset.low_ns)
        console.print(
            f"{onset.column}: drifts since {iso(onset.time_ns)} ({low} to {iso(onset.high_ns)})",
            highlight=False,
            markup=False,
        )


def _columns(baseline: "Baseline") -> "list[NumericColumn | CategoricalColumn]":
    return [*baseline.inputs.columns, *(baseline.outputs.columns if baseline.outputs else ())]


def _rows(columns: object) -> int:
    return max((len(column) for column in columns.values()), default=0) if isinstance(columns, dict) else 0
