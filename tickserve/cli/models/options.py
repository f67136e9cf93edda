"""What the registry's commands share: which registry, who asks and why, and how results are printed."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tickserve.errors import ConfigurationError
from tickserve.home import home

if TYPE_CHECKING:
    from mlops.registry import Author, Registry

RegistryUrl = Annotated[
    str,
    typer.Option(
        "--registry",
        envvar="TICKSERVE_REGISTRY",
        show_default=False,
        help="sqlite:////path/registry.db or postgresql://user@host/name; by default a file in TICKSERVE_HOME.",
    ),
]
Artifacts = Annotated[
    str,
    typer.Option(
        envvar="TICKSERVE_ARTIFACTS",
        show_default=False,
        help="Folder or fsspec URL of the registry's files; by default a folder in TICKSERVE_HOME.",
    ),
]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Model name.")]
Number = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Version number.")]
Reference = Annotated[
    str, typer.Argument(metavar="VERSION", help="Number, live, canary, an alias or a semantic version.")
]
Reason = Annotated[str, typer.Option(help="Why; kept for ever.")]
Actor = Annotated[str, typer.Option(help="Who asks; by default the login name.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Rows of one page.")]


@contextmanager
def opened(registry: str, artifacts: str) -> Iterator["Registry"]:
    """The registry that the options name, which must be there: a misspelt one is not whole, but none at all."""
    _require_libraries()
    from mlops.registry.opening import require_registry

    require_registry(home(), registry)
    with opened_or_made(registry, artifacts) as found:
        yield found


@contextmanager
def opened_or_made(registry: str, artifacts: str) -> Iterator["Registry"]:
    """The registry that the options name, made where there is none."""
    _require_libraries()
    from mlops.registry import open_registry

    with open_registry(home(), registry, artifacts, _trusted_keys()) as found:
        yield found


def _require_libraries() -> None:
    try:
        import mlops.registry  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is not installed; `pip install 'tickserve[registry]'` brings it", field="registry"
        ) from None


def _trusted_keys() -> Path | None:
    """The folder that a server here would trust too."""
    configured = os.environ.get("TICKSERVE_TRUSTED_KEYS", "")
    return Path(configured).expanduser() if configured else None


def author(actor: str, reason: str) -> "Author":
    """Who asks, and why."""
    from mlops.registry import Author, default_actor

    return Author(actor or default_actor(), reason)


def parse_moment(text: str) -> datetime:
    """A time given as ISO 8601; without a zone it would mean another moment on another machine."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time such as 2026-01-31T09:30:00Z") from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{text} has no time zone; add Z for UTC, or an offset such as -05:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise typer.BadParameter(f"{text} lies outside of the years 1 to 9999 in UTC") from None


def parse_pairs(pairs: Sequence[str], what: str) -> dict[str, str]:
    """`name=value` options."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not name or not sign or name in found:
            raise typer.BadParameter(f"{what} {pair!r}: name=value is expected, each name once")
        found[name] = value
    return found


def print_json(value: object) -> None:
    """Prints a value of the registry."""
    typer.echo(json.dumps(plain(value), indent=2))


def plain(value: object) -> Any:
    """A value as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return plain({name: getattr(value, name) for name in value.__dataclass_fields__})
    if isinstance(value, dict):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Prints rows, or that there are none."""
    console = Console(highlight=False)
    if title:
        console.print(f"[bold]{escape(title)}[/]")
    if not rows:
        console.print("none")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell(value)) for value in row))
    console.print(table)


def cell(value: object) -> str:
    """One value for people."""
    match value:
        case None:
            return ""
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case float():
            return f"{value:.4g}"
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """A text of somebody else: what moves a terminal's cursor is spelled out, so that it writes over nothing."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
