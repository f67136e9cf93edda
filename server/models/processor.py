"""How long this process's threads have run, and how long they have waited for a processor, as the kernel counts it."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

_TASKS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """Of all threads together, in nanoseconds, since something was first read; what they slept is in neither."""

    ran_ns: int = 0
    waited_ns: int = 0


class ThreadClock:
    """Adds up what threads ran and waited. `read` runs on one thread.

    Parameters
    ----------
    tasks : Path
        The folder of a process's threads in /proc. Where the kernel counts nothing there, both times stay 0.
    """

    def __init__(self, tasks: Path = _TASKS) -> None:
        self._tasks = tasks
        self._last: dict[str, tuple[int, int]] = {}
        self._times = ThreadTimes()

    def read(self) -> ThreadTimes:
        """What there was until now; never falls, though threads end."""
        found = {}
        with contextlib.suppress(OSError):
            for task in self._tasks.iterdir():
                # A thread may end between the two.
                with contextlib.suppress(OSError, ValueError):
                    ran_ns, waited_ns, _ = map(int, (task / "schedstat").read_text().split())
                    found[task.name] = ran_ns, waited_ns
        ran_ns, waited_ns = self._times.ran_ns, self._times.waited_ns
        for name, (ran, waited) in found.items():
            # The number of a thread that ended may be given to another, which has run less.
            last_ran, last_waited = self._last.get(name, (ran, waited))
            ran_ns += max(0, ran - last_ran)
            waited_ns += max(0, waited - last_waited)
        self._last = found
        self._times = ThreadTimes(ran_ns, waited_ns)
        return self._times
