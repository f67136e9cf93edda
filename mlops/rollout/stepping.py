"""One look at a rollout: from how far it is and what was counted since to how far it is then, and what is decided.

Pure but for the outputs of a step, which are read when they are needed. The same progress and the same windows give the
same next progress, whoever looks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mlops import histogram
from mlops.registry.rollouts import RolloutRow
from mlops.registry.values import Desired
from mlops.rollout import desired as states
from mlops.rollout.analysis import Analysis, Evidence, StepOutputs
from mlops.rollout.counts import Counts
from mlops.rollout.coverage import Coverage
from mlops.rollout.machine import CONTROLLER, Decision, Phase, begin, decide, is_due, pause, share_of
from mlops.rollout.metrics import Verdict
from mlops.rollout.spec import RolloutSpec
from mlops.rollout.store import Progress, reached_key
from mlops.rollout.sums import CountedWindow
from mlops.rollout.windows import Taken, aligned, exposure, horizon, reached, resumed, take, window_ns_of

#: Answers of stable that the edge is frozen from, at least.
MIN_EDGE_ANSWERS = 1_000


@dataclass(frozen=True, slots=True)
class Look:
    """What is there to be seen: the time by the database's clock, who counts, the windows, and the desired state."""

    now_ns: int
    coverage: Coverage
    rows: Sequence[CountedWindow]
    desired: Desired


@dataclass(frozen=True, slots=True)
class Moved:
    """What follows from a look."""

    progress: Progress
    decision: Decision


#: The outputs of a step from its first window to an end.
ReadOutputs = Callable[[int, int], StepOutputs]


def go_on(found: RolloutRow, spec: RolloutSpec, progress: Progress, look: Look, outputs: ReadOutputs) -> Moved:
    """Takes the windows that are there, in order, up to the first that decides something."""
    edge_ns = progress.edge_ns
    if edge_ns is None or progress.analysis is None:
        raise ValueError("the rollout has not begun")
    analysis = Analysis.restored(spec, progress.analysis)
    foreign = _foreign(found, spec, progress, look)
    if foreign and progress.state.phase is Phase.RUNNING:
        return Moved(progress, pause(progress.state, analysis.evidence(), foreign, look.now_ns))
    if not foreign:
        progress = replace(progress, desired_revision=look.desired.revision)
    step, window_ns, complete_to_ns = progress.state.step, window_ns_of(spec), look.coverage.complete_to_ns
    start_ns = resumed(progress.next_window_ns, progress.counted_to_ns, look.now_ns, window_ns)
    # Bad answers count whenever they come, also where their window was not waited for any longer.
    late = [row for row in look.rows if row.start_ns < start_ns and _is_new(row, progress)]
    if late:
        analysis.expose(exposure(found, spec, late))
    progress = replace(progress, next_window_ns=start_ns, reached={**progress.reached, **_keys(reached(late))})
    end_ns = max(start_ns, horizon(look.now_ns, complete_to_ns, window_ns))
    taken = take(
        found,
        spec,
        look.rows,
        share_bp=share_of(spec, step),
        edge_ns=edge_ns,
        start_ns=start_ns,
        end_ns=end_ns,
        complete_to_ns=complete_to_ns,
        evidence_from_ns=max((row.end_ns for row in late), default=0),
    )
    decision = None
    for window in taken:
        progress = _after(window, progress, analysis, complete_to_ns, window_ns)
        decision = _decided(spec, progress, analysis, look, foreign, outputs)
        progress = replace(progress, state=decision.state)
        if decision.audit:
            break
    if decision is None or not decision.audit:
        missing = _missing(progress.next_window_ns, end_ns, complete_to_ns, window_ns)
        progress = replace(progress, next_window_ns=end_ns, unwatched=progress.unwatched + missing)
    if decision is None:
        decision = _decided(spec, progress, analysis, look, foreign, outputs)
    step_from_ns = progress.step_from_ns if decision.state.step == step else 0
    return Moved(
        replace(progress, state=decision.state, analysis=analysis.state(), step_from_ns=step_from_ns), decision
    )


def prepare(found: RolloutRow, spec: RolloutSpec, progress: Progress, look: Look, latencies_ns: Counts) -> Moved:
    """Before the first step: freezes the edge and gives the first share, once stable has answered enough.

    Parameters
    ----------
    latencies_ns : array of int, shape (histogram.BUCKETS,)
        Stable's latencies since the rollout was started, of the kind that it compares.
    """
    foreign = _foreign(found, spec, progress, look)
    if foreign and progress.state.phase is Phase.RUNNING:
        return Moved(progress, pause(progress.state, Evidence(), foreign, look.now_ns))
    if not foreign:
        progress = replace(progress, desired_revision=look.desired.revision)
    answers = int(latencies_ns.sum())
    edge_ns = 0 if spec.analysis.latency is None else frozen_edge_ns(spec, latencies_ns)
    hold = look.coverage.hold
    if foreign or hold or edge_ns is None or progress.state.phase is not Phase.RUNNING:
        why = hold or f"stable has given {answers} of {MIN_EDGE_ANSWERS} answers that the edge is frozen from"
        decision = decide(spec, progress.state, Evidence(), None, look.now_ns, hold=why)
        return Moved(replace(progress, state=decision.state), decision)
    reason = "begun"
    if edge_ns:
        reason = f"edge frozen at {edge_ns / 1e3:.1f} us, over {answers} answers of stable"
    decision = begin(spec, look.now_ns, salt=found.salt, actor=CONTROLLER, reason=reason)
    first_ns = aligned(look.now_ns, window_ns_of(spec))
    after = replace(
        progress,
        state=decision.state,
        analysis=Analysis(spec).state(),
        edge_ns=edge_ns,
        next_window_ns=first_ns,
        counted_to_ns=first_ns,
        began_ns=look.now_ns,
    )
    return Moved(after, decision)


def frozen_edge_ns(spec: RolloutSpec, latencies_ns: Counts) -> int | None:
    """Upper edge of the bin that holds stable's quantile, `margin_bins` bins further on; None of too few answers."""
    rule = spec.analysis.latency
    if rule is None or int(latencies_ns.sum()) < MIN_EDGE_ANSWERS:
        return None
    index = histogram.quantile_bucket(latencies_ns, rule.quantile)
    if index is None:
        raise AssertionError("there are answers")
    edges = histogram.lower_edges_ns()
    return int(edges[min(index + 1 + rule.margin_bins, len(edges) - 1)])


def _after(window: Taken, progress: Progress, analysis: Analysis, complete_to_ns: int, window_ns: int) -> Progress:
    """The progress behind a window, which the analysis takes: as evidence, or for its bad answers alone."""
    missing = _missing(progress.next_window_ns, window.start_ns, complete_to_ns, window_ns)
    step_from_ns = progress.step_from_ns
    if window.counts is None:
        analysis.expose(window.exposure)
    else:
        # The first evidence of a step is of the first window that every server gave it the share in.
        if analysis.evidence().share_bp != window.counts.share_bp:
            step_from_ns = window.start_ns
        analysis.update(window.counts, window.exposure)
    return replace(
        progress,
        next_window_ns=window.end_ns,
        counted_to_ns=window.end_ns,
        step_from_ns=step_from_ns,
        unwatched=progress.unwatched + missing + (not window.is_watched),
        reached={**progress.reached, **_keys(window.reached)},
    )


def _decided(
    spec: RolloutSpec, progress: Progress, analysis: Analysis, look: Look, foreign: str, outputs: ReadOutputs
) -> Decision:
    hold = foreign or look.coverage.hold
    if not hold:
        _judge_outputs(spec, progress, analysis, look, outputs)
    return decide(spec, progress.state, analysis.evidence(), None, look.now_ns, hold=hold)


def _judge_outputs(spec: RolloutSpec, progress: Progress, analysis: Analysis, look: Look, outputs: ReadOutputs) -> None:
    """Looks at the outputs where the step could end by everything else, or is about to be given up."""
    missing, state = analysis.unjudged_outputs, progress.state
    start_ns, end_ns = progress.step_from_ns, progress.counted_to_ns
    if not missing or not start_ns or state.phase is not Phase.RUNNING:
        return
    # As the decision that follows will see it: what passed since the last look included.
    now = decide(spec, state, Evidence(), None, look.now_ns).state
    evidence = analysis.evidence()
    others = {each.verdict for each in evidence.verdicts if each.metric not in missing and not each.is_guard}
    step = spec.steps[state.step]
    is_over = now.watched_ns >= step.max_time_s * 1e9
    # Outputs come later than counts, and in windows of another length: those that are there have to be enough.
    upto_ns = min(end_ns, look.coverage.outputs_to_ns)
    is_enough = is_due(spec, now, evidence)
    if missing & {"psi", "sign_flips"}:
        is_enough = is_enough and upto_ns - start_ns >= step.min_time_s * 1e9
    if not is_over and not (is_enough and others <= {Verdict.PASS}):
        return
    found = outputs(start_ns, max(start_ns, upto_ns))
    if missing & {"psi", "sign_flips"} and not is_over and found.least < step.min_requests:
        return
    analysis.end_step(found)


def _foreign(found: RolloutRow, spec: RolloutSpec, progress: Progress, look: Look) -> str:
    """Why the desired state is not the one that the rollout left, or nothing."""
    if states.is_in_order(look.desired.state, found, spec, progress.state.step, progress.edge_ns):
        return ""
    desired = look.desired
    return (
        f"revision {desired.revision} of the desired state is not this rollout's: {desired.actor} changed who gets "
        f"which requests ({desired.reason}); continue to have the rollout's split again, or abort"
    )


def _is_new(row: CountedWindow, progress: Progress) -> bool:
    """Whether a window was not taken yet, and has anything of the rollout's time."""
    taken_ns = progress.reached.get(reached_key(row.reporter, row.boot))
    return row.end_ns > progress.began_ns if taken_ns is None else row.start_ns >= taken_ns


def _keys(ends: Mapping[tuple[str, str], int]) -> dict[str, int]:
    return {reached_key(*of): end_ns for of, end_ns in ends.items()}


def _missing(start_ns: int, end_ns: int, complete_to_ns: int, window_ns: int) -> int:
    """How many windows in [start, end), of which nothing is there, lack the counts of a server."""
    first = max(start_ns, complete_to_ns // window_ns * window_ns)
    return max(0, end_ns - first) // window_ns
