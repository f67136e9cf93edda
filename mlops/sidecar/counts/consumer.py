"""Counting as a consumer of the log that ticks: windows of the counters pages, outputs from the log's batches."""

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from mlops.prediction_log.batch import Batch
from mlops.rollout.sums import MIXED_SHARE
from mlops.rollout.sums.write import Progress, outputs_row
from mlops.sidecar.counts.boot import Closed, CountedBoot
from mlops.sidecar.counts.outputs import OutputWindows
from mlops.sidecar.counts.windows import Moment
from mlops.sidecar.counts.writer import Reached, SumsWriter
from mlops.tap import COUNTERS, boots
from tickserve.errors import TickserveError

_log = structlog.get_logger()
#: How often windows of outputs are given to be written.
_OUTPUTS_S = 1.0
#: The last place in the log that was seen, and what the log had lost by then.
_SEEN = struct.Struct("<qq")


class CountsConsumer:
    """Counts every server of a tap. Everything but `collect` and `is_through` on one thread.

    Parameters
    ----------
    tap : Path
        The folder that the servers record to.
    window_ns : int
        Length of windows, where no rollout says another; and of windows of outputs.
    lag_s : callable
        For how long the log has not had everything.
    position : callable
        The place in the log that the next record gets.
    """

    name = "counts"

    def __init__(
        self,
        tap: Path,
        reporter: str,
        writer: SumsWriter,
        outputs: OutputWindows,
        *,
        window_ns: int,
        lag_s: Callable[[], float],
        position: Callable[[], int],
        now: Callable[[], Moment] = lambda: Moment(time.time_ns(), time.monotonic_ns()),
    ) -> None:
        self._tap, self._reporter, self._writer, self._outputs = tap, reporter, writer, outputs
        self._window_ns, self._lag_s, self._position, self._now = window_ns, lag_s, position, now
        self._boots: dict[str, CountedBoot] = {}
        #: Boots that were counted to their end, and that nothing can be read of.
        self._done: set[str] = set()
        self._errors: dict[str, str] = {}
        self._seen_position, self._missed = -1, 0
        self._outputs_to_ns, self._outputs_at = 0, 0
        self._mixed: dict[str, int] = {}

    def add(self, batch: Batch) -> None:
        """Takes records of one version."""
        self._seen_position = max(self._seen_position, int(batch.position[-1]))
        self._missed = max(self._missed, int(batch.missed[-1]))
        self._outputs.add(batch)

    def checkpoint(self) -> bytes:
        """The windows of outputs; how far pages were counted is where the windows are."""
        return _SEEN.pack(self._seen_position, self._missed) + self._outputs.checkpoint()

    def restore(self, data: bytes) -> None:
        """Raises ValueError where this is none."""
        if len(data) < _SEEN.size:
            raise ValueError("not a checkpoint of counts")
        self._outputs.restore(data[_SEEN.size :])
        self._seen_position, self._missed = _SEEN.unpack_from(data)

    def tick(self) -> None:
        """Looks at the pages whose windows are over, and gives what is complete to be written."""
        if self._writer.fault is not None:
            raise self._writer.fault
        known = self._writer.progress
        if known is None:
            return
        there = {path.name: path for path in boots(self._tap)}
        for name, path in there.items():
            self._open(path, {model: each for (boot, model), each in known.items() if boot == name})
        now = self._now()
        for boot in list(self._boots.values()):
            self._look(boot, now)
        self._done &= there.keys()
        self._errors = {name: error for name, error in self._errors.items() if name in there}
        if now.steady_ns - self._outputs_at >= _OUTPUTS_S * 1e9:
            self._outputs_at = now.steady_ns
            self._give_outputs(now.unix_ns)

    def is_through(self, boot: Path) -> bool:
        """Whether the counters of a boot are needed no more."""
        if not self._writer.has_registry:
            return True
        return boot.name in self._done and self._writer.is_written(boot.name)

    def collect(self) -> Iterator[Metric]:
        """How far counting is, and what stands in its way."""
        labels = ("model",)
        complete = GaugeMetricFamily(
            "tickserve_counts_complete_timestamp_seconds",
            "Up to when the windows of counts are in the registry.",
            labels=labels,
        )
        written = CounterMetricFamily("tickserve_counts_windows", "Windows written to the registry.", labels=labels)
        mixed = CounterMetricFamily(
            "tickserve_counts_mixed_windows",
            "Windows in which the share of a version changed, or that lie over a gap.",
            labels=labels,
        )
        pending = GaugeMetricFamily(
            "tickserve_counts_pending_windows", "Windows that wait to be written.", labels=labels
        )
        models = {*self._writer.written.copy(), *self._mixed.copy()}
        for model in sorted(models):
            complete.add_metric([model], self._writer.complete_to_ns.get(model, 0) / 1e9)
            written.add_metric([model], self._writer.written.get(model, 0))
            mixed.add_metric([model], self._mixed.get(model, 0))
            pending.add_metric([model], self._writer.pending(model))
        yield from (complete, written, mixed, pending)
        yield GaugeMetricFamily(
            "tickserve_counts_written",
            "0 while windows cannot be written to the registry: it is away, or another sidecar has this one's name.",
            value=float(not self._writer.error),
        )
        yield GaugeMetricFamily(
            "tickserve_counts_damaged_pages", "Counters pages that cannot be read.", value=float(len(self._errors))
        )
        yield CounterMetricFamily(
            "tickserve_counts_late_records", "Records that came too late for their window.", value=self._outputs.late
        )
        yield CounterMetricFamily(
            "tickserve_counts_lost_outputs",
            "Windows of outputs that had no room to wait for the registry.",
            value=self._writer.lost_outputs,
        )

    def close(self) -> None:
        """Writes what waits, if that is soon done, and ends."""
        self._give_outputs(self._now().unix_ns)
        self._writer.stop()
        for boot in self._boots.values():
            boot.close()

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
        for each in closed:
            self._give(boot.name, each)
        if boot.is_through:
            self._done.add(boot.name)
            boot.close()
            del self._boots[boot.name]

    def _give(self, boot: str, closed: Closed) -> None:
        progress = Progress(
            boot=boot,
            model=closed.model,
            server=closed.server,
            complete_to_ns=closed.end_ns,
            outputs_to_ns=0,
            window_ns=closed.window_ns,
            dropped=0,
            state=closed.state,
            has_ended=closed.has_ended,
        )
        if any(row.share_bp == MIXED_SHARE for row in closed.windows):
            self._mixed[closed.model] = self._mixed.get(closed.model, 0) + 1
        self._writer.add(closed.windows, progress)

    def _give_outputs(self, unix_ns: int) -> None:
        # Before anything that is published later: what it says is true of what was read before.
        is_level = self._seen_position + 1 >= self._position()
        level_ns = unix_ns - round(self._lag_s() * 1e9)
        rows = [outputs_row(model, window) for model, window in self._outputs.changed(unix_ns)]
        if is_level:
            self._outputs_to_ns = max(self._outputs_to_ns, level_ns)
            self._outputs.let_go(level_ns)
        self._writer.reach(rows, Reached(frozenset(self._boots), self._outputs_to_ns, self._missed))

    def _failed(self, boot: str, error: Exception) -> None:
        if self._errors.get(boot) != str(error):
            _log.error("counters_unreadable", boot=boot, error=str(error))
        self._errors[boot] = str(error)
