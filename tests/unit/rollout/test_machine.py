"""The course of a rollout: steps, time, commands, and what is written down."""

from dataclasses import replace
from typing import Any

import pytest

from mlops.rollout import (
    Command,
    Decision,
    Evidence,
    MetricVerdict,
    Order,
    Phase,
    RolloutState,
    Verdict,
    begin,
    decide,
    parse_spec,
)
from tickserve.errors import Code, ControlError

STEP = {"min_time_s": 20.0, "max_time_s": 400.0, "min_requests": 100}
SPEC = parse_spec({"keys": 500, "window_s": 1.0, "steps": [{"share": 10.0} | STEP, {"share": 50.0} | STEP]})
START = 1_800_000_000 * 10**9


def seen(verdict: Verdict = Verdict.PASS, **facts: Any) -> Evidence:
    usual = {"share_bp": 1_000, "step_windows": 60, "answers": 500, "buckets": 45}
    return Evidence(60, (MetricVerdict("errors", verdict, "so it is"),), **(usual | facts))


def watched(state: RolloutState, evidence: Evidence, seconds: int, command: Command | None = None) -> Decision:
    """Looks every second until something happens."""
    decision = Decision(state)
    for _ in range(seconds):
        decision = decide(SPEC, decision.state, evidence, command, decision.state.looked_unix_ns + 10**9)
        if decision.audit:
            break
    return decision


def started() -> RolloutState:
    return begin(SPEC, START, salt="r1", actor="kim", reason="try").state


def test_start_gives_the_first_share_under_a_salt_of_its_own() -> None:
    decision = begin(SPEC, START, salt="r1", actor="kim", reason="try")
    assert decision.change is not None
    assert (decision.change.share_bp, decision.change.salt) == (1_000, "r1")
    (entry,) = decision.audit
    assert (entry.event, entry.actor, entry.facts["spec"]["keys"]) == ("started", "kim", 500)


def test_a_good_canary_goes_through_its_steps_by_itself() -> None:
    first = watched(started(), seen(), 60)
    assert first.change is not None
    assert (first.state.step, first.change.share_bp, first.change.salt) == (1, 5_000, None)
    assert first.audit[0].facts["evidence"]["verdicts"][0]["verdict"] == "pass"
    # Evidence of the share before is none of this step's.
    assert watched(first.state, seen(), 60).change is None
    last = watched(first.state, seen(share_bp=5_000), 60)
    assert last.state.phase is Phase.FINISHED
    assert last.change is not None
    assert last.change.share_bp == 10_000


@pytest.mark.parametrize(
    "evidence",
    [seen(answers=99), seen(step_windows=19), seen(Verdict.INCONCLUSIVE), replace(seen(), verdicts=())],
    ids=["requests", "windows", "inconclusive", "nothing judged"],
)
def test_what_is_not_shown_pauses_and_tells_and_never_advances(evidence: Evidence) -> None:
    decision = watched(started(), evidence, 500)
    assert (decision.state.phase, decision.state.step, decision.change) == (Phase.PAUSED, 0, None)
    assert decision.audit[0].is_alarm
    assert "undecided after 400 s" in decision.state.reason


def test_minimum_time_is_watched_time() -> None:
    decision = decide(SPEC, started(), seen(), None, START + 3600 * 10**9)
    # An hour in which nobody looked, or a clock that jumped, is two windows.
    assert decision.change is None
    assert decision.state.watched_ns == 2 * 10**9
    back = decide(SPEC, decision.state, seen(), None, START)
    assert back.state.watched_ns == 2 * 10**9


def test_a_fail_takes_the_canary_back_at_once_and_says_what_it_cost() -> None:
    decision = decide(SPEC, started(), seen(Verdict.FAIL, bad_answers=17), None, START + 1)
    assert decision.state.phase is Phase.ABORTED
    assert decision.change is not None
    assert decision.change.share_bp == 0
    assert decision.state.reason == "errors: so it is; 17 bad answers reached clients"
    assert decision.audit[0].is_alarm


def test_a_fail_takes_a_paused_canary_back_too() -> None:
    paused = watched(started(), seen(), 1, Command(Order.PAUSE, "kim", "lunch")).state
    assert decide(SPEC, paused, seen(Verdict.FAIL), None, START).state.phase is Phase.ABORTED


def test_exposure_is_bounded_whatever_the_verdicts_are() -> None:
    at, over = seen(excess_bad_answers=1_000.0), seen(excess_bad_answers=1_000.5, bad_answers=1_200)
    assert decide(SPEC, started(), at, None, START).state.phase is Phase.RUNNING
    decision = decide(SPEC, started(), over, None, START)
    assert decision.state.phase is Phase.ABORTED
    assert "1200 bad answers reached clients, 1000 more" in decision.state.reason


def test_commands_are_obeyed_and_attributed() -> None:
    paused = decide(SPEC, started(), seen(), Command(Order.PAUSE, "kim", "lunch"), START + 1)
    assert (paused.state.phase, paused.audit[0].actor, paused.change) == (Phase.PAUSED, "kim", None)
    assert watched(paused.state, seen(), 500).state.phase is Phase.PAUSED
    going = decide(SPEC, paused.state, seen(), Command(Order.CONTINUE, "kim", "back"), START + 2)
    assert (going.state.phase, going.state.watched_ns) == (Phase.RUNNING, 0)
    done = decide(SPEC, going.state, seen(Verdict.INCONCLUSIVE), Command(Order.FINISH, "kim", "known good"), START + 3)
    assert done.change is not None
    assert (done.state.phase, done.change.share_bp, done.audit[0].reason) == (Phase.FINISHED, 10_000, "known good")
    gone = decide(SPEC, going.state, seen(), Command(Order.ABORT, "kim", "bad fills"), START + 3)
    assert gone.change is not None
    assert (gone.state.phase, gone.change.share_bp, gone.audit[0].actor) == (Phase.ABORTED, 0, "kim")


def test_nobody_finishes_over_a_breach() -> None:
    decision = decide(SPEC, started(), seen(Verdict.FAIL), Command(Order.FINISH, "kim", "ship it"), START)
    assert decision.state.phase is Phase.ABORTED


@pytest.mark.parametrize(
    ("state", "order", "text"),
    [
        (RolloutState(Phase.ABORTED, reason="errors"), Order.CONTINUE, "aborted: errors"),
        (RolloutState(Phase.FINISHED, reason="done"), Order.ABORT, "finished: done"),
        (RolloutState(Phase.RUNNING), Order.CONTINUE, "nothing to continue"),
        (RolloutState(Phase.PAUSED, reason="lunch"), Order.PAUSE, "paused already: lunch"),
    ],
)
def test_commands_that_do_not_fit_are_refused(state: RolloutState, order: Order, text: str) -> None:
    with pytest.raises(ControlError, match=text) as refused:
        decide(SPEC, state, seen(), Command(order, "kim", "why not"), START)
    assert refused.value.code is Code.FAILED_PRECONDITION


def test_commands_need_a_reason() -> None:
    with pytest.raises(ControlError, match="say why"):
        decide(SPEC, started(), seen(), Command(Order.ABORT, "kim", ""), START)


def test_blue_green_gives_everything_at_once_and_goes_back_on_a_breach() -> None:
    spec = parse_spec({"keys": 500, "strategy": "blue_green", "window_s": 1.0, "steps": [{"share": 25.0} | STEP]})
    first = begin(spec, START, salt="r1", actor="kim", reason="switch")
    assert first.change is not None
    assert first.change.share_bp == 10_000
    back = decide(spec, first.state, seen(Verdict.FAIL, share_bp=10_000), None, START + 1)
    assert back.change is not None
    assert (back.state.phase, back.change.share_bp) == (Phase.ABORTED, 0)
