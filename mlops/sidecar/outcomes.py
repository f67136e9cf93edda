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
from mlops.sidecar.late import LateRecords, ReadVersion, read_nothing
from tickserve.errors import TickserveError

_log = structlog.get_logger()
#: Figures are made no more often than this, and take no more than this share of the time.
_FIGURES_S, _SHARE = 30.0, 0.1
#: A package that was not to be had is looked for again after this.
_RETRY_S = 60.0
#: What was left out meanwhile is read again in pieces of about this.
_BUDGET_S = 0.05

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
    read : callable
        The log: of those records that came before their package could be had.
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
        read: ReadVersion = read_nothing,
    ) -> None:
        self._find, self._lengths = find, lengths
        self._monitor = OutcomeMonitor(find, lengths=lengths)
        self._read, self._late = read, LateRecords(read)
        self._looked_at = -float("inf")
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
        """Takes in records of one version.

        One whose package cannot be had is left out, and looked for again; once it is there, `tick` reads its records
        from the log, so that its figures are those of a replay.
        """
        fresh = self._late.fresh(batch)
        if fresh is None:
            return
        self._monitor.add(fresh)
        key = batch.model, batch.version, batch.digest
        if key in self._monitor.missing:
            self._late.skip(fresh)
        elif self._monitor.digest(*key[:2]) == batch.digest:
            self._late.supersede(*key, int(fresh.position[0]))

    def add_outcomes(self, outcomes: Sequence[StoredOutcome]) -> None:
        """Takes in what was reported."""
        self._monitor.add_outcomes(outcomes)

    def tick(self) -> None:
        """Sees to the figures of what changed, and to what came before its package."""
        self._make_up()
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
        return self._monitor.checkpoint(self._late.state())

    def restore(self, data: bytes) -> None:
        """Takes up what `checkpoint` gave. Raises ValueError where these bytes are none."""
        monitor, late = OutcomeMonitor(self._find, lengths=self._lengths), LateRecords(self._read)
        late.restore(monitor.restore(data))
        for key in late.keys:
            monitor.look_again(*key)
        self._monitor, self._late = monitor, late

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

    def _make_up(self) -> None:
        now = time.monotonic()
        missing = self._monitor.missing
        if missing and now - self._looked_at >= _RETRY_S:
            for key in {*self._late.keys, *self._monitor.kept} & missing:
                if self._monitor.look_again(*key):
                    _log.info("package_found", model=key[0], version=key[1], digest=key[2])
            # A registry that is away takes its time to say so.
            self._looked_at = time.monotonic()
            missing = self._monitor.missing
        for key in self._late.keys:
            if key in missing:
                continue
            if key in self._monitor.unfound:
                # Its package declares no outcomes.
                self._late.forget(key)
                continue
            self._late.supersede(*key)
            self._late.read(key, self._monitor.add, now + _BUDGET_S)

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
