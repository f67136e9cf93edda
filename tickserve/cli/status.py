"""`tickserve status`: what one server serves, since when, and what failed; or every server of a registry."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tickserve.cli.connection import Admin, TlsCa, TlsCert, TlsKey, connect
from tickserve.cli.models.options import Artifacts, Json, RegistryUrl, printable
from tickserve.errors import Code

if TYPE_CHECKING:
    from tickserve.client import ModelStatus, ServerStatus, VersionStatus


def status(
    everything: Annotated[bool, typer.Option("--all", help="Every server that reports to the registry.")] = False,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    admin: Admin = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    as_json: Json = False,
) -> None:
    """Show what a server serves, since when, and what failed; or all servers of a registry. Exit 1 where one lags."""
    if everything:
        from tickserve.cli.fleet import show_fleet

        if not show_fleet(registry, artifacts, as_json):
            raise typer.Exit(1)
        return
    with connect(admin, tls_ca, tls_cert, tls_key) as control:
        answer = control.status()
    if as_json:
        typer.echo(json.dumps(asdict(answer, dict_factory=plain_status), indent=2))
    else:
        _show(answer, Console())


def _show(answer: "ServerStatus", console: Console) -> None:
    facts = Table.grid(padding=(0, 2))
    for name, fact in (
        ("server", f"{answer.server_id}, tickserve {answer.server_version}, {answer.engine} engine"),
        ("state", f"{answer.state} since {show_time(answer.started_at)}, plan generation {answer.plan_generation}"),
        ("listening", f"data on {', '.join(answer.listen)}; http on {answer.http}"),
        ("desired state", f"from {answer.source}, read {answer.source_age_s:.1f} s ago"),
    ):
        facts.add_row(name, escape(fact))
    if answer.source_revision:
        facts.add_row("", f"revision {answer.source_revision}")
    if answer.source_error:
        facts.add_row("", f"[red]{escape(answer.source_error)}[/]")
    console.print(facts, highlight=False)
    console.print()
    if answer.models:
        _say(console, _HEAD, "bold")
    for model in answer.models:
        _show_model(model, answer.source, console)


def _show_model(model: "ModelStatus", source: str, console: Console) -> None:
    state = str(model.state) + ("" if model.is_following else ", held")
    _say(console, f"{model.name}: {state}")
    for version in model.versions:
        _say(console, _row(version))
    for style, note in _notes(model, source):
        for line in textwrap.wrap(printable(note), console.width, initial_indent="  ", subsequent_indent="    "):
            _say(console, line, style)


#: Each column has the width of the widest that is at all likely: of 80, so that rows stay rows in any terminal.
_COLUMNS = "  {:<9} {:<9} {:>6}  {:<8}  {:<11}  {:>9}  {:>9}"
_HEAD = _COLUMNS.format("version", "role", "share", "digest", "since, UTC", "run us", "MiB")


def _row(version: "VersionStatus") -> str:
    return _COLUMNS.format(
        version.version,
        version.role,
        f"{version.weight_bp / 100:g}%",
        version.digest[:8],
        f"{version.since:%m-%d %H:%M}",
        f"{version.run_time_ns / 1000:.0f}",
        f"{version.resident_bytes / 2**20:.1f}",
    )


def _notes(model: "ModelStatus", source: str) -> Iterator[tuple[str, str]]:
    """What an operator should know beside the versions: each with its colour."""
    if model.halt is not None:
        yield "yellow", f"halted by {model.halt.actor} at {show_time(model.halt.since)}: {model.halt.reason}"
    desired = model.desired
    if desired is not None and desired.stable:
        by = f", by {desired.actor}: {desired.reason or 'no reason given'}" if desired.actor else ""
        at = f" since {show_time(desired.at)}" if desired.at is not None else ""
        is_there = desired.stable == model.stable
        why_not = f"version {', '.join(model.loading)} is loading" if model.loading else "see below"
        if by or not is_there:
            text = f"version {desired.stable} is desired{at}{by}" + ("" if is_there else f"; {why_not}")
            # There a version policy decides, but for what an operator chose.
            text += f" (tickserve release {model.name})" if by and source == "directory" else ""
            yield ("dim" if is_there else "yellow"), text
    for text in _helpers(model):
        yield "", text
    for override in model.overrides:
        what = "held at what it serves" if override.kind == "held" else f"version {override.version} is out"
        why = f"by {override.actor}: {override.reason or 'no reason given'}"
        yield "yellow", f"{what} since {show_time(override.since)}, {why} (tickserve follow on {model.name})"
    for change in model.failed:
        which = f"version {change.version or '?'} failed"
        when = f"last at {show_time(change.at)} (tried {change.attempts} times)"
        yield "red", f"{which}, {when}: {change.code.name}: {change.message}"


def _helpers(model: "ModelStatus") -> Iterator[str]:
    """What shadow and fallback are to do, and whether they can."""
    desired = model.desired
    if desired is None:
        return
    working = {version.version for version in model.versions} - {change.version for change in model.failed}
    shadow, fallback = desired.shadow, desired.fallback_version
    if shadow is not None:
        whose = f"of version {shadow.of}" if shadow.of else "of every other version"
        what = "gets" if shadow.version in working else "is to get"
        yield f"version {shadow.version} {what} copies of {shadow.fraction_bp / 100:g}% of the requests {whose}"
    if fallback:
        what = "answers" if fallback in working else "is to answer"
        yield f"version {fallback} {what} where another breaks an output rule of policy fallback"


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False)


def show_time(when: datetime) -> str:
    """A time for people."""
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def plain_status(items: list[tuple[str, Any]]) -> Mapping[str, Any]:
    """The fields of a value of the client as JSON has them."""
    return {name: _plain_value(value) for name, value in items}


def _plain_value(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case Code():
            return value.name
        case _:
            return value
