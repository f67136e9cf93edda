"""The counts of every version of the plan; those that left it are folded into their model's after some minutes, and
sooner where many left it.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from typing import NamedTuple
from weakref import WeakSet

from server.engine.base import ModelCounters, RunCounts, StageCounts
from server.engine.python.runtime import Tally
from server.engine.totals import add_up, merge, total
from server.plan import Role

#: Longer than scrapes are apart: a scraper has seen the last value of each series before it goes.
FOLD_AFTER_S = 300.0
#: How many of one model may wait for that, each in one role: more are folded at once, oldest first, so that changes in
#: quick succession hold no more memory than slow ones.
KEPT_APART = 16


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
        #: What requests hold while they may count; an identity is folded only when none of its are alive.
        self._holders: dict[Identity, WeakSet[object]] = {}
        self._left: dict[Identity, float] = {}
        self._folded: dict[str, ModelCounters] = {}

    def of(self, model: str, version: str, role: Role) -> Tally:
        """The tally to write to, the same one until it is folded."""
        return self._tallies.setdefault(Identity(model, version, role), Tally())

    def keep(self, planned: Mapping[Identity, object]) -> None:
        """Says which are in the plan from now on, and what requests to each will hold; the time of the others begins,
        or goes on.
        """
        now = self._clock()
        for identity in self._tallies:
            if identity in planned:
                self._left.pop(identity, None)
                self._holders.setdefault(identity, WeakSet()).add(planned[identity])
            else:
                self._left.setdefault(identity, now)
        self._fold()

    def read(self) -> tuple[list[tuple[Identity, Tally]], list[ModelCounters]]:
        """What is counted apart, and the totals of what is not any more."""
        self._fold()
        return list(self._tallies.items()), list(self._folded.values())

    def runs(self, versions: Collection[tuple[str, str]]) -> dict[tuple[str, str], RunCounts]:
        """How these versions, by model and version, have done in every role that answers and is counted apart."""
        found: dict[tuple[str, str], list[Tally]] = {}
        for identity, tally in self._tallies.items():
            if (identity.model, identity.version) in versions and identity.role is not Role.SHADOW:
                found.setdefault((identity.model, identity.version), []).append(tally)
        return {key: _runs(tallies) for key, tallies in found.items()}

    def _fold(self) -> None:
        now = self._clock()
        newer: Counter[str] = Counter()
        # In the order of leaving; the newest first.
        for identity, left in reversed(list(self._left.items())):
            newer[identity.model] += 1
            is_due = newer[identity.model] > KEPT_APART or now - left >= FOLD_AFTER_S
            if not is_due or self._holders.get(identity):
                continue
            del self._left[identity]
            self._holders.pop(identity, None)
            gone = self._tallies.pop(identity).copy(*identity)
            if identity.role is Role.SHADOW:
                # Copies are no requests of the model: they are in no sum.
                continue
            before = self._folded.get(identity.model)
            self._folded[identity.model] = total(identity.model, [gone] if before is None else [before, gone])


def _runs(tallies: Sequence[Tally]) -> RunCounts:
    runs = [tally.stages["run"] for tally in tallies]
    return RunCounts(
        answered=sum(tally.answered for tally in tallies),
        rows=sum(tally.rows for tally in tallies),
        errors=add_up([tally.errors.copy() for tally in tallies]),
        run=reduce(merge, [StageCounts(each.counts.copy(), each.sum_ns) for each in runs]),
    )
