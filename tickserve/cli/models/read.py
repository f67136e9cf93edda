"""Commands that only read the registry."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tickserve.cli.models.options import (
    Artifacts,
    Json,
    Limit,
    ModelName,
    Reference,
    RegistryUrl,
    cell,
    opened,
    parse_moment,
    parse_pairs,
    plain,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from mlops.registry import Desired, MetricRow
    from mlops.registry.compare import Figure

_Filter = Annotated[str | None, typer.Option(show_default=False)]


def list_versions(
    model: Annotated[str | None, typer.Argument(help="One model; without it every model.")] = None,
    status: Annotated[str | None, typer.Option(help="Only versions of this status.", show_default=False)] = None,
    by_label: Annotated[bool, typer.Option("--by-label", help="Labelled ones, by semantic version.")] = False,
    before: Annotated[int | None, typer.Option(help="The next page: versions below this.", show_default=False)] = None,
    after: Annotated[
        str, typer.Option(help="The next page: models behind this name, or labels behind this one.", show_default=False)
    ] = "",
    limit: Limit = 100,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """List models, or the versions of one model, newest first."""
    if model is None:
        if status or by_label or before is not None:
            raise typer.BadParameter("--status, --by-label and --before are about the versions of one model: name it")
        search(after=after, limit=limit, registry=registry, artifacts=artifacts, as_json=as_json)
        return
    from mlops.registry import Status

    if by_label and (status or before is not None):
        raise typer.BadParameter(
            "--by-label lists labelled versions of any status; it takes neither --status nor --before"
        )
    try:
        wanted = Status(status) if status else None
    except ValueError:
        raise typer.BadParameter(f"status is one of {', '.join(Status)}") from None
    with opened(registry, artifacts) as found:
        versions = (
            found.labelled(model, after=after, limit=limit)
            if by_label
            else found.versions(model, before=before, status=wanted, limit=limit)
        )
        desired = found.desired(model)
    roles = {share.version: share.role for share in desired.state.split} if desired else {}
    if as_json:
        print_json([plain(version) | {"role": roles.get(version.version)} for version in versions])
        return
    print_table(
        ("version", "label", "status", "role", "digest", "author", "registered, UTC"),
        [
            (v.version, v.label, v.status, roles.get(v.version), v.digest[:12], v.author, v.registered_at)
            for v in versions
        ],
    )


def search(
    text: Annotated[str, typer.Argument(help="Part of a name or description.", show_default=False)] = "",
    strategy_type: _Filter = None,
    universe: _Filter = None,
    model_type: _Filter = None,
    tag: Annotated[list[str], typer.Option(help="name=value; all must match.", show_default=False)] = [],  # noqa: B006
    after: Annotated[str, typer.Option(help="The next page: models behind this name.", show_default=False)] = "",
    limit: Limit = 100,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Find models by name, strategy type, symbol or universe, model type and tags."""
    with opened(registry, artifacts) as found:
        models = found.search(
            text,
            strategy_type=strategy_type,
            universe=universe,
            model_type=model_type,
            tags=tuple(parse_pairs(tag, "tag").items()),
            after=after,
            limit=limit,
        )
    if as_json:
        print_json(models)
        return
    print_table(
        ("model", "strategy type", "universe", "model type", "tags", "newest", "live"),
        [
            (
                m.name,
                m.facts.strategy_type,
                m.facts.universe,
                m.facts.model_type,
                ", ".join(f"{name}={value}" for name, value in m.facts.tags.items()),
                m.newest,
                m.live,
            )
            for m in models
        ],
    )


def show(
    model: ModelName,
    version: Annotated[str | None, typer.Argument(help="Number, live, canary, alias or semantic version.")] = None,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Show a model, or one version with everything that is known of it."""
    with opened(registry, artifacts) as found:
        if version is None:
            facts: dict[str, Any] = plain(found.model(model)) | {
                "aliases": dict(found.aliases(model)),
                "desired": plain(found.desired(model)),
            }
            if as_json:
                print_json(facts)
            else:
                _show_facts(facts | facts.pop("facts"))
            return
        wanted = found.resolve(model, version)
        metrics, runs, manifest = found.metrics(wanted), found.runs(model, wanted.version), found.manifest(wanted)
        approvals, gates = found.approvals(wanted), found.gate_evaluations(wanted)
    if as_json:
        facts = {"version": wanted, "metrics": metrics, "runs": runs, "manifest": manifest}
        print_json(facts | {"approvals": approvals, "gates": gates})
        return
    _show_facts(plain(wanted))
    datasets = [(name, d.rows, d.first, d.last, d.fingerprint[:12]) for name, d in manifest.datasets.items()]
    print_table(("data set", "rows", "first", "last", "fingerprint"), datasets, "data")
    _show_metrics(metrics)
    for run in runs:
        _show_facts({"training run": run.run} | {name: value for name, value in plain(run.facts).items() if value})
    if approvals:
        print_table(
            ("of", "by", "when, UTC", "why"), [(a.kind, a.actor, a.at, a.reason) for a in approvals], "approvals"
        )
    if gates:
        last = gates[0]
        print_table(
            ("gate", "verdict", "why"),
            [(gate["name"], gate["verdict"], gate["text"]) for gate in last.report["gates"]],
            f"gates of the last {last.action}: {last.verdict}, against {last.live or 'nothing live'}",
        )


def compare(
    model: ModelName,
    left: Reference,
    right: Reference,
    with_model: Annotated[str | None, typer.Option(help="Model of the second version.", show_default=False)] = None,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Put two versions side by side: figures with 95% intervals, schema, data."""
    with opened(registry, artifacts) as found:
        pair = found.compare((model, left), (with_model or model, right))
    if as_json:
        print_json(pair)
        return
    names = [f"{v.model} {v.version}" for v in (pair.left, pair.right)]
    print_table(
        ("data set", "metric", *names, "better"),
        [
            (m.dataset, m.name, _figure(m.left), _figure(m.right), {"left": names[0], "right": names[1]}.get(m.better))
            for m in pair.metrics
        ],
        "figures with 95% intervals; one is better where they do not overlap",
    )
    print_table(("schema",), [(change,) for change in pair.schema or ("the same",)])
    print_table(
        ("data set", *names, ""),
        [(d.dataset, d.left, d.right, "same" if d.is_same else "differs") for d in pair.datasets],
    )


def history(
    model: Annotated[str | None, typer.Argument(help="One model; without it everything.")] = None,
    version: Annotated[int | None, typer.Argument(min=1, help="One version.")] = None,
    before: Annotated[
        int | None, typer.Option(help="The next page: changes below this sequence.", show_default=False)
    ] = None,
    limit: Limit = 100,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Show who changed what, when and why, newest first."""
    with opened(registry, artifacts) as found:
        changes = found.history(model, version, before=before, limit=limit)
    if as_json:
        print_json(changes)
        return
    print_table(
        ("no.", "when, UTC", "who", "what", "model", "version", "why"),
        [(c.sequence, c.at, c.actor, c.action, c.model, c.version, c.reason) for c in changes],
    )


def as_of(
    model: ModelName,
    at: Annotated[str, typer.Argument(metavar="TIME", help="ISO 8601 with a zone: 2026-01-31T09:30:00Z.")],
    actual: Annotated[bool, typer.Option("--actual", help="What each server served, by its own reports.")] = False,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Show what was meant to be live at a time, or what was. Exit 1 where nothing was."""
    moment = parse_moment(at)
    with opened(registry, artifacts) as found:
        if actual:
            served = found.served(model, moment)
        else:
            desired, aliases = found.as_of(model, moment), found.aliases_as_of(model, moment)
    if actual:
        if as_json:
            print_json(served)
        else:
            print_table(
                ("server", "version", "role", "digest", "since, UTC"),
                [(s.server, s.version, s.role, s.digest[:12], s.since) for s in served],
            )
        is_known = bool(served)
    else:
        if as_json:
            print_json({"desired": desired, "aliases": dict(aliases)})
        else:
            _show_state(desired)
        is_known = desired is not None
    if not is_known:
        raise typer.Exit(1)


def best(
    metric: Annotated[str, typer.Argument(help="Such as sharpe or log_loss.")],
    dataset: Annotated[str, typer.Option(help="On which data set.")] = "validation",
    model: _Filter = None,
    strategy_type: _Filter = None,
    direction: Annotated[
        Literal["higher", "lower"] | None,
        typer.Option(help="Which way is better; needed where the metric is not a known one.", show_default=False),
    ] = None,
    on_test: Annotated[bool, typer.Option("--on-test", help="Really choose on the test set.")] = False,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Find the version with the best figure; undefined figures never win."""
    with opened(registry, artifacts) as found:
        version, figure = found.best(
            metric,
            dataset=dataset,
            model=model,
            strategy_type=strategy_type,
            is_higher_better=None if direction is None else direction == "higher",
            may_use_test=on_test,
        )
    if as_json:
        print_json({"version": version, "figure": figure})
    else:
        typer.echo(f"{version.model} version {version.version}: {metric} on {dataset} is {_value(figure)}")


def watch(
    after: Annotated[int | None, typer.Option(help="The revision that is known.", show_default=False)] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.", show_default=False)] = None,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Print the revision of all desired state whenever it moves, until interrupted."""
    with opened(registry, artifacts) as found:
        for seen, revision in enumerate(found.watch(after), start=1):
            if as_json:
                typer.echo(f'{{"revision": {revision}, "seen_at": "{datetime.now(UTC).isoformat()}"}}')
            else:
                typer.echo(f"revision {revision}")
            if seen == count:
                return


def _show_facts(facts: dict[str, Any]) -> None:
    print_table(("", ""), [(name, value) for name, value in facts.items() if value not in (None, "", {}, [])])


def _show_metrics(metrics: "list[MetricRow]") -> None:
    print_table(
        ("data set", "metric", "step", "value", "rows"),
        [(m.dataset, m.name, m.step, _value(m), m.n) for m in metrics],
        "figures, ± one standard error",
    )


def _value(figure: "MetricRow") -> str:
    if figure.value is None:
        return "undefined"
    return cell(figure.value) + (f" ± {cell(figure.standard_error)}" if figure.standard_error is not None else "")


def _figure(figure: "Figure | None") -> str:
    if figure is None:
        return ""
    if figure.value is None:
        return "undefined"
    if figure.low is None:
        return cell(figure.value)
    return f"{cell(figure.value)} ({cell(figure.low)} to {cell(figure.high)})"


def _show_state(desired: "Desired | None") -> None:
    if desired is None:
        typer.echo("nothing was meant to be live")
        return
    facts = {"revision": desired.revision, "since, UTC": desired.at, "by": desired.actor, "why": desired.reason}
    _show_facts(facts | plain(desired.state))
