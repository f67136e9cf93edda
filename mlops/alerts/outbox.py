"""From windows to what is to be done: pure changes of a model's state, to be stored before anything is done."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from mlops.alerts import scale
from mlops.alerts.actions import FoundScale
from mlops.alerts.matrix import LEVELS, LevelName, Row
from mlops.alerts.policy import RowState, Transition, step
from mlops.alerts.reading import Reading
from mlops.alerts.state import Change, Deed, Intent, ModelState, claim_of

#: What acts comes before what tells: nobody has to be reachable for a position to be reduced.
_ORDER: tuple[Deed, ...] = (
    "halt",
    "roll_back",
    "reduce_share",
    "set_position_scale",
    "request_retraining",
    "request_review",
    "notify",
)


#: Not made any more once the level that asked for it has cleared.
_WITHDRAWN: frozenset[Deed] = frozenset({"halt", "roll_back", "reduce_share"})


def key_of(row: Row, reading: Reading) -> str:
    """Under which a row's state is kept: each horizon has one of its own."""
    return f"{row.name}@{reading.horizon}" if reading.horizon else row.name


def take(state: ModelState, row: Row, reading: Reading, at: str) -> tuple[ModelState, tuple[Transition, ...]]:
    """Counts a window of a row, and puts what it leads to into the outbox."""
    key = key_of(row, reading)
    after, transitions = step(row, state.rows.get(key, RowState()), reading)
    state = replace(state, rows={**state.rows, key: after})
    for transition in transitions:
        state = _intend(state, row, key, transition, at)
    return state, transitions


def withdraw_unknown(state: ModelState, rows: Mapping[str, Row], at: str) -> ModelState:
    """Ends what rows hold that are not in the matrix any more: nothing would ever clear them."""
    for key, found in state.rows.items():
        row = rows.get(key.partition("@")[0])
        known = {name for name, _ in row.levels()} if row else set()
        for level in LEVELS:
            if found.latch(level).is_raised and level not in known:
                state = _withdraw(state, key, level, at)
    return state


def decide_scale(state: ModelState, writer: str, found: FoundScale) -> tuple[ModelState, scale.Decision, str]:
    """What to write, with the ownership for it in the state, and words for the history.

    Parameters
    ----------
    writer : str
        The action whose write it would be.
    """
    decision = scale.decide(found.scale, state.ownership, state.claims.values())
    detail = f"it is {found.scale:g}" if decision.write is None else ""
    if decision.is_overtaken:
        detail = f"somebody else set {found.scale:g}; what was there before is not restored"
        # Levels that were raised since the write that was overtaken act on what is there now.
        seen = state.ownership.sequence if state.ownership is not None and state.ownership.is_written else 0
        fresh = {
            each.claim
            for each in state.outbox
            if each.do == "set_position_scale" and each.change == "raised" and each.sequence > seen
        } & set(state.claims)
        state = _without_claims(state, set(state.claims) - fresh)
        after = scale.decide(found.scale, None, state.claims.values())
        decision = replace(after, is_overtaken=after.write is None)
    elif decision.ownership is None and decision.write is None and state.ownership is None:
        # It is low enough already: there is nothing of ours to restore later.
        state = _without_claims(state, set(state.claims))
    ownership = decision.ownership
    if ownership is not None:
        ownership = replace(ownership, sequence=state.sequence)
        if decision.write is not None:
            ownership = replace(ownership, revision=found.revision, writer=writer)
    return replace(state, ownership=ownership), decision, detail


def _intend(state: ModelState, row: Row, key: str, transition: Transition, at: str) -> ModelState:
    name, level = transition.level, row.level(transition.level)
    deeds: list[Deed] = ["record"]
    if transition.change == "raised":
        deeds += [deed for deed in _ORDER if deed in level.actions]
        if level.position_scale is not None:
            state = replace(state, claims={**state.claims, claim_of(key, name): level.position_scale})
    else:
        state, owed = _let_go(state, key, name)
        deeds += owed
        deeds += ["notify"] if "notify" in level.actions else []
    reading = transition.reading
    return _queue(state, deeds, key, name, transition.change, reading, at)


def _withdraw(state: ModelState, key: str, level: LevelName, at: str) -> ModelState:
    before = state.rows[key]
    latch = replace(before.latch(level), is_raised=False, beyond=0, within=0)
    state = replace(state, rows={**state.rows, key: before.with_latch(level, latch)})
    state, owed = _let_go(state, key, level)
    reading = Reading(state.model, before.version, before.window, 0, 0, None, evidence="no longer in the matrix")
    return _queue(state, ["record", *owed], key, level, "withdrawn", reading, at)


def _let_go(state: ModelState, key: str, level: LevelName) -> tuple[ModelState, list[Deed]]:
    """A level that holds no more: what could not be done to traffic meanwhile is not done; a claim is seen to."""
    kept = tuple(each for each in state.outbox if each.do not in _WITHDRAWN or (each.key, each.level) != (key, level))
    state, claim = replace(state, outbox=kept), claim_of(key, level)
    return _without_claims(state, {claim}), ["set_position_scale"] if claim in state.claims else []


def _queue(
    state: ModelState, deeds: Sequence[Deed], key: str, level: LevelName, change: Change, reading: Reading, at: str
) -> ModelState:
    intents = tuple(
        Intent(
            id=f"{state.identity}-{sequence}",
            do=deed,
            key=key,
            level=level,
            change=change,
            version=reading.version,
            window=reading.window,
            value=reading.value,
            evidence=reading.evidence,
            at=at,
        )
        for sequence, deed in enumerate(deeds, state.sequence + 1)
    )
    return replace(state, sequence=state.sequence + len(intents), outbox=state.outbox + intents)


def _without_claims(state: ModelState, names: AbstractSet[str]) -> ModelState:
    return replace(state, claims={name: value for name, value in state.claims.items() if name not in names})
