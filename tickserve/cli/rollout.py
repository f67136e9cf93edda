"""`tickserve rollout`: give a version its share of the requests step by step, by evidence."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tickserve.cli.models.options import (
    Actor,
    Artifacts,
    Json,
    ModelName,
    Number,
    Reason,
    RegistryUrl,
    author,
    cell,
    opened,
    plain,
    print_json,
    print_table,
)
from tickserve.errors import UnknownError

if TYPE_CHECKING:
    from mlops.registry import Registry
    from mlops.rollout.comparison import Comparison
    from mlops.rollout.view import RolloutView

    Seen = tuple[RolloutView, Comparison]

app = typer.Typer(
    help="Rollouts: a version gets its share of the requests step by step, by evidence.", no_args_is_help=True
)
_LOOK_S = 1.0


@app.command()
def start(
    model: ModelName,
    version: Number,
    spec: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, show_default=False, help="TOML or JSON: what it is to do.")
    ],
    reason: Reason,
    policy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, show_default=False, help="TOML with the levels of the gates."),
    ] = None,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Start a rollout of an approved version, if its gates let it. Exit 1 where they do not, or one is open.

    A sidecar gives it its first share, once stable's latencies are known.
    """
    with opened(registry, artifacts) as found:
        from mlops.registry import GateError
        from mlops.registry.gates import GatePolicy, read_policy
        from mlops.rollout import read_spec
        from mlops.rollout.orders import Rollouts

        levels = read_policy(policy) if policy else GatePolicy()
        try:
            Rollouts(found).start(model, version, read_spec(spec), author(actor, reason), levels)
        except GateError as error:
            if as_json:
                print_json(error.report.as_json())
            else:
                for gate in error.report.gates:
                    typer.echo(f"{gate.verdict:12} {gate.name}: {gate.text}")
            raise
        seen = _view(found, model)
    _show(seen, as_json)


@app.command()
def status(
    model: ModelName,
    watch: Annotated[bool, typer.Option("--watch", help="Show it until it is over.")] = False,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Show the open rollout of a model, or its last one."""
    if watch and as_json:
        raise typer.BadParameter("--watch is for people; ask again and again for JSON")
    with opened(registry, artifacts) as found:
        seen = _view(found, model)
        if watch:
            _watch(found, seen)
            return
    _show(seen, as_json)


@app.command()
def pause(
    model: ModelName,
    reason: Reason,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Stay at the present share. What is counted goes on, and a breach still takes the version back."""
    _order(model, "pause", reason, actor, registry, artifacts, as_json)


@app.command("continue")
def continue_(
    model: ModelName,
    reason: Reason,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Go on after a pause; the time of the step begins anew, its evidence stays."""
    _order(model, "continue", reason, actor, registry, artifacts, as_json)


@app.command()
def abort(
    model: ModelName,
    reason: Reason,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Take the version back at once; needs no sidecar."""
    _order(model, "abort", reason, actor, registry, artifacts, as_json)


@app.command()
def finish(
    model: ModelName,
    reason: Reason,
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Give the version everything at once, whatever is undecided; refused over a breach, which takes it back."""
    _order(model, "finish", reason, actor, registry, artifacts, as_json)


@app.command()
def log(model: ModelName, registry: RegistryUrl = "", artifacts: Artifacts = "", as_json: Json = False) -> None:
    """Show every decision of the rollouts of a model, and on what evidence (--json)."""
    with opened(registry, artifacts) as found:
        from mlops.registry.rollouts import read_rollouts
        from mlops.rollout.store import read_decisions

        found.model(model)
        with found.journal.database.read() as connection:
            rollouts = read_rollouts(connection, model)
            decisions = [each for rollout in rollouts for each in read_decisions(connection, rollout.rollout)]
    if as_json:
        print_json(decisions)
        return
    print_table(
        ("rollout", "at, UTC", "event", "step", "share", "by", "why"),
        [
            (
                each.rollout,
                each.at,
                each.event,
                each.step or None,
                None if each.share_bp < 0 else f"{each.share_bp / 100:g}%",
                each.actor,
                each.reason,
            )
            for each in decisions
        ],
    )


def _order(model: str, order: str, reason: str, actor: str, registry: str, artifacts: str, as_json: bool) -> None:
    with opened(registry, artifacts) as found:
        from mlops.rollout import Order
        from mlops.rollout.orders import Rollouts

        Rollouts(found).order(model, Order(order), author(actor, reason))
        seen = _view(found, model)
    _show(seen, as_json)


def _view(registry: "Registry", model: str) -> "Seen":
    from mlops.registry.leases import Leases
    from mlops.registry.rollouts import latest_rollout
    from mlops.rollout.comparison import read_comparison
    from mlops.rollout.view import read_view

    registry.model(model)
    database = registry.journal.database
    with database.read() as connection:
        found = latest_rollout(connection, model)
        if found is None:
            raise UnknownError(f"model {model!r} never had a rollout", field="rollout")
        leases = Leases(database)
        view = read_view(connection, found, leases)
        ended_at = found.ended_at
        now_ns = leases.now_ms(connection) * 1_000_000 if ended_at is None else int(ended_at.timestamp() * 1e9)
        return view, read_comparison(connection, found, now_ns)


def _watch(registry: "Registry", seen: "Seen") -> None:
    console = Console(highlight=False)
    with Live(_render(seen), console=console, auto_refresh=False) as live:
        while seen[0].rollout.ended_at is None:
            time.sleep(_LOOK_S)
            seen = _view(registry, seen[0].rollout.model)
            live.update(_render(seen), refresh=True)


def _show(seen: "Seen", as_json: bool) -> None:
    if as_json:
        view, comparison = seen
        print_json(plain(view.as_dict() | {"beside": comparison.as_dict()}))
    else:
        Console(highlight=False).print(_render(seen))


def _render(seen: "Seen") -> Group:
    """The whole view: what it is, where it is, and what each metric says."""
    view, comparison = seen
    found = view.rollout
    strategy = found.strategy.replace("_", "-") or "rollout"
    title = f"{found.model}: {strategy} of version {found.canary} beside {found.stable}"
    lines: list[Any] = [Text(title, style="bold"), _facts(view, comparison)]
    if view.evidence.verdicts:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("metric", "verdict", "why"):
            table.add_column(column, overflow="fold")
        for each in view.evidence.verdicts:
            table.add_row(each.metric, str(each.verdict), escape(cell(each.why)))
        lines.append(table)
    return Group(*lines)


def _facts(view: "RolloutView", comparison: "Comparison") -> Table:
    traffic = "" if view.traffic_share is None else f", {view.traffic_share:.2%} of the traffic"
    facts = {
        "phase": f"{view.phase}, step {view.step}" + ("" if view.steps is None else f" of {view.steps}"),
        "share": f"{view.share_bp / 100:g}% of the keys{traffic}",
        "why": view.reason,
        **_judged(view),
        "edge": "" if not view.edge_ns else f"{view.edge_ns / 1e3:.1f} us",
        "latency": _latency(comparison),
        "both saw": _both(comparison),
        "damaged": "; ".join(comparison.damaged),
        "held": view.hold,
        "controller": view.controller or "none: nothing advances until a sidecar decides",
    }
    if view.rollout.ended_at is not None:
        facts = {name: text for name, text in facts.items() if name not in ("held", "controller", "watched")}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, text in facts.items():
        if text:
            table.add_row(name, escape(cell(text)))
    return table


def _judged(view: "RolloutView") -> dict[str, str]:
    """How far the present step is; nothing where the spec cannot be read."""
    evidence, spec = view.evidence, view.spec
    if spec is None:
        return {}
    step = spec.steps[min(view.step, len(spec.steps)) - 1]
    doubt = "" if evidence.is_shadow_trusted else "; stable's shadow is bad where stable is not, and explains none"
    return {
        "watched": f"{view.watched_s:.0f} s of {step.min_time_s:g} to {step.max_time_s:g} s",
        "answers": f"{evidence.answers} of {step.min_requests}, in {evidence.buckets} key buckets",
        "bad answers": f"{evidence.bad_answers}, {evidence.excess_bad_answers:.1f} beyond stable's rate, "
        f"bound {spec.max_bad_answers}{doubt}",
        "windows": f"{evidence.windows} counted, {view.unwatched} left out",
    }


def _latency(comparison: "Comparison") -> str:
    """Ratios of quantiles are for people: what decides is how often the edge is passed."""
    ours, theirs = comparison.canary, comparison.stable
    if ours.p50_us is None or ours.p99_us is None or theirs.p50_us is None or theirs.p99_us is None:
        return ""
    return (
        f"p50 {ours.p50_us:.0f} us, {ours.p50_us / theirs.p50_us:.2f} of the other's; "
        f"p99 {ours.p99_us:.0f} us, {ours.p99_us / theirs.p99_us:.2f}"
    )


def _both(comparison: "Comparison") -> str:
    if not comparison.requests:
        return ""
    ours, theirs = comparison.of_canary, comparison.of_stable
    signs = f", other signs in {comparison.flips} of {comparison.pairs} rows" if comparison.pairs else ""
    return (
        f"{comparison.requests} requests: broken rules {ours.violations} beside {theirs.violations}, "
        f"failures {ours.failures} beside {theirs.failures}{signs}"
    )
