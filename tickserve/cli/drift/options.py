"""Options that the commands share, and the packages that they name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mlops.package import Baseline, Package

Folder = Annotated[
    Path, typer.Argument(metavar="PACKAGE", exists=True, file_okay=False, help="Folder of the model's package.")
]
Window = Annotated[
    str | None,
    typer.Option(help="Windows: count:ROWS, time:LENGTH (12h, 7d) or session:CALENDAR (XNYS).", show_default=False),
]
BudgetDays = Annotated[float, typer.Option(help="At most one false alarm a model in so many days.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def open_package(folder: Path) -> "tuple[Package, Baseline]":
    """The package and its baseline; DataError where it has none."""
    from mlops.package import read_package
    from tickserve.errors import DataError

    package = read_package(folder)
    if package.baseline is None:
        raise DataError(f"{folder} has no baseline, so there is nothing to compare with", field="baseline")
    return package, package.baseline


def print_table(table: "Table", console: "Console") -> None:
    """Prints a table as wide as it is: a column that gave way to the width of a screen would hide what a row is of."""
    from rich.measure import Measurement

    unbounded = console.options.update(width=10_000)
    console.width = max(console.width, Measurement.get(console, unbounded, table).maximum)
    console.print(table, highlight=False)


def show(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash where it is undefined."""
    if value is None:
        return "-"
    return f"{value:.0e}" if digits and 0 < abs(value) < 10**-digits else f"{value:.{digits}f}"


def window_settings(window: str | None) -> dict[str, Any]:
    """Entries of a specification for `--window`; none where it was not given."""
    from mlops.drift import parse_window

    return parse_window(window) if window else {}
