"""Commands that change the registry; each says who did it and why."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickserve.cli.fleet import wait_for_servers
from tickserve.cli.models.options import (
    Actor,
    Artifacts,
    Json,
    ModelName,
    Number,
    Reason,
    RegistryUrl,
    author,
    opened,
    opened_or_made,
    parse_pairs,
    plain,
    print_json,
    print_table,
)
from tickserve.home import home

if TYPE_CHECKING:
    from mlops.registry import Desired, GateReport, Version

_Fact = Annotated[str | None, typer.Option(show_default=False)]
_Tags = Annotated[list[str], typer.Option("--tag", help="name=value; may be given several times.")]


def register(
    package: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the package.")],
    label: Annotated[str | None, typer.Option(help="Semantic version, such as 1.4.0.", show_default=False)] = None,
    author_name: Annotated[str, typer.Option("--author", help="Who made it.", show_default=False)] = "",
    description: Annotated[str, typer.Option(help="What it is.", show_default=False)] = "",
    metadata: Annotated[str, typer.Option(help="Anything else, as a JSON object.")] = "{}",
    evaluation: Annotated[
        list[str],
        typer.Option(
            help="DATASET=FILE.npz with time, prediction, outcome and return of each row.", show_default=False
        ),
    ] = [],  # noqa: B006 - typer copies it
    sign: Annotated[str, typer.Option(help="Sign it with this key of TICKSERVE_HOME/keys.", show_default=False)] = "",
    reason: Reason = "",
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Verify a package and make it its model's next version; the same package again is the same version."""
    from mlops.package import load_private_key, sign_package
    from mlops.package.npz import read_arrays
    from mlops.registry import Registration

    files = parse_pairs(evaluation, "evaluation")
    tables = {name: read_arrays(_read_bytes(Path(file)), file) for name, file in files.items()}
    registration = Registration(
        label=label,
        author=author_name,
        description=description,
        metadata=_parse_object(metadata),
        evaluations=tables,
    )
    if sign:
        sign_package(package, load_private_key(home() / "keys", sign))
    with opened_or_made(registry, artifacts) as found:
        version = found.register(package, author(actor, reason), registration)
    _show_version(version, as_json)


def edit(
    model: ModelName,
    strategy_type: _Fact = None,
    universe: _Fact = None,
    model_type: _Fact = None,
    description: _Fact = None,
    tag: _Tags = [],  # noqa: B006
    untag: Annotated[list[str], typer.Option(help="Name of a tag to remove.", show_default=False)] = [],  # noqa: B006
    reason: Reason = "",
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Change what a model is for, and its tags."""
    from dataclasses import replace

    given = {
        "strategy_type": strategy_type,
        "universe": universe,
        "model_type": model_type,
        "description": description,
    }
    with opened(registry, artifacts) as found:
        facts = found.model(model).facts
        tags = {name: value for name, value in facts.tags.items() if name not in untag} | parse_pairs(tag, "tag")
        changed = {name: value for name, value in given.items() if value is not None}
        found.set_facts(model, replace(facts, tags=tags, **changed), author(actor, reason))
        after = found.model(model)
    if as_json:
        print_json(after)
    else:
        typer.echo(f"{model}: {', '.join(f'{name}={value}' for name, value in plain(after.facts).items() if value)}")


def approve(
    model: ModelName,
    version: Number,
    reason: Reason,
    inconclusive: Annotated[
        bool, typer.Option("--inconclusive", help="Also let it be promoted where a gate cannot decide.")
    ] = False,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Let a version be promoted."""
    who = author(actor, reason)
    with opened(registry, artifacts) as found:
        approved = found.approve(model, version, who)
        if inconclusive:
            approved = found.approve_inconclusive(model, version, who)
    _show_version(approved, as_json)


def check(
    model: ModelName,
    version: Number,
    reason: Reason = "",
    policy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, show_default=False, help="TOML with the levels of the gates."),
    ] = None,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Run the gates and keep their result, without promoting. Exit 1 where they do not pass."""
    from mlops.registry.gates import GatePolicy, read_policy

    levels = read_policy(policy) if policy else GatePolicy()
    with opened(registry, artifacts) as found:
        report = found.check(model, version, author(actor, reason), levels)
    _show_report(report, as_json)
    if report.verdict != "pass":
        raise typer.Exit(1)


def promote(
    model: ModelName,
    version: Number,
    reason: Reason,
    expected_revision: Annotated[
        int | None,
        typer.Option(min=0, show_default=False, help="The model's revision that this was decided on."),
    ] = None,
    schema_override: Annotated[
        bool, typer.Option("--schema-override", help="Clients are ready for its other schema.")
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, show_default=False, help="TOML with the levels of the gates."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when every server serves it.")] = False,
    wait_s: Annotated[float, typer.Option(min=0.1, help="How long --wait waits, in seconds.")] = 60.0,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Make an approved version the live one, if its gates let it. Exit 1 where they do not, or a server lags."""
    from mlops.registry import GateError
    from mlops.registry.gates import GatePolicy, read_policy

    levels = read_policy(policy) if policy else GatePolicy()
    with opened(registry, artifacts) as found:
        try:
            desired, report = found.promote(
                model,
                version,
                author(actor, reason),
                levels,
                expected=expected_revision,
                schema_override=version if schema_override else 0,
            )
        except GateError as error:
            _show_report(error.report, as_json)
            raise
        lags = wait_for_servers(found, desired, wait_s) if wait else []
    if as_json:
        waited = {"lagging": plain(lags)} if wait else {}
        print_json({"desired": desired, "gates": report.as_json(), **waited})
    else:
        _show_report(report, as_json)
        _show_desired(desired, f"version {version} is meant to be live")
        for lag in lags:
            typer.echo(f"{lag.server} lags: {lag.why}")
        if wait and not lags:
            typer.echo("every server that reports here serves it")
    if lags:
        raise typer.Exit(1)


def rollback(
    model: ModelName,
    reason: Reason,
    expected_revision: Annotated[
        int | None,
        typer.Option(min=0, show_default=False, help="The model's revision that this was decided on."),
    ] = None,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Make the version that was live before live again; done twice, it goes back further."""
    with opened(registry, artifacts) as found:
        desired = found.rollback(model, author(actor, reason), expected_revision)
    if as_json:
        print_json(desired)
    else:
        _show_desired(desired, f"version {desired.state.named('stable')} is meant to be live again")


def retire(
    model: ModelName,
    version: Number,
    reason: Reason,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Take a version out of use; refused while desired state, an alias or a server has it."""
    with opened(registry, artifacts) as found:
        _show_version(found.retire(model, version, author(actor, reason)), as_json)


def delete(
    model: ModelName,
    version: Number,
    reason: Reason,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Delete a version for good; refused while anything uses it. Its number is never given again."""
    if not yes:
        typer.confirm(f"Delete version {version} of {model}?", abort=True)
    with opened(registry, artifacts) as found:
        _show_version(found.delete(model, version, author(actor, reason)), as_json)


def label(
    model: ModelName,
    version: Number,
    label: Annotated[str | None, typer.Argument(help="Semantic version; without it the label is removed.")] = None,
    reason: Reason = "",
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Label a version with a semantic version."""
    with opened(registry, artifacts) as found:
        _show_version(found.set_label(model, version, label, author(actor, reason)), as_json)


def alias(
    model: ModelName,
    name: Annotated[str | None, typer.Argument(metavar="ALIAS", help="Without it: list.")] = None,
    version: Annotated[int | None, typer.Argument(min=1, help="Where it points.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
    reason: Reason = "",
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """List a model's aliases, point one at a version, or remove one."""
    if remove and (name is None or version is not None):
        raise typer.BadParameter("--remove takes the alias and no version")
    if name is not None and version is None and not remove:
        raise typer.BadParameter(f"say which version {name!r} points at, or --remove")
    with opened(registry, artifacts) as found:
        if name is not None and version is not None:
            found.set_alias(model, name, version, author(actor, reason))
        elif name is not None:
            found.remove_alias(model, name, author(actor, reason))
        aliases = found.aliases(model)
    if as_json:
        print_json(dict(aliases))
    else:
        print_table(("alias", "version"), list(aliases.items()))


def log_metrics(
    model: ModelName,
    version: Number,
    metric: Annotated[list[str], typer.Argument(help="name=value, or name=value:standard_error.")],
    dataset: Annotated[str, typer.Option(help="Such as backtest or live.")],
    n: Annotated[int, typer.Option(min=0, help="Rows that they were measured on.")] = 0,
    step: Annotated[int, typer.Option(min=0, help="Step of training, or day.")] = 0,
    reason: Reason = "",
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Append figures of a version on one data set."""
    from mlops.package import Metric

    figures: dict[str, Metric | float] = {}
    for name, text in parse_pairs(metric, "metric").items():
        value, sign, error = text.partition(":")
        try:
            figures[name] = (
                Metric(value=float(value), standard_error=float(error) if sign else None, n=n)
                if value.lower() != "nan"
                else float("nan")
            )
        except ValueError:
            raise typer.BadParameter(f"metric {name}={text}: a finite number is expected, or nan") from None
    with opened(registry, artifacts) as found:
        found.log_metrics(model, version, dataset, figures, author(actor, reason), step)
    if as_json:
        print_json({"model": model, "version": version, "dataset": dataset, "logged": sorted(figures)})
    else:
        typer.echo(f"{len(figures)} figures of {model} version {version} on {dataset}")


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from None


def _parse_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"metadata is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("metadata must be a JSON object")
    return value


def _show_version(version: "Version", as_json: bool) -> None:
    if as_json:
        print_json(version)
    else:
        label = f" ({version.label})" if version.label else ""
        typer.echo(
            f"{version.model} version {version.version}{label} is {version.status}, digest {version.digest[:12]}"
        )


def _show_desired(desired: "Desired", text: str) -> None:
    typer.echo(f"{desired.model}: {text} (revision {desired.revision})")


def _show_report(report: "GateReport", as_json: bool) -> None:
    if as_json:
        print_json(report.as_json())
        return
    typer.echo(f"gates: {report.verdict}")
    if report.gates:
        print_table(("gate", "verdict", "why"), [(gate.name, gate.verdict, gate.text) for gate in report.gates])
