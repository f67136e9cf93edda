"""The counts of every version of the plan; those that left it are folded into their model's after some minutes."""

import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from server.engine.base import ModelCounters
from server.engine.python.runtime import Tally
from server.engine.totals import total
from server.plan import Role

#: Longer than scrapes are apart and than any request runs: nothing is counted after it was folded, and a scraper has
#: seen the last value of each series before it goes.
FOLD_AFTER_S = 300.0


class Identity(NamedTuple):
    """What is counted apart."""

    model: str
    version: str
    role: Role


class Tallies:
    """Every tally that may still be written to, and the total of the others by model. Call under one lock.

    Parameters
    ----------
    clock : callable
        Monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tallies: dict[Identity, Tally] = {}
        self._left: dict[Identity, float] = {}
        self._folded: dict[str, ModelCounters] = {}

    def of(self, model: str, version: str, role: Role) -> Tally:
        """The tally to write to, the same one until it is folded."""
        return self._tallies.setdefault(Identity(model, version, role), Tally())

    def keep(self, planned: Collection[Identity]) -> None:
        """Says which are in the plan from now on; the time of the others begins, or goes on."""
        now = self._clock()
        for identity in self._tallies:
            if identity in planned:
                self._left.pop(identity, None)
            else:
                self._left.setdefault(identity, now)
        self._fold()

    def read(self) -> tuple[list[tuple[Identity, Tally]], list[ModelCounters]]:
        """What is counted apart, and the totals of what is not any more."""
        self._fold()
        return list(self._tallies.items()), list(self._folded.values())

    def _fold(self) -> None:
        now = self._clock()
        for identity in [identity for identity, left in self._left.items() if now - left >= FOLD_AFTER_S]:
            del self._left[identity]
            gone = self._tallies.pop(identity).copy(*identity)
            before = self._folded.get(identity.model)
            self._folded[identity.model] = total(identity.model, [gone] if before is None else [before, gone])
