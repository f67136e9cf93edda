"""The arithmetic of the breaker: whether one version does too badly, over the last seconds of its own counts."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub

from mlops.histogram import quantile_ns
from server.models.processor import ThreadTimes

#: Below this a run is never called slow. What was measured is one run after the other; a request finds a model of a few
#: megabytes out of the caches, and a busy machine makes tens of times as long of a short run.
FLOOR_NS = 500_000
#: A run that is shorter is seldom interrupted: what the kernel lets a thread run before it looks at the others.
SLICE_NS = 1_000_000
_NOT_COUNTED = ThreadTimes()


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a version is taken out.

    Parameters
    ----------
    bad_share : float
        More than this share of its answers bad: rules broken, or faults; 1 means never.
    run_factor : float
        Half of its runs or more took longer than this times what was measured before it was installed; 0 means never.
    requests : int
        With fewer requests in the window nothing is decided.
    window_s : float
        How far back it looks, in seconds.
    """

    bad_share: float = 0.5
    run_factor: float = 8.0
    requests: int = 100
    window_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What one version has done since the start: good and bad answers, rows, and run times by bucket.

    `times` is what all threads of the process ran and waited meanwhile.
    """

    answered: int
    bad: int
    rows: int
    run_counts: Sequence[int]
    times: ThreadTimes = _NOT_COUNTED

    def since(self, before: "Sample") -> "Sample":
        """What came after `before`."""
        counts = list(map(sub, self.run_counts, before.run_counts))
        times = ThreadTimes(self.times.ran_ns - before.times.ran_ns, self.times.waited_ns - before.times.waited_ns)
        return Sample(self.answered - before.answered, self.bad - before.bad, self.rows - before.rows, counts, times)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a version is to be taken out; `is_slow` where its answers are good but late."""

    why: str
    is_slow: bool


class Breaker:
    """Watches one installed version.

    Parameters
    ----------
    limits : BreakerLimits
    run_time_ns : int
        Median run of one row, as measured before it was installed.
    """

    def __init__(self, limits: BreakerLimits, run_time_ns: int) -> None:
        self._limits = limits
        self._slow_ns = max(limits.run_factor * run_time_ns, FLOOR_NS) if limits.run_factor else 0.0
        self._samples: deque[tuple[float, Sample]] = deque()

    def update(self, now: float, sample: Sample) -> Verdict | None:
        """Takes the counts at a monotonic time in seconds; says whether the version is to be taken out."""
        samples = self._samples
        if samples and sample.answered + sample.bad < samples[-1][1].answered + samples[-1][1].bad:
            # What it did in a role that it has lost is not counted apart any more.
            samples.clear()
        samples.append((now, sample))
        # The newest that is as old as the window stays, to count from.
        while len(samples) > 1 and now - samples[1][0] >= self._limits.window_s:
            samples.popleft()
        recent = sample.since(samples[0][1])
        requests = recent.answered + recent.bad
        if requests < self._limits.requests:
            return None
        if recent.bad > self._limits.bad_share * requests:
            return Verdict(
                f"{recent.bad} of {requests} answers were bad, more than {self._limits.bad_share:.1%}", is_slow=False
            )
        median_ns = quantile_ns(recent.run_counts, 0.5)
        # Measured for one row; more of them may take as many times as long.
        slow_ns = stretched_ns(self._slow_ns * max(1.0, recent.rows / max(1, recent.answered)), recent.times)
        if self._slow_ns and median_ns is not None and median_ns > slow_ns:
            return Verdict(
                f"half of {requests} runs took {median_ns / 1e3:.0f} us or longer, more than {slow_ns / 1e3:.0f} us",
                is_slow=True,
            )
        return None


def stretched_ns(run_ns: float, times: ThreadTimes) -> float:
    """How long a run of this length takes where threads wait for a processor as they did in `times`.

    What others take of the machine is no version's fault, and going back to another one would not help.
    """
    waited = times.waited_ns / times.ran_ns if times.ran_ns else 0.0
    return run_ns + waited * max(0.0, run_ns - SLICE_NS)
