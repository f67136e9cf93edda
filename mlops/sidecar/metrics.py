"""What Prometheus sees of the sidecar. What is undefined is absent."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mlops.prediction_log.segments import Totals

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Facts:
    """How the sidecar stands. `blocked` says why the log cannot be written, and is empty while it can."""

    totals: Totals
    position: int
    lag_records: int
    lag_s: float
    boots: int
    heartbeat_unix: float
    log_bytes: int
    blocked: str = ""
    outcomes: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    lags: dict[str, int] = field(default_factory=dict)
    expired: dict[str, int] = field(default_factory=dict)
    damaged_files: int = 0


class SidecarCollector(Collector):
    """Collects when scraped, on the scraper's thread."""

    def __init__(
        self, facts: Callable[[], Facts], exporters: Callable[[], Mapping[str, Callable[[], Iterable[Metric]]]]
    ) -> None:
        self._facts = facts
        self._exporters = exporters
        #: Exporters that failed at the last scrape.
        self._failed: frozenset[str] = frozenset()

    def collect(self) -> Iterator[Metric]:
        """Every metric of the sidecar, with those of its consumers; one that fails has none, and counts as failed."""
        exported, broken = self._export()
        facts = self._facts()
        totals = facts.totals
        yield _counter("tickserve_sidecar_records", "Records in the prediction log.", totals.records)
        yield _counter(
            "tickserve_sidecar_dropped",
            "Records that a server took a sequence number for and that never reached the log.",
            totals.missed,
        )
        yield _counter("tickserve_sidecar_damaged", "Slots of rings that held no part of a record.", totals.damaged)
        yield _counter("tickserve_sidecar_cut", "Records in the log that lack what had no room.", totals.cut)
        yield _gauge("tickserve_sidecar_lag_records", "Slots that are published and not in the log.", facts.lag_records)
        yield _gauge("tickserve_sidecar_lag_seconds", "Since the log last had everything.", facts.lag_s)
        yield _gauge("tickserve_sidecar_boots", "Lives of servers that are being followed.", facts.boots)
        yield _gauge(
            "tickserve_sidecar_heartbeat_timestamp_seconds", "When the rings were last looked at.", facts.heartbeat_unix
        )
        yield _gauge("tickserve_sidecar_log_bytes", "What the prediction log takes on disk.", facts.log_bytes)
        yield _gauge("tickserve_sidecar_log_position", "The position that the next record gets.", facts.position)
        yield _gauge("tickserve_sidecar_log_blocked", "1 while the log cannot be written.", float(bool(facts.blocked)))
        yield _gauge(
            "tickserve_sidecar_damaged_files",
            "Damaged files of the log that consumers passed over.",
            facts.damaged_files,
        )
        expired = CounterMetricFamily(
            "tickserve_sidecar_expired_records", "Records removed, by which bound.", labels=("bound",)
        )
        for bound, count in facts.expired.items():
            expired.add_metric([bound], count)
        yield expired
        outcomes = CounterMetricFamily("tickserve_outcomes", "Outcomes reported, by result.", labels=("result",))
        for result, count in facts.outcomes.items():
            outcomes.add_metric([result], count)
        yield outcomes
        failed = GaugeMetricFamily(
            "tickserve_sidecar_consumer_failed", "1 for each consumer of the log that failed.", labels=("consumer",)
        )
        behind = GaugeMetricFamily(
            "tickserve_sidecar_consumer_lag_records", "Records that a consumer has not seen.", labels=("consumer",)
        )
        for name, lag in facts.lags.items():
            failed.add_metric([name], float(name in facts.failed or name in broken))
            behind.add_metric([name], lag)
        yield from (failed, behind)
        yield from exported

    def _export(self) -> tuple[list[Metric], frozenset[str]]:
        exported: list[Metric] = []
        broken = set()
        for name, export in self._exporters().items():
            try:
                # A list, so that one that fails half-way leaves no half.
                exported += list(export())
            except Exception as error:  # noqa: BLE001 - whatever it is, the others must be seen; it is logged and exported
                broken.add(name)
                if name not in self._failed:
                    _log.error("consumer_not_exported", consumer=name, error=f"{type(error).__name__}: {error}")
        self._failed = frozenset(broken)
        return exported, self._failed


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
