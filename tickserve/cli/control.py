"""What operates one server over its admin listener: halt, resume, follow, rollback, choose, release, events, drain."""

import json
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tickserve.cli.changing import Asked, changes, changes_with_reason
from tickserve.cli.connection import operates
from tickserve.cli.models.options import Json, ModelName, printable
from tickserve.cli.status import plain_status, show_time
from tickserve.errors import Code, ControlError, UnreachableError

if TYPE_CHECKING:
    from tickserve.client import Change, ControlClient, ModelStatus

_Model = Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One model.", show_default=False)]
_All = Annotated[bool, typer.Option("--all", help="Every model.")]


@changes_with_reason
def halt(control: "ControlClient", asked: Asked, model: _Model = None, everything: _All = False) -> None:
    """Stop the answers of one model, or of all, until resume; the reason is shown to whoever is refused."""
    _require_one(model, everything)
    who = {"reason": asked.reason, "actor": asked.actor}
    _show_change("halted", control.halt(model, **who) if model else control.halt_all(**who), asked)


@changes
def resume(control: "ControlClient", asked: Asked, model: _Model = None, everything: _All = False) -> None:
    """End the halt of one model, or of all."""
    _require_one(model, everything)
    who = {"reason": asked.reason, "actor": asked.actor}
    _show_change("resumed", control.resume(model, **who) if model else control.resume_all(**who), asked)


@changes
def rollback(control: "ControlClient", asked: Asked, model: ModelName) -> None:
    """Make the version that a server keeps warm answer everything, at once, and say so in desired state."""
    done = control.rollback(model, actor=asked.actor, reason=asked.reason)
    facts = {"model": model, "version": done.version, "not_desired": done.not_desired}
    asked.show(facts, f"{model}: version {done.version} answers")
    if done.not_desired:
        raise UnreachableError(
            f"version {done.version} answers at this server, but desired state does not say so, and no other server "
            f"follows: {done.not_desired}"
        )


class _Switch(StrEnum):
    ON = "on"
    OFF = "off"


@changes
def follow(
    control: "ControlClient",
    asked: Asked,
    switch: Annotated[_Switch, typer.Argument(help="off holds models at what they serve; on ends that.")],
    model: _Model = None,
    everything: _All = False,
) -> None:
    """Hold a server at what it serves, or let it follow desired state again, versions that were taken out too."""
    _require_one(model, everything)
    act = control.follow if switch is _Switch.ON else control.hold
    models = act(model or "", actor=asked.actor, reason=asked.reason)
    verb = "following" if switch is _Switch.ON else "held"
    asked.show({"models": models}, f"{verb}: {', '.join(models) or 'nothing changed'}")


@changes_with_reason
def choose(
    control: "ControlClient",
    asked: Asked,
    model: ModelName,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version number, a folder of the model.")],
    position_scale: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Factor for positions; by default what it is.", show_default=False),
    ] = None,
    schema_override: Annotated[
        bool, typer.Option("--schema-override", help="Accept that its schema is another one.")
    ] = False,
) -> None:
    """Make one version of a models directory answer everything, whatever the version policy says."""
    found = _of_directory(control, model)
    desired = found.desired
    before = desired.position_scale if desired is not None else None
    scales = (scale for scale in (position_scale, before) if scale is not None)
    revision = control.set_desired(
        model,
        version,
        actor=asked.actor,
        reason=asked.reason,
        expected_revision=desired.revision if desired is not None else 0,
        position_scale=next(scales, 1.0),
        schema_override=schema_override,
    )
    asked.show(
        {"model": model, "version": version, "revision": revision},
        f"{model}: version {version} is desired, revision {revision}",
    )


@changes_with_reason
def release(control: "ControlClient", asked: Asked, model: ModelName) -> None:
    """Give a model back to the version policy of the models directory, after choose."""
    desired = _of_directory(control, model).desired
    revision = control.set_desired(
        model,
        "",
        actor=asked.actor,
        reason=asked.reason,
        expected_revision=desired.revision if desired is not None else 0,
    )
    asked.show({"model": model, "revision": revision}, f"{model}: the version policy decides, revision {revision}")


@operates
def events(
    control: "ControlClient",
    after: Annotated[int, typer.Option(min=0, max=(1 << 63) - 1, help="Begin after this sequence.")] = 0,
    until_now: Annotated[bool, typer.Option("--until-now", help="End with the newest one there is.")] = False,
    as_json: Json = False,
) -> None:
    """Show what changed at a server, and what changes, until Ctrl-C."""
    for event in control.past_events(after) if until_now else control.events(after):
        if as_json:
            typer.echo(json.dumps(asdict(event, dict_factory=plain_status)))
            continue
        which = " ".join(filter(None, (event.model, event.version and f"version {event.version}")))
        who = f" by {event.actor}" if event.actor else ""
        what = f": {event.message}" if event.message else ""
        line = printable(f"{event.sequence} {show_time(event.at)} {event.kind} {which}{who}{what}")
        typer.echo(line.replace("\n", "\\n"))


@changes
def drain(control: "ControlClient", asked: Asked) -> None:
    """Make a server refuse new requests, answer those in flight, and exit."""
    control.drain(actor=asked.actor, reason=asked.reason)
    asked.show({"state": "draining"}, "draining")


def _require_one(model: str | None, everything: bool) -> None:
    if bool(model) == everything:
        raise typer.BadParameter("name one model, or give --all")


def _show_change(verb: str, change: "Change", asked: Asked) -> None:
    text = f"{verb}: {', '.join(change.models) or 'nothing'} (plan generation {change.plan_generation})"
    asked.show(asdict(change), text)


def _of_directory(control: "ControlClient", model: str) -> "ModelStatus":
    """The model at a server that serves a directory: the desired state of a registry has commands of its own."""
    status = control.status()
    if status.source != "directory":
        raise ControlError(
            f"this server follows the {status.source}; `tickserve models promote` and `tickserve desired set` say what "
            "it serves",
            code=Code.FAILED_PRECONDITION,
        )
    found = status.model(model)
    if found is None:
        known = ", ".join(each.name for each in status.models) or "none"
        raise ControlError(f"unknown model {model!r}; models here: {known}", code=Code.NOT_FOUND, field="model")
    return found
