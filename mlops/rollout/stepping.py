"""One look at a rollout: from how far it is and what was counted since to how far it is then, and what is decided.

Pure but for the outputs of a step, which are read when they are needed. The same progress and the same windows give the
same next progress, whoever looks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlops import histogram
from mlops.registry.rollouts import RolloutRow
from mlops.registry.values import Desired
from mlops.rollout import desired as states
from mlops.rollout.analysis import Analysis, Evidence
from mlops.rollout.coverage import Coverage
from mlops.rollout.guard import LiveFigure
from mlops.rollout.machine import CONTROLLER, Decision, Phase, RolloutState, begin, decide, is_due, pause, share_of
from mlops.rollout.metrics import Verdict
from mlops.rollout.spec import RolloutSpec
from mlops.rollout.store import Progress, reached_key
from mlops.rollout.sums import CountedWindow
from mlops.rollout.taking import aligned, exposure, horizon, reached, resumed, take, window_ns_of

Counts = NDArray[np.int64]
#: Answers of stable that the edge is frozen from, at least.
MIN_EDGE_ANSWERS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class StepOutputs:
    """What is known of the outputs of a step, and of what came of them; None where that is too little.

    Parameters
    ----------
    canary_bins, baseline_bins : array of int, shape (256, bins) and (blocks, bins)
    pairs, flips : array of int, shape (256,)
    """

    canary_bins: Counts | None = None
    baseline_bins: Counts | None = None
    pairs: Counts | None = None
    flips: Counts | None = None
    canary_outcome: LiveFigure | None = None
    stable_outcome: LiveFigure | None = None

    @property
    def least(self) -> int:
        """Rows of the figure that has the fewest, of those that are there."""
        return min((int(each.sum()) for each in (self.canary_bins, self.pairs) if each is not None), default=0)


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
    analysis = Analysis.restored(spec, dict(progress.analysis))
    foreign = _foreign(found, spec, progress, look)
    if foreign and progress.state.phase is Phase.RUNNING:
        return Moved(progress, pause(progress.state, analysis.evidence(), foreign, look.now_ns))
    if not foreign:
        progress = replace(progress, desired_revision=look.desired.revision)
    window_ns = window_ns_of(spec)
    start_ns = resumed(progress.next_window_ns, progress.counted_to_ns, look.now_ns, window_ns)
    # Bad answers count whenever they come, also where their window was not waited for any longer.
    late = [row for row in look.rows if row.start_ns < start_ns and _is_new(row, progress)]
    if late:
        analysis.expose(*exposure(found, spec, late))
    reached_ns = dict(progress.reached) | _keys(reached(late))
    end_ns = max(start_ns, horizon(look.now_ns, look.coverage.complete_to_ns, window_ns))
    taken = take(
        found,
        spec,
        look.rows,
        share_bp=share_of(spec, progress.state.step),
        edge_ns=edge_ns,
        start_ns=start_ns,
        end_ns=end_ns,
        complete_to_ns=look.coverage.complete_to_ns,
        evidence_from_ns=max((row.end_ns for row in late), default=0),
    )
    next_ns, step_from_ns, counted_to_ns = start_ns, progress.step_from_ns, progress.counted_to_ns
    unwatched, state, decision = progress.unwatched, progress.state, None
    for window in taken:
        unwatched += _missing(next_ns, window.start_ns, look.coverage.complete_to_ns, window_ns)
        next_ns = counted_to_ns = window.end_ns
        reached_ns |= _keys(window.reached)
        unwatched += not window.is_watched
        if window.counts is None:
            analysis.expose(window.exposed, window.stable)
        else:
            # The first evidence of a step is of the first window that every server gave it the share in.
            is_first = analysis.evidence().share_bp != window.counts.share_bp
            analysis.update(window.counts, window.exposed, window.stable)
            step_from_ns = window.start_ns if is_first else step_from_ns
        decision = _decided(spec, state, analysis, look, foreign, outputs, (step_from_ns, next_ns))
        state = decision.state
        if decision.audit:
            break
    if decision is None or not decision.audit:
        unwatched += _missing(next_ns, end_ns, look.coverage.complete_to_ns, window_ns)
        next_ns = end_ns
    if decision is None:
        decision = _decided(spec, state, analysis, look, foreign, outputs, (step_from_ns, counted_to_ns))
    after = replace(
        progress,
        state=decision.state,
        analysis=analysis.state(),
        next_window_ns=next_ns,
        counted_to_ns=counted_to_ns,
        step_from_ns=0 if decision.state.step != progress.state.step else step_from_ns,
        unwatched=unwatched,
        reached=reached_ns,
    )
    return Moved(after, decision)


def prepare(found: RolloutRow, spec: RolloutSpec, progress: Progress, look: Look, latencies_ns: Counts) -> Moved:
    """Before the first step: freezes the edge and gives the first share, once stable has answered enough.

    Parameters
    ----------
    latencies_ns : array of int, shape (histogram.BUCKETS,)
        Stable's latencies since the rollout was started, of the kind that it compares.
    """
    foreign = _foreign(found, spec, progress, look)
    if foreign and progress.state.phase is Phase.RUNNING:
        return Moved(progress, pause(progress.state, Evidence(0, ()), foreign, look.now_ns))
    if not foreign:
        progress = replace(progress, desired_revision=look.desired.revision)
    answers = int(latencies_ns.sum())
    edge_ns = 0 if spec.analysis.latency is None else frozen_edge_ns(spec, latencies_ns)
    hold = look.coverage.hold
    if foreign or hold or edge_ns is None or progress.state.phase is not Phase.RUNNING:
        why = hold or f"stable has given {answers} of {MIN_EDGE_ANSWERS} answers that the edge is frozen from"
        decision = decide(spec, progress.state, Evidence(0, ()), None, look.now_ns, hold=why)
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


def _decided(
    spec: RolloutSpec,
    state: RolloutState,
    analysis: Analysis,
    look: Look,
    foreign: str,
    outputs: ReadOutputs,
    span: tuple[int, int],
) -> Decision:
    hold = foreign or look.coverage.hold
    _judge_outputs(spec, state, analysis, look, hold, outputs, span)
    return decide(spec, state, analysis.evidence(), None, look.now_ns, hold=hold)


def _judge_outputs(
    spec: RolloutSpec,
    state: RolloutState,
    analysis: Analysis,
    look: Look,
    hold: str,
    outputs: ReadOutputs,
    span: tuple[int, int],
) -> None:
    """Looks at the outputs where the step could end by everything else, or is about to be given up."""
    missing = analysis.unjudged_outputs
    start_ns, end_ns = span
    if not missing or hold or not start_ns or state.phase is not Phase.RUNNING:
        return
    # As the decision that follows will see it: what passed since the last look included.
    now = decide(spec, state, Evidence(0, ()), None, look.now_ns).state
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
    has_psi, has_flips, has_outcome = (name in missing for name in ("psi", "sign_flips", "outcome"))
    if (has_psi or has_flips) and not is_over and found.least < step.min_requests:
        return
    analysis.end_step(
        canary_bins=found.canary_bins if has_psi else None,
        baseline_bins=found.baseline_bins if has_psi else None,
        pairs=found.pairs if has_flips else None,
        flips=found.flips if has_flips else None,
        canary_outcome=found.canary_outcome if has_outcome else None,
        stable_outcome=found.stable_outcome if has_outcome else None,
    )


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
