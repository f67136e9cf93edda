"""Outcomes as a consumer of the log: joined as they are stored, figured now and then, exported and handed on."""

import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from mlops.outcomes import Lengths, OutcomeFigure
from mlops.outcomes.live import live_metrics
from mlops.outcomes.monitor import FindPackage, OutcomeMonitor, Work
from mlops.outcomes.table import read_latest, write_latest
from mlops.package import Metric as PackageMetric
from mlops.prediction_log.batch import Batch
from mlops.prediction_log.outcomes import read_outcomes
from tickserve.errors import TickserveError

_log = structlog.get_logger()
#: Stored outcomes are looked for this often, and figures are made no more often than that.
_LOOK_S, _FIGURES_S = 1.0, 30.0
#: Outcomes taken in at one tick, so that the rings are not kept waiting.
_AT_ONCE = 2000
_ORDER = struct.Struct("<q")

#: Appends metrics of a model's version, with their step, to the registry. Raises TickserveError.
RecordLive = Callable[[str, str, dict[str, PackageMetric], int], None]


class OutcomeConsumer:
    """Joins and figures. `add`, `tick`, `checkpoint` and `restore` are of one thread; `collect` is of any.

    Figures take seconds where cross-sections are large, so that they are made on a thread of their own from rows that
    were taken before; meanwhile the log goes on.

    Parameters
    ----------
    log, tables : Path
        Of the log, with its stored outcomes, and of the tables.
    on_figures : callable
        Is given the new figures of a version, on the thread of `tick`.
    record_live : callable, optional
        Is given them once a day of event time, on the thread of the figures.
    """

    name = "outcomes"

    def __init__(
        self,
        find: FindPackage,
        log: Path,
        tables: Path,
        *,
        lengths: Lengths | None = None,
        on_figures: Callable[[Sequence[OutcomeFigure]], None] = lambda figures: None,
        record_live: RecordLive | None = None,
        look_s: float = _LOOK_S,
        figures_s: float = _FIGURES_S,
    ) -> None:
        self._find, self._lengths = find, lengths
        self._monitor, self._order = OutcomeMonitor(find, lengths=lengths), -1
        self._folder, self._tables = log, tables
        self._on_figures, self._record_live = on_figures, record_live
        self._look_s, self._figures_s = look_s, figures_s
        self._looked_at = self._figured_at = -float("inf")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="outcomes")
        self._under_way: Future[list[OutcomeFigure]] | None = None
        self._recorded: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._latest: dict[tuple[str, str], tuple[OutcomeFigure, ...]] = {}
        self._load()

    @property
    def latest(self) -> list[OutcomeFigure]:
        """The last figures of every version, of this life or one before."""
        with self._lock:
            return [figure for figures in self._latest.values() for figure in figures]

    def add(self, batch: Batch) -> None:
        """Takes in records of one version."""
        self._monitor.add(batch)

    def tick(self) -> None:
        """Takes in what was stored since, and sees to the figures of what changed."""
        now = time.monotonic()
        if now - self._looked_at >= self._look_s:
            self._looked_at = now
            self._take_outcomes()
        if self._under_way is not None:
            if self._under_way.done():
                done, self._under_way = self._under_way, None
                self._publish(done.result())
        elif now - self._figured_at >= self._figures_s:
            work = self._monitor.work(self._monitor.take_changed())
            if work:
                self._figured_at = now
                self._under_way = self._worker.submit(self._figure, work)

    def checkpoint(self) -> bytes:
        """The joined rows, those that wait, and up to which outcome."""
        return _ORDER.pack(self._order) + self._monitor.checkpoint()

    def restore(self, data: bytes) -> None:
        """Takes up what `checkpoint` gave. Raises ValueError where these bytes are none."""
        if len(data) < _ORDER.size:
            raise ValueError("no checkpoint of outcomes: it is too short")
        monitor = OutcomeMonitor(self._find, lengths=self._lengths)
        monitor.restore(data[_ORDER.size :])
        self._monitor, self._order = monitor, _ORDER.unpack_from(data)[0]

    def collect(self) -> Iterator[Metric]:
        """Metric families; what is undefined is absent."""
        labels = ["model", "version", "horizon", "figure"]
        families = {
            name: GaugeMetricFamily(f"tickserve_outcome_{name}", text, labels=labels)
            for name, text in (
                ("value", "A figure of what came of predictions (docs/outcomes.md)."),
                ("lower", "Lower bound of its 95% interval; absent where there is none."),
                ("upper", "Upper bound of its 95% interval; absent where there is none."),
                ("n", "Periods or rows behind it."),
            )
        }
        for figure in self.latest:
            key = [figure.model, figure.version, figure.horizon, figure.figure]
            for name, family in families.items():
                value = getattr(figure, name)
                if value is not None:
                    family.add_metric(key, float(value))
        yield from families.values()
        yield GaugeMetricFamily(
            "tickserve_outcome_rows_waiting", "Predicted rows without an outcome yet.", float(self._monitor.waiting)
        )
        yield CounterMetricFamily(
            "tickserve_outcome_rows_let_go",
            "Predicted rows that waited for an outcome until there were too many.",
            float(self._monitor.let_go),
        )

    def close(self) -> None:
        """Ends the thread of the figures."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _take_outcomes(self) -> None:
        taken = []
        for outcome in read_outcomes(self._folder, after_order=self._order):
            taken.append(outcome)
            if len(taken) == _AT_ONCE:
                # The rest at once, not in a second.
                self._looked_at = -float("inf")
                break
        if taken:
            self._monitor.add_outcomes(taken)
            self._order = taken[-1].order

    def _figure(self, work: list[Work]) -> list[OutcomeFigure]:
        """On the thread of the figures."""
        found: list[OutcomeFigure] = []
        for each in work:
            figures = each.figures()
            found += figures
            self._record(figures)
        return found

    def _record(self, figures: Sequence[OutcomeFigure]) -> None:
        metrics, step = live_metrics(figures)
        if self._record_live is None or not metrics or not figures[0].version:
            return
        key = figures[0].model, figures[0].version
        if step <= self._recorded.get(key, -1):
            return
        try:
            self._record_live(*key, metrics, step)
            self._recorded[key] = step
        except TickserveError as error:
            # The figures stand; the registry gets the next ones.
            _log.error("live_metrics_not_recorded", model=key[0], version=key[1], reason=error.message)

    def _publish(self, figures: list[OutcomeFigure]) -> None:
        by_version: dict[tuple[str, str], list[OutcomeFigure]] = {}
        for figure in figures:
            by_version.setdefault((figure.model, figure.version), []).append(figure)
        with self._lock:
            self._latest |= {key: tuple(found) for key, found in by_version.items()}
        for (model, version), found in by_version.items():
            _log.info("outcome_figures", model=model, version=version, figures=len(found))
            self._on_figures(found)
        try:
            write_latest(self._tables, self.latest)
        except OSError as error:
            _log.error("outcome_table_not_written", error=str(error))

    def _load(self) -> None:
        try:
            for figure in read_latest(self._tables):
                key = figure.model, figure.version
                self._latest[key] = (*self._latest.get(key, ()), figure)
        except (OSError, ValueError) as error:
            _log.error("outcome_table_not_read", error=str(error))
