"""Tells people of alarms, on a thread of its own: whoever decides on rollouts never waits for a webhook."""

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import structlog

from mlops.alerts.actions import Notice
from mlops.rollout.alarms import Alarm
from tickserve.errors import TickserveError

_log = structlog.get_logger()
#: What failed is tried again after this long, doubled each time up to the longest.
_SHORTEST_S, _LONGEST_S = 0.5, 30.0


class Teller:
    """Alarms in the order in which they came, each until it was heard. Thread-safe.

    Parameters
    ----------
    tell : callable
        Tells somebody; where it raises OSError or TickserveError nobody heard it.
    """

    def __init__(self, tell: Callable[[Notice], None]) -> None:
        self._tell = tell
        self._changed = threading.Condition()
        self._waiting: list[Alarm] = []
        self._heard: list[Alarm] = []
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="rollout-alarms", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; what it is at may still be told, and is not waited for."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()

    def add(self, alarms: Iterable[Alarm]) -> None:
        """Takes alarms that are not known yet."""
        with self._changed:
            self._waiting += [each for each in alarms if each not in self._waiting and each not in self._heard]
            self._changed.notify()

    @property
    def heard(self) -> tuple[Alarm, ...]:
        """What somebody was told, until it is forgotten."""
        with self._changed:
            return tuple(self._heard)

    def forget(self, alarms: Iterable[Alarm]) -> None:
        """These will not come again."""
        gone = tuple(alarms)
        with self._changed:
            self._heard = [each for each in self._heard if each not in gone]

    def _run(self) -> None:
        wait_s = _SHORTEST_S
        while (alarm := self._next()) is not None:
            try:
                self._tell(_notice(alarm))
            except (TickserveError, OSError) as error:
                _log.error("rollout_alarm_not_told", model=alarm.model, did=alarm.event, error=str(error))
                with self._changed:
                    self._changed.wait_for(lambda: self._is_ending, wait_s)
                wait_s = min(2 * wait_s, _LONGEST_S)
                continue
            wait_s = _SHORTEST_S
            with self._changed:
                self._waiting.remove(alarm)
                self._heard.append(alarm)

    def _next(self) -> Alarm | None:
        """The oldest, once there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_ending or bool(self._waiting))
            return None if self._is_ending else self._waiting[0]


def _notice(alarm: Alarm) -> Notice:
    return Notice(
        id=f"rollout-{alarm.rollout}-{alarm.sequence}",
        model=alarm.model,
        version=str(alarm.canary),
        row="rollout",
        level="critical",
        change=alarm.event,
        do="notify",
        evidence=alarm.reason,
        at=datetime.now(UTC).isoformat(),
    )
