"""`tickserve split`: which share of the routing keys each version of a model has."""

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickserve.cli.fleet import wait_for_servers
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
    from mlops.registry import Desired, DesiredState, Registry, Share

app = typer.Typer(help="The split: which share of the routing keys each version has.", no_args_is_help=True)
_WHOLE_BP = 10_000


@app.command()
def show(
    model: ModelName,
    key: Annotated[
        list[str],
        typer.Option(help="A routing key: which version has it; may be given several times.", show_default=False),
    ] = [],  # noqa: B006 - typer copies it
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Show the split of a model, where the routing hashes are cut, and who wrote it."""
    with opened(registry, artifacts) as found:
        desired = _desired(found, model)
    _show(desired, key, as_json)


@app.command("set")
def set_(
    model: ModelName,
    reason: Reason,
    shares: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VERSION=PERCENT]...", help="Share of each canary, such as 7=2.5; the live version has the rest."
        ),
    ] = None,
    salt: Annotated[
        str | None,
        typer.Option(help="Another salt of the routing hash: moves every key.", show_default=False),
    ] = None,
    expected_revision: Annotated[
        int | None,
        typer.Option(min=0, show_default=False, help="The model's revision that this was decided on."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Return when every server that reports here serves it.")] = False,
    wait_s: Annotated[float, typer.Option(min=0, help="How long to wait.")] = 60.0,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Give versions a share of the routing keys; a key moves only to a version that grows. Without any: none but live.

    Exit code 1 where somebody else changed the desired state meanwhile.
    """
    from mlops.registry.desired import make_state

    canaries = _canaries(shares or [])
    with opened(registry, artifacts) as found:
        before = _desired(found, model)
        entries: dict[str, Any] = {name: getattr(before.state, name) for name in type(before.state).model_fields}
        entries |= {"split": _split(before.state, canaries), "segments": ()}
        if salt is not None:
            entries["salt"] = salt
        # Without a revision of the caller's the one that was just read: another change in between is not overwritten.
        expected = before.revision if expected_revision is None else expected_revision
        desired = found.set_desired(model, make_state(**entries), author(actor, reason), expected)
        lags = wait_for_servers(found, desired, wait_s) if wait else []
    _show(desired, [], as_json, {"lagging": plain(lags)} if wait else {})
    if not as_json:
        for lag in lags:
            typer.echo(f"{lag.server} lags: {lag.why}")
        if wait and not lags:
            typer.echo("every server that reports here serves it")
    if lags:
        raise typer.Exit(1)


def _desired(registry: "Registry", model: str) -> "Desired":
    desired = registry.desired(model)
    if desired is None or not desired.state.split:
        raise UnknownError(f"model {model!r} has no split yet; promote a version", field="model")
    return desired


def _canaries(texts: list[str]) -> "dict[int, Share]":
    from mlops.registry import Share

    found: dict[int, Share] = {}
    for text in texts:
        version, _, percent = text.partition("=")
        try:
            weight_bp = Decimal(percent.removesuffix("%")) * 100
            if not version.isascii() or not version.isdecimal() or int(version) in found:
                raise ValueError
            if not 1 <= weight_bp < _WHOLE_BP or weight_bp % 1:
                raise ValueError
            share = Share(version=int(version), role="canary", weight_bp=int(weight_bp))
        except (ValueError, InvalidOperation):
            raise typer.BadParameter(
                f"share {text!r}: VERSION=PERCENT is expected, each version once, from 0.01 to 99.99 in steps of 0.01; "
                "`models promote` gives a version everything"
            ) from None
        found[share.version] = share
    given_bp = sum(share.weight_bp for share in found.values())
    if given_bp >= _WHOLE_BP:
        raise typer.BadParameter(f"the shares sum to {given_bp / 100:g}%; some must be left for the live version")
    return found


def _split(state: "DesiredState", canaries: "dict[int, Share]") -> "tuple[Share, ...]":
    from mlops.registry import Share

    stable = state.named("stable")
    if stable in canaries:
        raise typer.BadParameter(f"version {stable} is the live one, which has what the others leave; name the others")
    assert stable is not None  # noqa: S101 - every split has one
    rest = _WHOLE_BP - sum(share.weight_bp for share in canaries.values())
    return (*canaries.values(), Share(version=stable, role="stable", weight_bp=rest))


def _show(desired: "Desired", keys: list[str], as_json: bool, more: dict[str, Any] | None = None) -> None:
    from mlops.routing import key_bucket, split_table

    state = desired.state
    salt = state.salt.encode()
    table = split_table(salt, state.layout())
    placed = [
        {"key": key, "version": int(table.version(key.encode())), "key_bucket": key_bucket(salt, key.encode())}
        for key in keys
    ]
    if as_json:
        layout = [{"version": int(each.version), "upto_bp": each.upto_bp} for each in state.layout()]
        facts = {name: plain(getattr(desired, name)) for name in ("model", "revision", "at", "actor", "reason")}
        split = {"split": [plain(share) for share in state.split], "salt": state.salt, "segments": layout}
        print_json(facts | split | ({"keys": placed} if keys else {}) | (more or {}))
        return
    print_table(
        ("version", "role", "share", "of the routing hashes"),
        [
            (share.version, share.role, f"{share.weight_bp / 100:g}%", _parts(state, share.version))
            for share in state.split
        ],
        title=f"{desired.model}, revision {desired.revision}, by {desired.actor}: {desired.reason}",
    )
    if keys:
        print_table(("key", "version", "key bucket"), [tuple(each.values()) for each in placed])


def _parts(state: "DesiredState", version: int) -> str:
    start, parts = 0, []
    for segment in state.layout():
        if segment.version == str(version):
            parts.append(f"{start / 100:g}% to {segment.upto_bp / 100:g}%")
        start = segment.upto_bp
    return ", ".join(parts)
