"""The policy of one model, alive: takes readings, stores what they lead to, and does it, once.

What is to be done is stored before it is tried, and tried until it is done. A crash at any point repeats nothing that
had an effect: writes of desired state are compared with what is there first, lines of the history have identities, and
a notice that may have been sent already is sent again under the same identity.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from mlops.alerts import scale
from mlops.alerts.actions import Actions, FoundScale, Notice, Why
from mlops.alerts.history import History, row_of
from mlops.alerts.matrix import LevelName, Matrix, Row
from mlops.alerts.policy import RowState, Transition, counts, step
from mlops.alerts.reading import Reading
from mlops.alerts.state import Deed, Intent, StateFile, claim_of
from tickserve.errors import Code, TickserveError

_log = structlog.get_logger()
#: More notices than this are not kept while nobody can be told; the oldest are given up, and the history says so.
MOST_PENDING = 1000
_CONFLICT_TRIES = 5


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class AlertPolicy:
    """One model's rows. `observe` and `act` may be called on different threads.

    Parameters
    ----------
    folder : Path
        Of this model's state and history; one process at a time.

    Raises
    ------
    ConfigurationError
        Where another process acts for the model, or its state is damaged.
    """

    def __init__(
        self, model: str, matrix: Matrix, folder: Path, actions: Actions, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.model = model
        self._rows = {row.name: row for row in matrix.rows(model)}
        self._actions = actions
        self._clock = clock
        self._file = StateFile(folder, model)
        self._history = History(folder / "history.jsonl")
        self._state = self._file.state
        self._is_stored = True
        self._lock = threading.Lock()
        self._acting = threading.Lock()
        #: By action and result: `done`, `unchanged`, `overtaken`, `given_up`, `failed` (will be tried again).
        self.results: Counter[tuple[str, str]] = Counter()
        #: Windows that could not be counted: insufficient, late, doubled or overlapping.
        self.passed_over: Counter[str] = Counter()
        self._withdraw_unknown()

    @property
    def rows(self) -> Mapping[str, Row]:
        """The rows that hold for this model, by name."""
        return self._rows

    def levels(self) -> dict[str, int]:
        """0 none, 1 warning, 2 critical, by row and horizon; each row that ever counted a window."""
        with self._lock:
            return {key: state.level for key, state in self._state.rows.items()}

    def states(self) -> dict[str, RowState]:
        """All that is known of each row."""
        with self._lock:
            return dict(self._state.rows)

    @property
    def is_stored(self) -> bool:
        """Whether the disk has everything that was counted."""
        return self._is_stored

    @property
    def is_due(self) -> bool:
        """Whether `act` has anything to do."""
        return bool(self.pending) or not self._is_stored

    @property
    def pending(self) -> int:
        """Actions that are not done yet."""
        with self._lock:
            return len(self._state.outbox)

    def observe(self, row: str, readings: Iterable[Reading]) -> list[Transition]:
        """Counts windows of a row, in order; what they lead to is stored before this returns, where the disk lets it.

        Raises
        ------
        KeyError
            Where the model has no such row.
        """
        definition, found = self._rows[row], []
        with self._lock:
            before = self._state
            for reading in readings:
                found += self._take(definition, reading)
            if self._state is not before:
                self._store()
        return found

    def act(self) -> int:
        """Tries everything that is to be done, and returns how much is left. Never raises for what an action meets."""
        with self._acting:
            seen: set[str] = set()
            while found := self._take_up(seen):
                for intent in found:
                    self._try(intent)
                seen |= {intent.id for intent in found}
            return self.pending

    def close(self) -> None:
        """Lets another process act for the model."""
        self._file.close()

    def _take_up(self, seen: set[str]) -> tuple[Intent, ...]:
        """What was not tried in this call of `act`; stored as tried first, so that a crash leaves that to be known."""
        with self._lock:
            if not self._is_stored and not self._store():
                return ()
            outbox = self._state.outbox
            found = tuple(each for each in outbox if each.id not in seen)
            if found:
                self._state = replace(self._state, outbox=tuple(replace(each, is_tried=True) for each in outbox))
            return found if not found or self._store() else ()

    def _take(self, row: Row, reading: Reading) -> list[Transition]:
        key = f"{row.name}@{reading.horizon}" if reading.horizon else row.name
        before = self._state.rows.get(key, RowState())
        if not counts(before, reading):
            self.passed_over["insufficient" if reading.value is None else "not_new"] += 1
            return []
        after, transitions = step(row, before, reading)
        self._state = replace(self._state, rows={**self._state.rows, key: after})
        for transition in transitions:
            self._intend(row, key, transition)
        return list(transitions)

    def _intend(self, row: Row, key: str, transition: Transition) -> None:
        level = row.level(transition.level)
        claim = claim_of(key, transition.level)
        deeds: list[Deed] = ["record"]
        if transition.change == "raised":
            deeds += [action for action in _ORDER if action in level.actions]
            if level.position_scale is not None:
                self._state = replace(self._state, claims={**self._state.claims, claim: level.position_scale})
        else:
            self._withdraw_halts(key, transition.level)
            if claim in self._state.claims:
                self._drop_claims({claim})
                deeds.append("set_position_scale")
            deeds += ["notify"] if "notify" in level.actions else []
        reading = transition.reading
        for deed in deeds:
            self._queue(
                deed,
                key,
                transition.level,
                transition.change,
                reading.version,
                reading.window,
                reading.value,
                reading.evidence,
            )

    def _queue(
        self,
        do: Deed,
        key: str,
        level: LevelName,
        change: str,
        version: str,
        window: str,
        value: float | None,
        evidence: str,
    ) -> None:
        sequence = self._state.sequence + 1
        intent = Intent(
            id=f"{self._state.identity}-{sequence}",
            do=do,
            key=key,
            level=level,
            change=change,  # type: ignore[arg-type]
            version=version,
            window=window,
            value=value,
            evidence=evidence,
            at=self._clock().isoformat(),
        )
        self._state = replace(self._state, sequence=sequence, outbox=(*self._state.outbox, intent))

    def _withdraw_halts(self, key: str, level: LevelName) -> None:
        """A halt that could not be made while its level held is not made afterwards."""
        kept = tuple(
            each for each in self._state.outbox if not (each.do == "halt" and (each.key, each.level) == (key, level))
        )
        self._state = replace(self._state, outbox=kept)

    def _withdraw_unknown(self) -> None:
        """Ends what rows hold that are not in the matrix any more: nothing would ever clear them."""
        with self._lock:
            before = self._state
            for key, state in before.rows.items():
                row = self._rows.get(key.partition("@")[0])
                known = {name for name, _ in row.levels()} if row else set()
                for level in ("warning", "critical"):
                    if state.latch(level).is_raised and level not in known:
                        self._withdraw(key, level, state)
            if self._state is not before:
                self._store()

    def _withdraw(self, key: str, level: LevelName, state: RowState) -> None:
        latch = replace(state.latch(level), is_raised=False, beyond=0, within=0)
        changed = self._state.rows[key].with_latch(level, latch)
        self._state = replace(self._state, rows={**self._state.rows, key: changed})
        self._withdraw_halts(key, level)
        deeds: list[Deed] = ["record"]
        if claim_of(key, level) in self._state.claims:
            self._drop_claims({claim_of(key, level)})
            deeds.append("set_position_scale")
        for deed in deeds:
            self._queue(deed, key, level, "withdrawn", state.version, state.window, None, "no longer in the matrix")

    def _drop_claims(self, names: set[str]) -> None:
        kept = {name: value for name, value in self._state.claims.items() if name not in names}
        self._state = replace(self._state, claims=kept)

    # Doing

    def _try(self, intent: Intent) -> None:
        try:
            result, detail = self._do(intent)
        except (TickserveError, OSError) as error:
            self.results[intent.do, "failed"] += 1
            text = error.message if isinstance(error, TickserveError) else str(error)
            _log.warning("alert_action_failed", model=self.model, row=intent.key, action=intent.do, error=text)
            self._give_up_notices()
            return
        self._finish(intent, result, detail)

    def _finish(self, intent: Intent, result: str, detail: str) -> None:
        # The line first: done again it is the same line, and the action is then found to be done.
        try:
            self._history.append(row_of(self.model, intent, result, detail, self._clock().isoformat()))
        except OSError as error:
            _log.error("alert_history_not_written", model=self.model, error=error.strerror)
            return
        if intent.do != "record":
            self.results[intent.do, result] += 1
            _log.warning(
                "alert_action",
                model=self.model,
                row=intent.key,
                level=intent.level,
                change=intent.change,
                action=intent.do,
                result=result,
                detail=detail,
                evidence=intent.evidence,
            )
        with self._lock:
            self._state = self._state.without(intent.id)
            self._store()

    def _do(self, intent: Intent) -> tuple[str, str]:
        if intent.do == "set_position_scale":
            return self._do_scale(intent)
        if intent.do == "halt":
            # One that was made is not made again: somebody may have ended it since.
            if intent.is_tried and self._actions.was_written(self.model, intent.id):
                return "done", ""
            return ("done" if self._actions.halt(self.model, self._why(intent)) else "unchanged"), ""
        if intent.do in ("notify", "request_review"):
            self._actions.notify(self._notice(intent))
        # A line of the history with this action is the request: who retrains reads it there.
        return "done", ""

    def _do_scale(self, intent: Intent) -> tuple[str, str]:
        for left in reversed(range(_CONFLICT_TRIES)):
            found = self._actions.read_scale(self.model)
            self._settle(found)
            with self._lock:
                decision, detail = self._decide(intent, found)
                if not self._store():
                    raise OSError("the state of the alerts cannot be stored")
                ownership, claims = self._state.ownership, self._state.claims
            if decision.write is None or ownership is None:
                return ("overtaken" if decision.is_overtaken else "unchanged"), detail
            why = self._why(intent)
            give_back = not claims
            try:
                if give_back:
                    self._actions.give_back_scale(self.model, decision.write, found, why)
                else:
                    self._actions.write_scale(self.model, decision.write, found, why)
            except TickserveError as error:
                if error.code != Code.ABORTED or not left:
                    raise
                continue
            with self._lock:
                # Claims that came or went meanwhile have intents of their own.
                self._state = replace(self._state, ownership=scale.written(ownership, claims.values()))
                self._store()
            return "done", f"{found.scale:g} to {decision.write:g}" + (f"; {detail}" if detail else "")
        raise AssertionError("unreachable")

    def _settle(self, found: FoundScale) -> None:
        """Finds out whether a write was made whose end was not seen, where the scale alone does not tell."""
        ownership = self._state.ownership
        if ownership is None or ownership.is_written or found.revision == ownership.revision:
            return
        if self._actions.was_written(self.model, ownership.writer):
            with self._lock:
                self._state = replace(self._state, ownership=replace(ownership, is_written=True))

    def _decide(self, intent: Intent, found: FoundScale) -> tuple[scale.Decision, str]:
        """What to write, with the ownership for it taken into the state. Under the lock."""
        current = found.scale
        decision = scale.decide(current, self._state.ownership, self._state.claims.values())
        detail = f"it is {current:g}" if decision.write is None else ""
        if decision.is_overtaken:
            detail = f"somebody else set {current:g}; what was there before is not restored"
            # Levels that were raised since, and not acted on yet, act on what is there now.
            fresh = {
                each.claim for each in self._state.outbox if each.do == "set_position_scale" and each.change == "raised"
            } & set(self._state.claims)
            self._drop_claims(set(self._state.claims) - fresh)
            after = scale.decide(current, None, self._state.claims.values())
            decision = replace(after, is_overtaken=after.write is None)
        elif decision.ownership is None and decision.write is None and self._state.ownership is None:
            # It is low enough already: there is nothing of ours to restore later.
            self._drop_claims(set(self._state.claims))
        ownership = decision.ownership
        if ownership is not None and decision.write is not None:
            ownership = replace(ownership, revision=found.revision, writer=intent.id)
        self._state = replace(self._state, ownership=ownership)
        return decision, detail

    def _give_up_notices(self) -> None:
        with self._lock:
            notices = [each for each in self._state.outbox if each.do in ("notify", "request_review")]
            stale = notices[: max(0, len(notices) - MOST_PENDING)]
        for intent in stale:
            self._finish(intent, "given_up", f"more than {MOST_PENDING} notices could not be sent")

    def _why(self, intent: Intent) -> Why:
        return Why(intent.id, f"{intent.key} {intent.level} {intent.change}: {intent.evidence}")

    def _notice(self, intent: Intent) -> Notice:
        return Notice(
            intent.id,
            self.model,
            intent.version,
            intent.key,
            intent.level,
            intent.change,
            intent.do,
            intent.evidence,
            intent.at,
        )

    def _store(self) -> bool:
        """Writes the state; where the disk refuses it is kept in memory, written later, and nothing is done before."""
        try:
            self._file.write(self._state)
        except OSError as error:
            self._is_stored = False
            _log.error("alert_state_not_written", model=self.model, error=error.strerror)
        else:
            self._is_stored = True
        return self._is_stored


#: What acts comes before what tells: nobody has to be reachable for a position to be reduced.
_ORDER = ("halt", "set_position_scale", "request_retraining", "request_review", "notify")
