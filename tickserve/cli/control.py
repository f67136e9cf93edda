"""What operates one server over its admin listener: status, halt, resume, follow, rollback, events, drain."""

import getpass
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tickserve.cli.connection import Admin, TlsCa, TlsCert, TlsKey, connect, operates
from tickserve.cli.models.options import Artifacts, RegistryUrl
from tickserve.errors import Code

if TYPE_CHECKING:
    from tickserve.client import Change, ControlClient, ModelStatus, ServerStatus, VersionStatus

_Model = Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One model.", show_default=False)]
_All = Annotated[bool, typer.Option("--all", help="Every model.")]
_Actor = Annotated[str | None, typer.Option(help="Who asks; by default the login name.", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def status(
    everything: Annotated[bool, typer.Option("--all", help="Every server that reports to the registry.")] = False,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    admin: Admin = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    as_json: _Json = False,
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
        typer.echo(json.dumps(asdict(answer, dict_factory=_plain), indent=2))
    else:
        _show(answer, Console())


@operates
def halt(
    control: "ControlClient",
    reason: Annotated[str, typer.Option(help="Why; shown to whoever is refused.")],
    model: _Model = None,
    everything: _All = False,
    actor: _Actor = None,
    as_json: _Json = False,
) -> None:
    """Stop the answers of one model, or of all, until resume."""
    _require_one(model, everything)
    who = _who(actor)
    change = control.halt(model, reason=reason, actor=who) if model else control.halt_all(reason=reason, actor=who)
    _show_change("halted", change, as_json)


@operates
def resume(
    control: "ControlClient",
    model: _Model = None,
    everything: _All = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    actor: _Actor = None,
    as_json: _Json = False,
) -> None:
    """End the halt of one model, or of all."""
    _require_one(model, everything)
    who = _who(actor)
    change = control.resume(model, reason=reason, actor=who) if model else control.resume_all(reason=reason, actor=who)
    _show_change("resumed", change, as_json)


@operates
def rollback(
    control: "ControlClient",
    model: Annotated[str, typer.Argument(metavar="MODEL", help="One model.")],
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    actor: _Actor = None,
    as_json: _Json = False,
) -> None:
    """Make the version that a server keeps warm answer everything, at once, and say so in desired state."""
    version = control.rollback(model, actor=_who(actor), reason=reason)
    typer.echo(json.dumps({"model": model, "version": version}) if as_json else f"{model}: version {version} answers")


class _Switch(StrEnum):
    ON = "on"
    OFF = "off"


@operates
def follow(
    control: "ControlClient",
    switch: Annotated[_Switch, typer.Argument(help="off holds models at what they serve; on ends that.")],
    model: _Model = None,
    everything: _All = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    actor: _Actor = None,
    as_json: _Json = False,
) -> None:
    """Hold a server at what it serves, or let it follow desired state again, versions that were taken out too."""
    _require_one(model, everything)
    act = control.follow if switch is _Switch.ON else control.hold
    models = act(model or "", actor=_who(actor), reason=reason)
    verb = "following" if switch is _Switch.ON else "held"
    typer.echo(json.dumps({"models": models}) if as_json else f"{verb}: {', '.join(models) or 'nothing changed'}")


@operates
def events(
    control: "ControlClient",
    after: Annotated[int, typer.Option(min=0, help="Begin after this sequence.")] = 0,
    as_json: _Json = False,
) -> None:
    """Show what changed at a server, and what changes, until Ctrl-C."""
    for event in control.events(after):
        if as_json:
            typer.echo(json.dumps(asdict(event, dict_factory=_plain)))
            continue
        which = " ".join(filter(None, (event.model, event.version and f"version {event.version}")))
        who = f" by {event.actor}" if event.actor else ""
        what = f": {event.message}" if event.message else ""
        typer.echo(f"{event.sequence} {_time(event.at)} {event.kind} {which}{who}{what}")


@operates
def drain(
    control: "ControlClient",
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    actor: _Actor = None,
    as_json: _Json = False,
) -> None:
    """Make a server refuse new requests, answer those in flight, and exit."""
    control.drain(actor=_who(actor), reason=reason)
    typer.echo(json.dumps({"state": "draining"}) if as_json else "draining")


def _require_one(model: str | None, everything: bool) -> None:
    if bool(model) == everything:
        raise typer.BadParameter("name one model, or give --all")


def _who(actor: str | None) -> str:
    if actor:
        return actor
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise typer.BadParameter("this user has no login name; say who asks with --actor") from None


def _show_change(verb: str, change: "Change", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(change)))
    else:
        typer.echo(f"{verb}: {', '.join(change.models) or 'nothing'} (plan generation {change.plan_generation})")


def _show(answer: "ServerStatus", console: Console) -> None:
    facts = Table.grid(padding=(0, 2))
    for name, fact in (
        ("server", f"{answer.server_id}, tickserve {answer.server_version}, {answer.engine} engine"),
        ("state", f"{answer.state} since {_time(answer.started_at)}, plan generation {answer.plan_generation}"),
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
                f"{model.name} was halted by {model.halt.actor} at {_time(model.halt.since)}: {model.halt.reason}",
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
        for override in model.overrides:
            what = "is held at what it serves" if override.kind == "held" else f"version {override.version} is out"
            console.print(
                f"{model.name} {what} since {_time(override.since)}, by {override.actor}: "
                f"{override.reason or 'no reason given'} (tickserve follow on {model.name})",
                style="yellow",
                markup=False,
                highlight=False,
            )
        for change in model.failed:
            console.print(
                f"{model.name} version {change.version or '?'} failed, last at {_time(change.at)} "
                f"(tried {change.attempts} times): {change.code.name}: {change.message}",
                style="red",
                markup=False,
                highlight=False,
            )


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


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def _plain(items: list[tuple[str, Any]]) -> Mapping[str, Any]:
    return {name: _plain_value(value) for name, value in items}


def _plain_value(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case Code():
            return value.name
        case _:
            return value
