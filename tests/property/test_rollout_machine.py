"""Rollouts under any evidence, commands and clocks: what may never happen does not."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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
from tickserve.errors import ControlError

SPEC = parse_spec(
    {
        "keys": 500,
        "window_s": 1.0,
        "max_bad_answers": 20,
        "steps": [
            {"share": 10.0, "min_time_s": 5.0, "max_time_s": 400.0, "min_requests": 100},
            {"share": 25.0, "min_time_s": 0.0, "max_time_s": 400.0, "min_requests": 1},
            {"share": 50.0, "min_time_s": 5.0, "max_time_s": 400.0, "min_requests": 100},
        ],
    }
)
START = 1_800_000_000 * 10**9
VERDICTS = st.lists(st.sampled_from(Verdict), min_size=3, max_size=3)


class Rollouts(RuleBasedStateMachine):
    """One rollout from its start to wherever it goes. `share` is what the desired state says."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.state = RolloutState()
        self.share = 0
        self.evidence = Evidence()
        self.last: Decision | None = None

    @initialize()
    def start(self) -> None:
        self.take(begin(SPEC, self.now, salt="r1", actor="kim", reason="try"))
        assert self.share == 1_000

    def take(self, decision: Decision) -> None:
        before = self.state
        self.last, self.state = decision, decision.state
        if decision.change is not None:
            assert decision.audit, "no change without an entry of the log"
            self.share = decision.change.share_bp
        if decision.state.phase is not before.phase or decision.state.step != before.step:
            assert decision.audit, "no move without an entry of the log"
        # What is stored is what goes on.
        assert RolloutState.from_dict(self.state.as_dict()) == self.state

    @rule(
        seconds=st.one_of(st.floats(0, 3), st.sampled_from([-1e6, -1.0, 1e5, 1e9])),
        verdicts=VERDICTS,
        answers=st.integers(0, 300),
        windows=st.integers(0, 20),
        excess=st.integers(0, 25),
        is_of_step=st.booleans(),
    )
    def look(
        self, seconds: float, verdicts: list[Verdict], answers: int, windows: int, excess: int, is_of_step: bool
    ) -> None:
        self.now = max(0, self.now + int(seconds * 1e9))
        self.evidence = Evidence(
            windows=windows,
            verdicts=tuple(
                MetricVerdict(name, verdict, "") for name, verdict in zip(("a", "b", "c"), verdicts, strict=True)
            ),
            share_bp=self.share if is_of_step else 1,
            step_windows=windows,
            answers=answers,
            buckets=100,
            bad_answers=excess,
            excess_bad_answers=float(excess),
        )
        self.check_look(self.state, decide(SPEC, self.state, self.evidence, None, self.now))

    def check_look(self, before: RolloutState, decision: Decision) -> None:
        self.take(decision)
        found, after = self.evidence, self.state
        is_breach = any(each.verdict is Verdict.FAIL for each in found.verdicts) or found.excess_bad_answers > 20
        if before.is_over:
            assert (after, decision.change, decision.audit) == (before, None, ())
        elif is_breach:
            assert after.phase is Phase.ABORTED
            assert self.share == 0
            assert decision.audit[0].is_alarm
        elif after.step > before.step or after.phase is Phase.FINISHED:
            step = SPEC.steps[before.step]
            assert before.phase is Phase.RUNNING
            assert found.overall is Verdict.PASS
            assert found.answers >= step.min_requests
            assert found.step_windows * SPEC.window_s >= step.min_time_s
            assert found.share_bp == step.share_bp
            assert after.step <= before.step + 1
        elif after.phase is Phase.PAUSED and before.phase is Phase.RUNNING:
            assert decision.audit[0].is_alarm
            assert decision.change is None
        else:
            assert (after.phase, after.step, decision.change) == (before.phase, before.step, None)

    @rule(order=st.sampled_from(Order), reason=st.sampled_from(["because", " "]))
    def command(self, order: Order, reason: str) -> None:
        before, share = self.state, self.share
        try:
            decision = decide(SPEC, before, self.evidence, Command(order, "kim", reason), self.now)
        except ControlError:
            fits = {Order.PAUSE: Phase.RUNNING, Order.CONTINUE: Phase.PAUSED}.get(order, before.phase)
            assert before.is_over or reason == " " or before.phase is not fits
            return
        assert reason == "because"
        self.take(decision)
        expected = {
            Order.PAUSE: Phase.PAUSED,
            Order.CONTINUE: Phase.RUNNING,
            Order.ABORT: Phase.ABORTED,
            Order.FINISH: Phase.FINISHED,
        }[order]
        if self.state.phase is Phase.ABORTED and order is not Order.ABORT:
            # A breach that came at the same moment outranks it.
            assert decision.audit[0].actor == "rollout"
            return
        assert self.state.phase is expected
        assert decision.audit[0].actor == "kim"
        assert self.state.step == before.step
        if order in (Order.PAUSE, Order.CONTINUE):
            assert self.share == share

    @invariant()
    def share_is_that_of_the_phase(self) -> None:
        if self.last is None:
            return
        expected = {Phase.ABORTED: 0, Phase.FINISHED: 10_000}.get(
            self.state.phase, SPEC.steps[self.state.step].share_bp
        )
        assert self.share == expected


TestRollouts = Rollouts.TestCase
