"""Outcomes as a consumer of the log: joined as they are stored, figured now and then, exported and handed on."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
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
from mlops.prediction_log.outcomes import StoredOutcome
from tickserve.errors import TickserveError

_log = structlog.get_logger()
#: Figures are made no more often than this, and take no more than this share of the time.
_FIGURES_S, _SHARE = 30.0, 0.1

#: Appends metrics of a model's version, with their step, to the registry. Raises TickserveError.
RecordLive = Callable[[str, str, dict[str, PackageMetric], int], None]


class OutcomeConsumer:
    """Joins and figures. `collect` is of any thread, everything else of one.

    Figures take seconds where cross-sections are large, so that they are made on a thread of their own from rows that
    were taken before; meanwhile the log goes on.

    Parameters
    ----------
    tables : Path
        Where the latest figures are kept.
    on_figures : callable
        Is given the new figures of a version, on the thread of `tick`.
    record_live : callable, optional
        Is given them once a day of event time, on the thread of the figures.
    """

    name = "outcomes"

    def __init__(
        self,
        find: FindPackage,
        tables: Path,
        *,
        lengths: Lengths | None = None,
        on_figures: Callable[[Sequence[OutcomeFigure]], None] = lambda figures: None,
        record_live: RecordLive | None = None,
        figures_s: float = _FIGURES_S,
    ) -> None:
        self._find, self._lengths = find, lengths
        self._monitor = OutcomeMonitor(find, lengths=lengths)
        self._tables = tables
        self._on_figures, self._record_live = on_figures, record_live
        self._figures_s = self._pause_s = figures_s
        self._figured_at = -float("inf")
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

    def add_outcomes(self, outcomes: Sequence[StoredOutcome]) -> None:
        """Takes in what was reported."""
        self._monitor.add_outcomes(outcomes)

    def tick(self) -> None:
        """Sees to the figures of what changed."""
        if self._under_way is not None:
            if self._under_way.done():
                done, self._under_way = self._under_way, None
                took_s = time.monotonic() - self._figured_at
                self._pause_s = max(self._figures_s, took_s / _SHARE) if self._figures_s else 0.0
                self._publish(done.result())
        elif time.monotonic() - self._figured_at >= self._pause_s:
            work = self._monitor.work(self._monitor.take_changed())
            if work:
                self._figured_at = time.monotonic()
                self._under_way = self._start(work)

    def checkpoint(self) -> bytes:
        """The joined rows and those that wait, and whose figures are still to be made."""
        return self._monitor.checkpoint()

    def restore(self, data: bytes) -> None:
        """Takes up what `checkpoint` gave. Raises ValueError where these bytes are none."""
        monitor = OutcomeMonitor(self._find, lengths=self._lengths)
        monitor.restore(data)
        self._monitor = monitor

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

    def _start(self, work: list[Work]) -> Future[list[OutcomeFigure]]:
        """On a thread that no end of the process waits for: the figures can be made again."""
        found: Future[list[OutcomeFigure]] = Future()

        def run() -> None:
            try:
                found.set_result(self._figure(work))
            except BaseException as error:  # noqa: BLE001 - raised again where the result is taken
                found.set_exception(error)

        threading.Thread(target=run, name="outcome-figures", daemon=True).start()
        return found

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
