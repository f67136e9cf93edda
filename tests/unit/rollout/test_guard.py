"""Business outcome as a guard rail: it ends rollouts, and passes none."""

import json
import math

import pytest

from mlops.rollout import Analysis, Evidence, LiveFigure, OutcomeRule, RolloutSpec, Verdict, parse_spec
from mlops.rollout.analysis import StepOutputs
from mlops.rollout.guard import OutcomeGuard, drop_of
from tests.unit.rollout.windows import window
from tickserve.errors import ConfigurationError

GOOD, SAME, BAD = LiveFigure(0.05, 0.01, 250), LiveFigure(0.05, 0.01, 250), LiveFigure(-0.05, 0.01, 250)
SPEC = parse_spec({"keys": 500, "analysis": {"outcome": {"figure": "rank_ic"}, "latency": None}})


def passed() -> Analysis:
    analysis = Analysis(SPEC)
    for _ in range(600):
        analysis.update(window())
    return analysis


def outcome_of(evidence: Evidence) -> Verdict:
    return next(each.verdict for each in evidence.verdicts if each.metric == "outcome")


def test_an_outcome_that_nobody_knows_holds_nothing_up() -> None:
    evidence = passed().evidence()
    assert (outcome_of(evidence), evidence.overall) == (Verdict.INCONCLUSIVE, Verdict.PASS)


def test_equal_outcomes_pass_nothing_by_themselves() -> None:
    analysis = Analysis(SPEC)
    analysis.end_step(StepOutputs(canary_outcome=SAME, stable_outcome=GOOD))
    assert (outcome_of(analysis.evidence()), analysis.evidence().overall) == (Verdict.INCONCLUSIVE,) * 2


def test_a_worse_outcome_ends_a_rollout_that_passes_otherwise_and_stays() -> None:
    analysis = passed()
    analysis.end_step(StepOutputs(canary_outcome=BAD, stable_outcome=GOOD))
    assert analysis.evidence().overall is Verdict.FAIL
    again = Analysis.restored(SPEC, json.loads(json.dumps(analysis.state())))
    assert again.evidence() == analysis.evidence()


def test_a_step_is_judged_once() -> None:
    analysis = passed()
    assert "outcome" in analysis.unjudged_outputs
    analysis.end_step(StepOutputs(canary_outcome=SAME, stable_outcome=GOOD))
    again = Analysis.restored(SPEC, json.loads(json.dumps(analysis.state())))
    assert "outcome" not in again.unjudged_outputs
    again.end_step(StepOutputs(canary_outcome=BAD, stable_outcome=GOOD))
    assert again.evidence() == analysis.evidence()
    guard = OutcomeGuard(OutcomeRule())
    guard.update(SAME, GOOD, 0.01)
    with pytest.raises(ValueError, match="outcome was judged in this step already"):
        guard.update(SAME, GOOD, 0.01)


def test_one_side_alone_says_nothing() -> None:
    analysis = passed()
    analysis.end_step(StepOutputs(canary_outcome=BAD))
    assert analysis.evidence().overall is Verdict.PASS


def test_the_bound_is_that_of_two_independent_figures() -> None:
    drop = drop_of(OutcomeRule(worse=0.01), LiveFigure(0.0, 0.03, 100_001), LiveFigure(0.1, 0.04, 200_000), 0.025)
    assert drop.value == pytest.approx(0.1)
    assert drop.lower == pytest.approx(0.1 - 1.959964 * 0.05, abs=1e-5)
    # A drop of that size is found with a chance of 80%: its estimate lies above the bound so often.
    assert drop.seen_from == pytest.approx(0.01 + (1.959964 + 0.841621) * 0.05, abs=1e-5)


def test_a_figure_where_less_is_better_drops_as_it_rises() -> None:
    drop = drop_of(OutcomeRule(figure="mse:5d"), LiveFigure(2.0, 0.1, 50), LiveFigure(1.0, 0.1, 50), 0.01)
    assert drop.value == 1.0
    assert 0 < drop.lower < 1 - 2.326 * math.hypot(0.1, 0.1)


def test_the_outcome_takes_its_part_of_alpha() -> None:
    assert SPEC.analysis.metric_alpha == pytest.approx(0.01 / 3)


@pytest.mark.parametrize(
    ("analysis", "text"),
    [
        ({"outcome": {"figure": "luck"}}, "luck"),
        ({"outcome": {"worse": -1}}, "worse"),
        ({"outcome": {}, "errors": None, "violations": None, "latency": None}, "passes nothing"),
    ],
)
def test_what_cannot_guard_is_refused(analysis: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse_spec({"keys": 500, "analysis": analysis})


def test_a_spec_without_an_outcome_judges_none() -> None:
    assert "outcome" not in {each.metric for each in Analysis(RolloutSpec(keys=500)).evidence().verdicts}
