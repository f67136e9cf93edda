"""The state machine of one row: from a state and a reading to a state and what changed. Pure; nothing here acts.

Each level of a row is a latch of its own. It is raised by N windows in a row beyond its threshold and cleared by M in a
row on the good side of the one where it is left; a window between the two ends both runs and changes nothing.

Which windows count:
- Each once. One that starts before the last counted one ended is passed over: it is that window again, a late one, or
  one that overlaps it, and overlapping windows in a row are no evidence of anything lasting.
- One that can say nothing (insufficient, undefined) is as if it had not been: it neither raises, clears nor ends a run.
- One of another version than the last ends the runs, for they were about the version before. A level that is raised
  stays so until windows of whatever version now answers clear it.
"""

from dataclasses import dataclass, replace
from typing import Literal

from mlops.alerts.matrix import LEVELS, LevelName, Row
from mlops.alerts.reading import Reading


@dataclass(frozen=True, slots=True)
class Latch:
    """One level: the lengths of the present runs, and how often it was raised (`episode`)."""

    is_raised: bool = False
    beyond: int = 0
    within: int = 0
    episode: int = 0


@dataclass(frozen=True, slots=True)
class RowState:
    """One row of one model (and horizon): the last counted window, its version, and a latch for each level."""

    window: str = ""
    end: int | None = None
    version: str = ""
    warning: Latch = Latch()
    critical: Latch = Latch()

    def latch(self, level: LevelName) -> Latch:
        """The latch of a level."""
        return self.warning if level == "warning" else self.critical

    def with_latch(self, level: LevelName, latch: Latch) -> "RowState":
        """This latch in the place of the level's."""
        return replace(self, warning=latch) if level == "warning" else replace(self, critical=latch)

    @property
    def level(self) -> int:
        """0 none, 1 warning, 2 critical."""
        return 2 if self.critical.is_raised else int(self.warning.is_raised)


@dataclass(frozen=True, slots=True)
class Transition:
    """A level was raised or cleared by a window."""

    row: str
    level: LevelName
    change: Literal["raised", "cleared"]
    episode: int
    reading: Reading


def step(row: Row, state: RowState, reading: Reading) -> tuple[RowState, tuple[Transition, ...]]:
    """Takes one window; returns the state after it and what changed, the mildest level first."""
    value = reading.value
    if value is None or not counts(state, reading):
        return state, ()
    is_other = bool(state.version) and state.version != reading.version
    latches: dict[LevelName, Latch] = {}
    transitions: list[Transition] = []
    defined = dict(row.levels())
    for level in LEVELS:
        latch = state.latch(level)
        if level not in defined:
            latches[level] = latch
            continue
        if is_other:
            latch = replace(latch, beyond=0, within=0)
        after = _advance(row, level, latch, value)
        latches[level] = after
        if after.is_raised != latch.is_raised:
            change: Literal["raised", "cleared"] = "raised" if after.is_raised else "cleared"
            transitions.append(Transition(row.name, level, change, after.episode, reading))
    return RowState(reading.window, reading.end, reading.version, **latches), tuple(transitions)


def counts(state: RowState, reading: Reading) -> bool:
    """Whether a window says something, and has not been counted."""
    if reading.value is None or reading.value != reading.value or reading.end <= reading.start:
        return False
    return state.end is None or reading.start >= state.end


def _advance(row: Row, name: LevelName, latch: Latch, value: float) -> Latch:
    level = row.level(name)
    beyond = latch.beyond + 1 if row.is_beyond(name, value) else 0
    within = latch.within + 1 if not beyond and row.is_within(name, value) else 0
    if not latch.is_raised and beyond >= level.windows:
        return Latch(True, 0, 0, latch.episode + 1)
    if latch.is_raised and within >= level.clear_windows:
        return Latch(False, 0, 0, latch.episode)
    # Runs end where they decide, so that they stay as short as what they are held against.
    return replace(latch, beyond=0 if latch.is_raised else beyond, within=within if latch.is_raised else 0)
