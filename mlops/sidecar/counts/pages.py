"""Looks at the counters pages of every server of a tap, on a thread of its own.

The log's thread may take seconds over a batch; a window that is looked at so late would be one long window.
"""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from mlops.rollout.sums import MIXED_SHARE
from mlops.rollout.sums.write import Progress
from mlops.sidecar.counts.boot import CountedBoot
from mlops.sidecar.counts.windows import Moment
from mlops.sidecar.counts.writer import SumsWriter
from mlops.tap import COUNTERS, boots
from tickserve.errors import TickserveError

_log = structlog.get_logger()


def read_clocks() -> Moment:
    """Now."""
    return Moment(time.time_ns(), time.monotonic_ns())


class PageCounter:
    """Gives each window that is over to the writer. Thread-safe.

    Parameters
    ----------
    tap : Path
        The folder that the servers record to.
    window_ns : int
        Length of windows, where no rollout says another.
    """

    def __init__(
        self, tap: Path, reporter: str, writer: SumsWriter, *, window_ns: int, now: Callable[[], Moment] = read_clocks
    ) -> None:
        self._tap, self._reporter, self._writer = tap, reporter, writer
        self._window_ns, self._now = window_ns, now
        self._lock = threading.Lock()
        self._boots: dict[str, CountedBoot] = {}
        #: Boots that were counted to their end, and that nothing can be read of.
        self._done: set[str] = set()
        self._errors: dict[str, str] = {}
        self._mixed: dict[str, int] = {}
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        #: What ended the thread; it is for whoever ticks.
        self.fault: Exception | None = None

    def start(self, every_s: float) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, args=(every_s,), name="counters", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Looks at the pages whose windows are over."""
        known = self._writer.progress
        if known is None:
            return
        with self._lock:
            there = {path.name: path for path in boots(self._tap)}
            for name, path in there.items():
                self._open(path, {model: each for (boot, model), each in known.items() if boot == name})
            now = self._now()
            for boot in list(self._boots.values()):
                self._look(boot, now)
            self._done &= there.keys()
            self._errors = {name: error for name, error in self._errors.items() if name in there}

    @property
    def followed(self) -> frozenset[str]:
        """The boots that are being counted."""
        with self._lock:
            return frozenset(self._boots)

    def is_done(self, boot: str) -> bool:
        """Whether a boot was counted to its end, and all of it given to the writer."""
        with self._lock:
            return boot in self._done

    @property
    def mixed(self) -> Mapping[str, int]:
        """By model, windows in which a share changed."""
        with self._lock:
            return self._mixed.copy()

    @property
    def damaged(self) -> int:
        """Pages that cannot be read."""
        with self._lock:
            return len(self._errors)

    def close(self) -> None:
        """Ends the thread, and unmaps the pages."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            for boot in self._boots.values():
                boot.close()

    def _run(self, every_s: float) -> None:
        try:
            while not self._ending.wait(every_s):
                self.look()
        except Exception as error:  # noqa: BLE001 - raised by whoever ticks, so that it is logged and exported
            self.fault = error

    def _open(self, path: Path, known: dict[str, Progress]) -> None:
        name = path.name
        if name in self._boots or name in self._done or not (path / COUNTERS).exists():
            return
        if known and all(each.has_ended for each in known.values()):
            self._done.add(name)
            return
        try:
            self._boots[name] = CountedBoot(path, self._reporter, known)
        except (TickserveError, OSError) as error:
            self._failed(name, error)

    def _look(self, boot: CountedBoot, now: Moment) -> None:
        try:
            closed = boot.poll(now, lambda model: self._writer.lengths.get(model, self._window_ns))
        except (TickserveError, OSError) as error:
            self._failed(boot.name, error)
            return
        self._errors.pop(boot.name, None)
        for windows, progress in closed:
            if any(row.share_bp == MIXED_SHARE for row in windows):
                self._mixed[progress.model] = self._mixed.get(progress.model, 0) + 1
            self._writer.add(windows, progress)
        if boot.is_through:
            self._done.add(boot.name)
            boot.close()
            del self._boots[boot.name]

    def _failed(self, boot: str, error: Exception) -> None:
        if self._errors.get(boot) != str(error):
            _log.error("counters_unreadable", boot=boot, error=str(error))
        self._errors[boot] = str(error)
