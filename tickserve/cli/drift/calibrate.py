"""`tickserve drift calibrate`: thresholds for a budget of false alarms, and what they cost in delay."""

import json
from dataclasses import asdict
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

if TYPE_CHECKING:
    from mlops.alerts.calibrate import RowCost
    from mlops.drift import Calibration


def calibrate(
    package: Folder,
    *,
    window: Window = None,
    budget_days: BudgetDays = 90.0,
    rows: Annotated[
        bool, typer.Option("--rows", help="Also simulate what each row of the alert matrix costs; takes a minute.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Thresholds for a package's columns, from its own baseline, with false alarms a year and days to detection."""
    from mlops.drift import calibrate as calibrated
    from mlops.drift import default_spec

    found, baseline = open_package(package)
    spec = default_spec(found.manifest, baseline, budget_days=budget_days, **window_settings(window))
    # The specification's own thresholds are a floor, so what was calibrated already must not be one.
    plain = type(spec).from_dict(spec.as_dict() | {"column_thresholds": {}})
    result = calibrated(baseline, plain)
    costs = _costs(budget_days) if rows else ()
    if as_json:
        told = {"digest": found.digest, "spec": plain.as_dict()} | result.as_dict()
        typer.echo(json.dumps(told | ({"rows": [asdict(cost) for cost in costs]} if rows else {})))
        return
    console = Console()
    _print(result, console)
    if rows:
        _print_rows(costs, console)


def _costs(budget_days: float) -> "tuple[RowCost, ...]":
    from mlops.alerts.calibrate import Healthy, calibrate_rows
    from mlops.alerts.matrix import default_matrix

    return calibrate_rows(default_matrix(), Healthy(drift_budget_days=budget_days))


def _print_rows(costs: "tuple[RowCost, ...]", console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, title_justify="left")
    for name in ("row", "level", "false alarms a year", "sessions until seen"):
        table.add_column(name, justify="right" if name.startswith("false") else "left")
    for cost in costs:
        delays = (f"{delay.fault}: {'never' if delay.days is None else show(delay.days, 1)}" for delay in cost.delays)
        table.add_row(cost.row, cost.level, f"{cost.false_alarms_per_year:.4f}", escape("; ".join(delays)))
    print_table(table, console)


def _print(result: "Calibration", console: Console) -> None:
    console.print(
        f"A window is {result.window_rows:.0f} rows of the reference, {result.window_days:.1f} days; "
        f"{result.windows_per_year:.1f} a year. Level of one: {result.level:.2%} a side.",
        highlight=False,
    )
    console.print(
        f"Without drift {result.false_alarms_per_year:.2f} alarms a year are expected, of them "
        f"{result.false_criticals_per_year:.2f} critical; the budget is {result.budget_per_year:.2f}.",
        highlight=False,
    )
    shifts = sorted({delay.shift_sd for column in result.columns for delay in column.delays})
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("")
    for name in ("correlation", "null 95%", "warning", "critical", *(f"{shift:g} sd" for shift in shifts), "beyond"):
        table.add_column(name, justify="right", no_wrap=True)
    for column in result.columns:
        delays = {delay.shift_sd: delay.days for delay in column.delays}
        table.add_row(
            escape(column.column),
            f"{column.correlation_rows:.1f}",
            show(column.null_q95),
            *(("insufficient", "") if column.insufficient else (show(column.warning), show(column.critical))),
            *(show(delays.get(shift), 0) for shift in shifts),
            f"{column.runs_beyond} of {column.runs}",
        )
    print_table(table, console)
    console.print(
        "correlation: time in rows. sd: days until a shift of so many standard deviations alarms. beyond: runs of the "
        "baseline's own blocks beyond the warning, each against the others.",
        highlight=False,
    )
