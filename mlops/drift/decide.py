"""What a window's figures mean: sufficient or not, and which columns drifted at a level that holds over a year.

All sufficient columns of a side are tested together (Y. Benjamini and Y. Hochberg, "Controlling the False Discovery
Rate", JRSS B 57, 1995). Where nothing drifted, any rejection is a false alarm, and happens with at most the window's
level; windows spend a fixed share of the budget each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlops.drift.null import Assessment
from mlops.drift.result import DECISION, Decision, Figure, Side, State
from mlops.drift.spec import MAX_DROPPED_SHARE, MIN_SUB_BLOCKS, DriftSpec


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """What bears on whether a window can be decided.

    Parameters
    ----------
    is_ordered : bool
        Whether the reference is in time order.
    sub_blocks : int
        Those with rows.
    expected_rows : float or None
        Rows that the reference has in as long a stretch.
    is_part_of_day : bool
        An intraday window that is shorter than what the baseline's blocks hold alike: it needs session buckets.
    dropped_share : float
        Records that never reached the log, of all that there were in the window's time.
    """

    is_ordered: bool
    sub_blocks: int
    expected_rows: float | None
    is_part_of_day: bool = False
    dropped_share: float = 0.0


def window_level(spec: DriftSpec, days: float, sides: int) -> float:
    """The level of one side of a window: its share of the budget by its length in days, split over the sides."""
    return min(spec.max_level, days / spec.budget_days) / sides


def insufficiency(facts: WindowFacts, assessment: Assessment, warning: float) -> str:
    """Why a column cannot be decided; empty where it can."""
    psi = assessment.levels[DECISION]
    if not facts.is_ordered:
        return "the order of the reference is unknown, so nothing says how far counts stray"
    if psi.value is None:
        return "no rows"
    if facts.dropped_share > MAX_DROPPED_SHARE:
        return f"{facts.dropped_share:.2%} of the records of its time were dropped, {MAX_DROPPED_SHARE:.1%} may be"
    if facts.sub_blocks < MIN_SUB_BLOCKS:
        return f"{facts.sub_blocks} sub-blocks with rows, {MIN_SUB_BLOCKS} are needed"
    if facts.is_part_of_day:
        return "the baseline has no buckets for parts of a session, so a whole session or day is needed"
    rows = facts.expected_rows or float(assessment.n)
    if assessment.correlation_rows > rows / 20:
        return (
            f"correlation time of {assessment.correlation_rows:.1f} rows of the reference, more than a twentieth of "
            f"the window ({rows:.0f})"
        )
    if psi.q95 is not None and psi.q95 > warning:
        return f"the null 95% quantile {psi.q95:.3f} is above the warning threshold {warning:g}"
    return ""


def rejected(p_values: Sequence[float], level: float) -> list[bool]:
    """Benjamini and Hochberg's step-up procedure: which hypotheses are rejected at this level."""
    order = np.argsort(np.array(p_values), kind="stable")
    ranked = np.array(p_values)[order]
    below = np.flatnonzero(ranked <= level * np.arange(1, len(ranked) + 1) / max(len(ranked), 1))
    chosen = np.zeros(len(ranked), bool)
    chosen[order[: below[-1] + 1 if len(below) else 0]] = True
    return [bool(each) for each in chosen]


def decide(
    side: Side, assessments: Sequence[tuple[str, Assessment]], facts: WindowFacts, spec: DriftSpec, level: float
) -> list[Decision]:
    """One decision a column, by PSI: beyond a threshold and significant among all columns of the side."""
    reasons = [insufficiency(facts, assessment, spec.thresholds_of(name).warning) for name, assessment in assessments]
    testable = [number for number, reason in enumerate(reasons) if not reason]
    p_values = [assessments[number][1].levels[DECISION].p for number in testable]
    alarms = rejected([1.0 if p is None else p for p in p_values], level)
    significant = {number for number, is_alarm in zip(testable, alarms, strict=True) if is_alarm}
    decisions = []
    for number, (name, assessment) in enumerate(assessments):
        thresholds, psi = spec.thresholds_of(name), assessment.levels[DECISION]
        state: State = "insufficient" if reasons[number] else "ok"
        reason = reasons[number]
        if not reason and psi.value is not None and psi.value > thresholds.warning:
            if number in significant:
                state = "critical" if psi.value > thresholds.critical else "warning"
            else:
                reason = "beyond the threshold, but no further than chance goes at this level"
        decisions.append(
            Decision(side, name, state, psi.value, psi.p, level, thresholds.warning, thresholds.critical, reason)
        )
    return decisions


def figures_of(side: Side, name: str, assessment: Assessment, state: State) -> list[Figure]:
    """The figures of a column, under the state that was decided."""
    return [
        Figure(
            side=side,
            column=name,
            statistic=statistic,
            value=level.value,
            null_mean=level.mean,
            null_q95=level.q95,
            null_q99=level.q99,
            p=level.p,
            iid_mean=level.iid_mean,
            n=assessment.n,
            effective_n=assessment.effective_n,
            state=state,
        )
        for statistic, level in assessment.levels.items()
    ]
