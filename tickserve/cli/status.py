"""`tickserve status`: what one server serves, since when, and what failed; or every server of a registry."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tickserve.cli.connection import Admin, TlsCa, TlsCert, TlsKey, connect
from tickserve.cli.models.options import Artifacts, Json, RegistryUrl
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
    console.print(_models_table(answer.models), highlight=False)
    for model in answer.models:
        if model.halt is not None:
            console.print(
                f"{model.name} was halted by {model.halt.actor} at {show_time(model.halt.since)}: {model.halt.reason}",
                style="yellow",
                markup=False,
                highlight=False,
            )
        desired = model.desired
        if desired is not None and desired.stable and desired.stable != model.stable:
            by = f", by {desired.actor}: {desired.reason}" if desired.actor else ""
            console.print(
                f"{model.name}: version {desired.stable} is desired{by}; "
                + (f"version {', '.join(model.loading)} is loading" if model.loading else "see below"),
                style="yellow",
                markup=False,
                highlight=False,
            )
        for line in _helpers(model):
            console.print(line, markup=False, highlight=False)
        for override in model.overrides:
            what = "is held at what it serves" if override.kind == "held" else f"version {override.version} is out"
            console.print(
                f"{model.name} {what} since {show_time(override.since)}, by {override.actor}: "
                f"{override.reason or 'no reason given'} (tickserve follow on {model.name})",
                style="yellow",
                markup=False,
                highlight=False,
            )
        for change in model.failed:
            console.print(
                f"{model.name} version {change.version or '?'} failed, last at {show_time(change.at)} "
                f"(tried {change.attempts} times): {change.code.name}: {change.message}",
                style="red",
                markup=False,
                highlight=False,
            )


def _helpers(model: "ModelStatus") -> list[str]:
    """What shadow and fallback are to do, and whether they can."""
    desired, lines = model.desired, []
    if desired is None:
        return []
    working = {version.version for version in model.versions} - {change.version for change in model.failed}
    if desired.shadow is not None:
        shadow = desired.shadow
        whose = f"of version {shadow.of}" if shadow.of else "of every other version"
        what = "gets" if shadow.version in working else "is to get"
        lines.append(
            f"{model.name}: version {shadow.version} {what} copies of {shadow.fraction_bp / 100:g}% of the requests "
            f"{whose}"
        )
    if desired.fallback_version:
        version = desired.fallback_version
        what = "answers" if version in working else "is to answer"
        lines.append(f"{model.name}: version {version} {what} where another breaks an output rule of policy fallback")
    return lines


def _models_table(models: "tuple[ModelStatus, ...]") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "state", "version", "role", "share", "digest", "since, UTC", "run us", "MiB"):
        justify: Literal["left", "right"] = "right" if column in ("share", "run us", "MiB") else "left"
        table.add_column(column, justify=justify, no_wrap=True)
    for model in models:
        state = str(model.state) + ("" if model.is_following else ", held")
        if not model.versions:
            table.add_row(escape(model.name), state)
        for index, version in enumerate(model.versions):
            table.add_row(*((escape(model.name), state) if index == 0 else ("", "")), *_version_cells(version))
    return table


def _version_cells(version: "VersionStatus") -> tuple[str, ...]:
    return (
        version.version,
        str(version.role),
        f"{version.weight_bp / 100:g}%",
        version.digest[:8],
        f"{version.since:%m-%d %H:%M}",
        f"{version.run_time_ns / 1000:.0f}",
        f"{version.resident_bytes / 2**20:.1f}",
    )


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
