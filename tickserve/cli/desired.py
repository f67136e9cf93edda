"""`tickserve desired`: what is meant to be served for one model, beside which version is live."""

import secrets
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickserve.cli.models.options import (
    Actor,
    Artifacts,
    Json,
    ModelName,
    Reason,
    RegistryUrl,
    author,
    opened,
    plain,
    print_json,
    print_table,
)
from tickserve.errors import UnknownError

if TYPE_CHECKING:
    from mlops.registry import AllowedPin, Author, Desired, DesiredState, HaltEntry, RuleOverride, Shadow

app = typer.Typer(help="Desired state: scale, halt, shadow, fallback, pins and rule overrides.", no_args_is_help=True)


@app.command()
def show(model: ModelName, registry: RegistryUrl = "", artifacts: Artifacts = "", as_json: Json = False) -> None:
    """Show the desired state of a model, and who wrote it."""
    with opened(registry, artifacts) as found:
        desired = found.desired(model)
    if desired is None:
        raise UnknownError(f"model {model!r} has no desired state yet; promote a version", field="model")
    _show(desired, as_json)


@app.command("set")
def set_(
    model: ModelName,
    reason: Reason,
    position_scale: Annotated[
        float | None, typer.Option(min=0, max=1, help="Factor for positions.", show_default=False)
    ] = None,
    fallback: Annotated[
        int | None, typer.Option(min=0, help="Version that answers for one that breaks a rule; 0 for none.")
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            help="VERSION=PERCENT or VERSION=PERCENT:OF: the version gets copies of so many requests, of version OF or "
            "of all others; none for none.",
            show_default=False,
        ),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            help="VERSION or VERSION=CLIENT;CLIENT, a client such as subject:CN=desk or ipv4:10.0.0.1; replaces all "
            "pins; none for none.",
            show_default=False,
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="RULE=POLICY, RULE=POLICY:MINIMUM:MAXIMUM or RULE= to restore the package's.", show_default=False
        ),
    ] = None,
    halt: Annotated[
        bool | None,
        typer.Option("--halt/--no-halt", help="Stop the model at every server, or end that.", show_default=False),
    ] = None,
    expected_revision: Annotated[
        int | None,
        typer.Option(min=0, show_default=False, help="The model's revision that this was decided on."),
    ] = None,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Change parts of the desired state; what is not named stays."""
    from mlops.registry.desired import make_state

    with opened(registry, artifacts) as found:
        before = found.desired(model)
        if before is None:
            raise UnknownError(f"model {model!r} has no desired state yet; promote a version", field="model")
        state = before.state
        entries: dict[str, Any] = {name: getattr(state, name) for name in type(state).model_fields}
        if position_scale is not None:
            entries["position_scale"] = position_scale
        if fallback is not None:
            entries["fallback_version"] = fallback or None
        if shadow is not None:
            entries["shadow"] = _shadow(shadow, state.shadow)
        if pin is not None:
            entries["allowed_pins"] = _pins(pin)
        if rule is not None:
            entries["rule_overrides"] = _rules(state.rule_overrides, rule)
        who = author(actor, reason)
        if halt is not None:
            entries["halt"] = _halt(state, who) if halt else None
        # Without a revision of the caller's the one that was just read: another change in between is not overwritten.
        expected = before.revision if expected_revision is None else expected_revision
        desired = found.set_desired(model, make_state(**entries), who, expected)
    _show(desired, as_json)


def _halt(before: "DesiredState", who: "Author") -> "HaltEntry":
    """A halt that is there stays the one that it is."""
    from mlops.registry import HaltEntry

    return before.halt or HaltEntry(reason=who.reason, actor=who.actor, since=datetime.now(UTC).isoformat())


def _shadow(text: str, before: "Shadow | None") -> "Shadow | None":
    from pydantic import ValidationError

    from mlops.registry import Shadow

    if text == "none":
        return None
    version, sign, rest = text.partition("=")
    percent, colon, of = rest.partition(":")
    try:
        fraction_bp = Decimal(percent.removesuffix("%")) * 100
        if not sign or fraction_bp % 1 or (colon and not of):
            raise ValueError
        # The sample of a shadow that grows holds what it held; it has nothing to do with who is routed where.
        salt = before.salt if before is not None else secrets.token_hex(8)
        return Shadow(version=int(version), fraction_bp=int(fraction_bp), salt=salt, of=int(of) if of else None)
    except (ValueError, InvalidOperation, ValidationError):
        raise typer.BadParameter(
            f"shadow {text!r}: VERSION=PERCENT or VERSION=PERCENT:OF is expected, from 0.01 to 100 in steps of 0.01, "
            "and OF another version"
        ) from None


def _pins(texts: list[str]) -> "tuple[AllowedPin, ...]":
    from pydantic import ValidationError

    from mlops.registry import AllowedPin

    if texts == ["none"]:
        return ()
    pins = []
    for text in texts:
        version, _, clients = text.partition("=")
        # Commas part the clients too, but for the subject of a certificate, which has commas of its own.
        separator = ";" if ";" in clients or "subject:" in clients else ","
        try:
            pins.append(AllowedPin(version=int(version), clients=tuple(filter(None, clients.split(separator)))))
        except (ValueError, ValidationError):
            raise typer.BadParameter(f"pin {text!r}: VERSION or VERSION=CLIENT;CLIENT is expected") from None
    return tuple(pins)


def _rules(before: "tuple[RuleOverride, ...]", texts: list[str]) -> "tuple[RuleOverride, ...]":
    from pydantic import ValidationError

    from mlops.registry import RuleOverride

    rules = {override.rule: override for override in before}
    for text in texts:
        name, sign, change = text.partition("=")
        policy, *bounds = change.split(":")
        try:
            if not name or not sign or len(bounds) not in (0, 2):
                raise ValueError
            if not change:
                rules.pop(name, None)
                continue
            low, high = (float(bound) if bound else None for bound in bounds or ("", ""))
            rules[name] = RuleOverride(rule=name, policy=policy or None, minimum=low, maximum=high)  # type: ignore[arg-type]
        except (ValueError, ValidationError):
            raise typer.BadParameter(
                f"rule {text!r}: RULE=POLICY:MINIMUM:MAXIMUM is expected; policies are reject, clip, flag, fallback"
            ) from None
    return tuple(rules[name] for name in sorted(rules))


def _show(desired: "Desired", as_json: bool) -> None:
    if as_json:
        print_json(desired)
        return
    facts: dict[str, Any] = {
        "model": desired.model,
        "revision": desired.revision,
        "since, UTC": desired.at,
        "by": desired.actor,
        "why": desired.reason,
    }
    print_table(("", ""), list((facts | plain(desired.state)).items()))
