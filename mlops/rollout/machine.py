"""How a rollout goes on: a pure function of its state, the evidence, a command and the time.

It never advances without evidence of every metric, never passes by absence, and takes the canary back at once where a
metric fails. Whoever runs it writes the desired change first and the state with it, in one transaction, so that it can
be killed between any two calls.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from mlops.rollout.analysis import Evidence
from mlops.rollout.metrics import Verdict
from mlops.rollout.spec import RolloutSpec
from mlops.routing import WHOLE_BP
from tickserve.errors import Code, ControlError

_NS = 1_000_000_000


class Phase(StrEnum):
    """Where a rollout is."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    ABORTED = "aborted"


class Order(StrEnum):
    """What somebody may tell a rollout."""

    PAUSE = "pause"
    CONTINUE = "continue"
    ABORT = "abort"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Command:
    """Who tells it what, and why."""

    order: Order
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class RolloutState:
    """A rollout at one moment.

    `watched_ns` is how long the present step was watched: time that nobody looked is not in it, nor time that a clock
    jumped over. `since_unix_ns` is when that step began, or was continued last, and `looked_unix_ns` when the last
    decision was made.
    """

    phase: Phase = Phase.RUNNING
    step: int = 0
    watched_ns: int = 0
    since_unix_ns: int = 0
    looked_unix_ns: int = 0
    reason: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing happens any more."""
        return self.phase in (Phase.FINISHED, Phase.ABORTED)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; times as text, because JSON's numbers end at 2^53."""
        return {
            "phase": str(self.phase),
            "step": self.step,
            "watched_ns": str(self.watched_ns),
            "since_unix_ns": str(self.since_unix_ns),
            "looked_unix_ns": str(self.looked_unix_ns),
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "RolloutState":
        """What `as_dict` gave."""
        return cls(
            Phase(plain["phase"]),
            plain["step"],
            int(plain["watched_ns"]),
            int(plain["since_unix_ns"]),
            int(plain["looked_unix_ns"]),
            plain["reason"],
        )


@dataclass(frozen=True, slots=True)
class DesiredChange:
    """What the desired state is to become: the canary's share of the keys, in 1/10,000.

    10,000 makes the canary stable, 0 takes it out of the split and leaves stable as it was before the rollout. `salt`
    is new at the start, when one version has everything and no key moves by it; None keeps it.
    """

    share_bp: int
    reason: str
    salt: str | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """One entry for the audit log; `is_alarm` says that people are to be told at once."""

    event: str
    actor: str
    reason: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_alarm: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows: the state from here on, what to change, and what to write down."""

    state: RolloutState
    change: DesiredChange | None = None
    audit: tuple[Audit, ...] = ()


#: Who decides where no person does.
CONTROLLER = "rollout"


def begin(spec: RolloutSpec, now_unix_ns: int, *, salt: str, actor: str, reason: str) -> Decision:
    """The first decision: the first step's share, under a salt of the rollout's own.

    With the salt of another rollout the same keys would be the canary's again, and what they did then would not be
    independent of what they do now.
    """
    state = RolloutState(since_unix_ns=now_unix_ns, looked_unix_ns=now_unix_ns)
    share_bp = share_of(spec, 0)
    audit = Audit("started", actor, reason, {"share_bp": share_bp, "salt": salt, "spec": spec.model_dump(mode="json")})
    return Decision(state, DesiredChange(share_bp, reason, salt), (audit,))


def decide(
    spec: RolloutSpec,
    state: RolloutState,
    evidence: Evidence,
    command: Command | None,
    now_unix_ns: int,
    *,
    hold: str = "",
) -> Decision:
    """The next decision.

    Parameters
    ----------
    evidence : Evidence
        Up to now, under the present step's share.
    command : Command or None
        What somebody told it since the last decision.
    now_unix_ns : int
        The wall clock; it may jump, which moves nothing forward.
    hold : str
        Why it must not advance now, whatever the evidence; empty where it may.

    Raises
    ------
    ControlError
        FAILED_PRECONDITION where the command does not fit the state: nothing changes then.
    """
    if state.is_over:
        if command is not None:
            raise _refused(f"the rollout is {state.phase}: {state.reason}")
        return Decision(state)
    if command is not None and not command.reason.strip():
        raise ControlError("say why: this needs a reason, which is kept for ever", code=Code.INVALID_ARGUMENT)
    looked = replace(state, looked_unix_ns=now_unix_ns, watched_ns=_watched(spec, state, now_unix_ns))
    # A breach outranks whatever anybody says but an abort, which does the same.
    breach = _breach(spec, evidence)
    if command is not None and command.order is Order.ABORT:
        return _abort(looked, evidence, command.actor, command.reason, is_alarm=False)
    if breach:
        return _abort(looked, evidence, CONTROLLER, breach, is_alarm=True)
    if command is not None:
        return _obey(spec, looked, evidence, command)
    if looked.phase is Phase.PAUSED:
        return Decision(looked)
    return _go_on(spec, looked, evidence, hold)


def pause(state: RolloutState, evidence: Evidence, reason: str, now_unix_ns: int) -> Decision:
    """Stops where it is because something is not as it left it, and has people told."""
    facts = {"step": state.step + 1, "evidence": evidence.as_dict()}
    paused = replace(state, phase=Phase.PAUSED, looked_unix_ns=now_unix_ns, reason=reason)
    return Decision(paused, None, (Audit("paused", CONTROLLER, reason, facts, is_alarm=True),))


def is_due(spec: RolloutSpec, state: RolloutState, evidence: Evidence) -> bool:
    """Whether the step was watched for long enough, and asked often enough, to end."""
    step = spec.steps[state.step]
    # Windows that nobody counted, and those of an earlier share, say nothing about this step.
    has_windows = (
        evidence.share_bp == share_of(spec, state.step) and evidence.step_windows * spec.window_s >= step.min_time_s
    )
    return has_windows and state.watched_ns >= step.min_time_s * _NS and evidence.answers >= step.min_requests


def share_of(spec: RolloutSpec, step: int) -> int:
    """The version's share of the keys at a step, in 1/10,000."""
    return WHOLE_BP if spec.strategy == "blue_green" else spec.steps[step].share_bp


def _obey(spec: RolloutSpec, state: RolloutState, evidence: Evidence, command: Command) -> Decision:
    facts = {"step": state.step + 1, "evidence": evidence.as_dict()}
    if command.order is Order.FINISH:
        return _finish(state, evidence, command.actor, command.reason)
    if command.order is Order.PAUSE:
        if state.phase is Phase.PAUSED:
            raise _refused(f"the rollout is paused already: {state.reason}")
        paused = replace(state, phase=Phase.PAUSED, reason=command.reason)
        return Decision(paused, None, (Audit("paused", command.actor, command.reason, facts),))
    if state.phase is Phase.RUNNING:
        raise _refused("the rollout is running: there is nothing to continue")
    # The step's time begins anew, or the next look would pause it again; its evidence goes on.
    running = _anew(replace(state, phase=Phase.RUNNING, reason=command.reason))
    return Decision(running, None, (Audit("continued", command.actor, command.reason, facts),))


def _go_on(spec: RolloutSpec, state: RolloutState, evidence: Evidence, hold: str) -> Decision:
    step = spec.steps[state.step]
    if not hold and is_due(spec, state, evidence) and evidence.overall is Verdict.PASS:
        reason = f"step {state.step + 1} passed: every metric, {evidence.answers} answers"
        if state.step + 1 == len(spec.steps):
            return _finish(state, evidence, CONTROLLER, reason)
        following = _anew(replace(state, step=state.step + 1, reason=reason))
        share_bp = share_of(spec, following.step)
        facts = {"step": following.step + 1, "share_bp": share_bp, "evidence": evidence.as_dict()}
        return Decision(following, DesiredChange(share_bp, reason), (Audit("advanced", CONTROLLER, reason, facts),))
    if state.watched_ns >= step.max_time_s * _NS:
        why = hold or _undecided(step.min_requests, evidence)
        reason = f"step {state.step + 1} is undecided after {step.max_time_s:g} s: {why}"
        facts = {"step": state.step + 1, "evidence": evidence.as_dict()}
        paused = replace(state, phase=Phase.PAUSED, reason=reason)
        return Decision(paused, None, (Audit("paused", CONTROLLER, reason, facts, is_alarm=True),))
    return Decision(state)


def _anew(state: RolloutState) -> RolloutState:
    """The time of a step begins."""
    return replace(state, watched_ns=0, since_unix_ns=state.looked_unix_ns)


def _abort(state: RolloutState, evidence: Evidence, actor: str, reason: str, *, is_alarm: bool) -> Decision:
    facts = {"step": state.step + 1, "share_bp": 0, "evidence": evidence.as_dict()}
    aborted = replace(state, phase=Phase.ABORTED, reason=reason)
    return Decision(aborted, DesiredChange(0, reason), (Audit("aborted", actor, reason, facts, is_alarm),))


def _finish(state: RolloutState, evidence: Evidence, actor: str, reason: str) -> Decision:
    facts = {"step": state.step + 1, "share_bp": WHOLE_BP, "evidence": evidence.as_dict()}
    finished = replace(state, phase=Phase.FINISHED, reason=reason)
    return Decision(finished, DesiredChange(WHOLE_BP, reason), (Audit("finished", actor, reason, facts),))


def _breach(spec: RolloutSpec, evidence: Evidence) -> str:
    """Why the canary has to go at once, or nothing."""
    failed = [f"{each.metric}: {each.why}" for each in evidence.verdicts if each.verdict is Verdict.FAIL]
    if failed:
        return f"{'; '.join(failed)}; {evidence.bad_answers} bad answers reached clients"
    if evidence.excess_bad_answers > spec.max_bad_answers:
        return (
            f"{evidence.bad_answers} bad answers reached clients, {evidence.excess_bad_answers:.0f} more than stable's "
            f"rate explains; the rollout's bound is {spec.max_bad_answers}"
        )
    return ""


def _undecided(min_requests: int, evidence: Evidence) -> str:
    if evidence.answers < min_requests:
        return f"{evidence.answers} of {min_requests} answers"
    open_ = [
        f"{each.metric} ({each.why})"
        for each in evidence.verdicts
        if each.verdict is not Verdict.PASS and not each.is_guard
    ]
    return ", ".join(open_) or "its time was up before its evidence was looked at"


def _watched(spec: RolloutSpec, state: RolloutState, now_unix_ns: int) -> int:
    """How long the step was watched by now: between two looks at most two windows, and nothing while paused."""
    if state.phase is not Phase.RUNNING:
        return state.watched_ns
    passed = min(max(0, now_unix_ns - state.looked_unix_ns), round(2 * spec.window_s * _NS))
    return state.watched_ns + passed


def _refused(text: str) -> ControlError:
    return ControlError(text, code=Code.FAILED_PRECONDITION)
