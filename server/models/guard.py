"""The breaker at work: every installed version's own counts, a few times a second, and what follows from them."""

import time
from collections.abc import Callable, Collection, Mapping

from server.engine.base import RunCounts
from server.models.breaker import Breaker, BreakerLimits, Sample
from server.models.operations import Operations
from server.models.processor import ThreadClock, ThreadTimes
from server.models.reconciler import Reconciler
from tickserve.errors import Reason

#: Refusals that are the version's fault and not the caller's.
_BAD = (Reason.OUTPUT_RULE.value, Reason.INTERNAL.value)
_Key = tuple[str, str, int]
#: How versions have done, by model and version.
Runs = Callable[[Collection[tuple[str, str]]], Mapping[tuple[str, str], RunCounts]]


class Guard:
    """Holds every version that answers against the limits. `check` runs on one thread.

    Parameters
    ----------
    halts : bool
        Whether a version that does badly halts its model; otherwise the version before it comes back, and the model is
        halted only where there is none and the answers are bad.
    times : callable
        What the threads of this process have run and waited; see `ThreadClock`.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        operations: Operations,
        runs: Runs,
        limits: BreakerLimits,
        *,
        halts: bool,
        times: Callable[[], ThreadTimes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reconciler = reconciler
        self._operations = operations
        self._runs = runs
        self._limits = limits
        self._halts = halts
        self._times = times or ThreadClock().read
        self._clock = clock
        self._breakers: dict[_Key, Breaker | None] = {}

    def check(self) -> None:
        """Looks at every version once."""
        snapshot = self._reconciler.snapshot()
        watched: dict[_Key, int] = {}
        for record in snapshot.models:
            if record.plan is None or record.target is None or record.plan.halt is not None:
                continue
            for version in record.target.required:
                # Another installation of the same version is watched anew.
                key = record.name, version, record.since_unix_ns[version]
                watched[key] = record.prepared[version].run_time_ns
        self._breakers = {
            key: self._breakers[key] if key in self._breakers else Breaker(self._limits, run_time_ns)
            for key, run_time_ns in watched.items()
        }
        if not self._breakers:
            return
        found = self._runs([(model, version) for model, version, _ in self._breakers])
        now, times = self._clock(), self._times()
        for key, breaker in self._breakers.items():
            model, version, _ = key
            runs = found.get((model, version))
            if breaker is None or runs is None:
                continue
            verdict = breaker.update(now, _sample(runs, times))
            if verdict is not None:
                # Once is enough, also where there is no way back.
                self._breakers[key] = None
                self._operations.trip(model, version, verdict.why, halts=self._halts, is_slow=verdict.is_slow)


def _sample(runs: RunCounts, times: ThreadTimes) -> Sample:
    bad = sum(runs.errors.get(reason, 0) for reason in _BAD)
    return Sample(runs.answered, bad, runs.rows, runs.run.counts, times)
