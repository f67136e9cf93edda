"""Counting as a consumer of the log that ticks: outputs from the log's batches, beside the pages' own thread."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from mlops.prediction_log.batch import Batch
from mlops.rollout.sums.write import outputs_row
from mlops.sidecar.counts.outputs import OutputWindows
from mlops.sidecar.counts.pages import PageCounter, read_clocks
from mlops.sidecar.counts.windows import Moment
from mlops.sidecar.counts.writer import Reached, SumsWriter

#: How often windows of outputs are given to be written.
_OUTPUTS_S = 1.0
#: The last place in the log that was seen, and what the log had lost by then.
_SEEN = struct.Struct("<qq")


class CountsConsumer:
    """The side of counting that is a consumer. Everything but `collect` and `is_through` on one thread.

    Parameters
    ----------
    pages : PageCounter
        Looks at the counters pages meanwhile.
    lag_s : callable
        For how long the log has not had everything.
    position : callable
        The place in the log that the next record gets.
    """

    name = "counts"

    def __init__(
        self,
        pages: PageCounter,
        writer: SumsWriter,
        outputs: OutputWindows,
        *,
        lag_s: Callable[[], float],
        position: Callable[[], int],
        now: Callable[[], Moment] = read_clocks,
    ) -> None:
        self._pages, self._writer, self._outputs = pages, writer, outputs
        self._lag_s, self._position, self._now = lag_s, position, now
        self._seen_position, self._missed = -1, 0
        self._outputs_to_ns, self._outputs_at = 0, 0

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
        """Gives windows of outputs to be written. Raises what ended a thread of counting."""
        fault = self._writer.fault or self._pages.fault
        if fault is not None:
            raise fault
        now = self._now()
        if self._writer.progress is not None and now.steady_ns - self._outputs_at >= _OUTPUTS_S * 1e9:
            self._outputs_at = now.steady_ns
            self._give_outputs(now.unix_ns)

    def is_through(self, boot: Path) -> bool:
        """Whether the counters of a boot are needed no more."""
        if not self._writer.has_registry:
            return True
        return self._pages.is_done(boot.name) and self._writer.is_written(boot.name)

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
        mixed_windows = self._pages.mixed
        models = {*self._writer.written.copy(), *mixed_windows}
        for model in sorted(models):
            complete.add_metric([model], self._writer.complete_to_ns.get(model, 0) / 1e9)
            written.add_metric([model], self._writer.written.get(model, 0))
            mixed.add_metric([model], mixed_windows.get(model, 0))
            pending.add_metric([model], self._writer.pending(model))
        yield from (complete, written, mixed, pending)
        yield GaugeMetricFamily(
            "tickserve_counts_written",
            "0 while windows cannot be written to the registry: it is away, or another sidecar has this one's name.",
            value=float(not self._writer.error),
        )
        yield GaugeMetricFamily(
            "tickserve_counts_damaged_pages", "Counters pages that cannot be read.", value=float(self._pages.damaged)
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
        self._pages.close()
        self._give_outputs(self._now().unix_ns)
        self._writer.stop()

    def _give_outputs(self, unix_ns: int) -> None:
        # Before anything that is published later: what it says is true of what was read before.
        is_level = self._seen_position + 1 >= self._position()
        level_ns = unix_ns - round(self._lag_s() * 1e9)
        rows = [outputs_row(model, window) for model, window in self._outputs.changed(unix_ns)]
        if is_level:
            self._outputs_to_ns = max(self._outputs_to_ns, level_ns)
            self._outputs.let_go(level_ns)
        self._writer.reach(rows, Reached(self._pages.followed, self._outputs_to_ns, self._missed))
