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
from mlops.alerts.matrix import Matrix, Row
from mlops.alerts.outbox import decide_scale, key_of, take, withdraw_unknown
from mlops.alerts.policy import RowState, Transition, counts
from mlops.alerts.reading import Reading
from mlops.alerts.state import Intent, StateFile
from tickserve.errors import Code, TickserveError

_log = structlog.get_logger()
#: More notices than this are not kept while nobody can be told; the oldest are given up, and the history says so.
MOST_PENDING = 1000
_CONFLICT_TRIES = 5
_TELLING = ("notify", "request_review")


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
        self._state = withdraw_unknown(self._state, self._rows, self._now())
        if self._state is not self._file.state:
            self._store()

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
        definition = self._rows[row]
        found: list[Transition] = []
        with self._lock:
            before = self._state
            for reading in readings:
                if not counts(self._state.rows.get(key_of(definition, reading), RowState()), reading):
                    self.passed_over["insufficient" if reading.value is None else "not_new"] += 1
                    continue
                self._state, transitions = take(self._state, definition, reading, self._now())
                found += transitions
            if self._state is not before:
                self._store()
        return found

    def act(self) -> int:
        """Tries everything that is to be done, and returns how much is left. Never raises for what an action meets."""
        with self._acting:
            seen: set[str] = set()
            is_deaf = False
            while found := self._take_up(seen):
                for intent in found:
                    # Who cannot be told one thing is not waited for with each of the others.
                    if not (is_deaf and intent.do in _TELLING):
                        is_done = self._try(intent)
                        is_deaf = is_deaf or (intent.do in _TELLING and not is_done)
                seen |= {intent.id for intent in found}
            if is_deaf:
                self._give_up_notices()
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

    def _try(self, intent: Intent) -> bool:
        try:
            result, detail = self._do(intent)
        except (TickserveError, OSError) as error:
            self.results[intent.do, "failed"] += 1
            text = error.message if isinstance(error, TickserveError) else str(error)
            _log.warning("alert_action_failed", model=self.model, row=intent.key, action=intent.do, error=text)
            return False
        self._finish(intent, result, detail)
        return True

    def _finish(self, intent: Intent, result: str, detail: str) -> None:
        # The line first: done again it is the same line, and the action is then found to be done.
        try:
            self._history.append(row_of(self.model, intent, result, detail, self._now()))
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
        if intent.do in ("halt", "roll_back", "reduce_share"):
            # One that was made is not made again: somebody may have ended it since.
            if intent.is_tried and self._actions.was_written(self.model, intent.id):
                return "done", ""
            return ("done" if self._do_traffic(intent) else "unchanged"), ""
        if intent.do in _TELLING:
            self._actions.notify(self._notice(intent))
        # A line of the history with this action is the request: who retrains reads it there.
        return "done", ""

    def _do_traffic(self, intent: Intent) -> bool:
        why = self._why(intent)
        if intent.do == "halt":
            return self._actions.halt(self.model, why)
        if intent.do == "reduce_share":
            return self._actions.reduce_share(self.model, why)
        return self._actions.roll_back(self.model, intent.version, why)

    def _do_scale(self, intent: Intent) -> tuple[str, str]:
        for left in reversed(range(_CONFLICT_TRIES)):
            found = self._actions.read_scale(self.model)
            if self._settle(found, intent.id):
                return "done", ""
            with self._lock:
                self._state, decision, detail = decide_scale(self._state, intent.id, found)
                if not self._store():
                    raise OSError("the state of the alerts cannot be stored")
                ownership, claims = self._state.ownership, self._state.claims
            if decision.write is None or ownership is None:
                is_ours = ownership is not None and ownership.writer == intent.id
                return ("overtaken" if decision.is_overtaken else "done" if is_ours else "unchanged"), detail
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

    def _settle(self, found: FoundScale, intent: str) -> bool:
        """Finds out whether a write was made whose end was not seen; True where it was this intent's.

        Claims that came or went since have intents of their own.
        """
        ownership = self._state.ownership
        if ownership is None:
            return False
        if not ownership.is_written and found.revision != ownership.revision:
            if not self._actions.was_written(self.model, ownership.writer):
                return False
            ownership = replace(ownership, is_written=True)
        is_done = ownership.is_written and ownership.writer == intent
        with self._lock:
            after = scale.written(ownership, self._state.claims.values()) if is_done else ownership
            self._state = replace(self._state, ownership=after)
        return is_done

    def _give_up_notices(self) -> None:
        with self._lock:
            notices = [each for each in self._state.outbox if each.do in _TELLING]
            stale = notices[: max(0, len(notices) - MOST_PENDING)]
        for intent in stale:
            self._finish(intent, "given_up", f"more than {MOST_PENDING} notices could not be sent")

    def _now(self) -> str:
        return self._clock().isoformat()

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
