"""Which window, and which piece of it, a time lies in."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from mlops.drift.columns import Integers
from mlops.drift.spec import DAY_NS, DriftSpec
from tickserve.errors import ConfigurationError

#: Sessions are known from here on.
_FIRST_SESSION = "1990-01-01"


@dataclass(frozen=True, slots=True)
class Places:
    """For each time: start and end (exclusive) of its window, and its sub-block; -1 where it lies in none."""

    start: Integers
    end: Integers
    sub_block: Integers


class Clock(Protocol):
    """Windows that follow event time."""

    def place(self, times: Integers) -> Places:
        """The window of each time."""

    def share(self, first_ns: int, last_ns: int) -> float:
        """One window's part of the stretch from `first_ns` to `last_ns`, 0 where that holds no window."""

    @property
    def days(self) -> float:
        """Days from one window to the next, on average over a year."""


@dataclass(frozen=True, slots=True)
class Tumbling:
    """Windows of one length, [k length, (k + 1) length) since 1970, in equal pieces."""

    length_ns: int
    sub_blocks: int

    def place(self, times: Integers) -> Places:
        """The window of each time."""
        start = times // self.length_ns * self.length_ns
        return Places(start, start + self.length_ns, _piece(times - start, self.length_ns, self.sub_blocks))

    def share(self, first_ns: int, last_ns: int) -> float:
        """One window's part of the stretch."""
        return self.length_ns / (last_ns - first_ns) if last_ns > first_ns else 0.0

    @property
    def days(self) -> float:
        """Length in days."""
        return self.length_ns / DAY_NS


@dataclass(frozen=True, eq=False, slots=True)
class Sessions:
    """The sessions of an exchange, open to close, the close included: daily features are true at the close.

    Times outside of sessions, and in the break of an exchange that has one, lie in no window: the reference of a
    session is the session.
    """

    opens: Integers
    closes: Integers
    sub_blocks: int

    @staticmethod
    def of(calendar: str, sub_blocks: int) -> "Sessions":
        """The calendar of that name in exchange_calendars; ConfigurationError where there is none."""
        opens, closes = _sessions(calendar)
        return Sessions(opens, closes, sub_blocks)

    def place(self, times: Integers) -> Places:
        """The session of each time."""
        session = np.minimum(np.searchsorted(self.closes, times, side="left"), len(self.closes) - 1)
        start, close = self.opens[session], self.closes[session]
        is_inside = (times >= start) & (times <= close)
        pieces = np.empty_like(times)
        pieces[:] = ((times - start) // 1000 * self.sub_blocks) // np.maximum((close - start) // 1000, 1)
        return Places(start, close + 1, np.where(is_inside, np.minimum(pieces, self.sub_blocks - 1), -1))

    def share(self, first_ns: int, last_ns: int) -> float:
        """One of the sessions that begin in the stretch."""
        sessions = int(np.searchsorted(self.opens, last_ns, "right") - np.searchsorted(self.closes, first_ns, "left"))
        return 1 / sessions if sessions > 0 else 0.0

    @property
    def days(self) -> float:
        """Days from one session to the next, over all years that are known."""
        return float(self.opens[-1] - self.opens[0]) / DAY_NS / max(len(self.opens) - 1, 1)


def clock_of(spec: DriftSpec) -> Clock | None:
    """What places times in the windows of a specification; None for count windows."""
    if spec.kind == "session":
        return Sessions.of(spec.calendar, spec.sub_blocks)
    if spec.kind == "time":
        return Tumbling(spec.length_s * 10**9, spec.sub_blocks)
    return None


def _piece(since_start: Integers, length_ns: int, sub_blocks: int) -> Integers:
    # Whole microseconds keep the product within an int64.
    pieces: Any = (since_start // 1000 * sub_blocks) // max(length_ns // 1000, 1)
    return np.asarray(np.minimum(pieces, sub_blocks - 1))


@cache
def _sessions(calendar: str) -> tuple[Integers, Integers]:
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        found = exchange_calendars.get_calendar(calendar, start=_FIRST_SESSION)
    except InvalidCalendarName:
        raise ConfigurationError(
            f"drift: no exchange calendar {calendar!r}; a code such as XNYS is expected", field="drift.calendar"
        ) from None
    except ValueError:
        # A calendar that begins later than ours.
        found = exchange_calendars.get_calendar(calendar)
    opens, closes = (getattr(found.schedule, name).to_numpy("datetime64[ns]") for name in ("open", "close"))
    return opens.astype(np.int64), closes.astype(np.int64)
