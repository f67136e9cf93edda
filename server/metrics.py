"""What Prometheus sees: the engine's counters and the reconciler's state, read at each scrape."""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mlops.histogram import exposition_buckets
from server.engine import Counters
from server.engine.base import ModelCounters, StageCounts
from server.engine.totals import model_totals
from server.models import Snapshot
from server.models.records import refused_versions
from server.tap import TapTotals
from tickserve import __version__
from tickserve.listening.tls import Certificates

_BUCKETS = exposition_buckets()
_VERSION_LABELS = ("model", "version", "role")


class ServerCollector(Collector):
    """Turns one copy of the counters and one snapshot into metric families."""

    def __init__(
        self,
        engine_name: str,
        counters: Callable[[], Counters],
        snapshot: Callable[[], Snapshot],
        is_ready: Callable[[], bool],
        tap: Callable[[], TapTotals | None] = lambda: None,
        events: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._engine_name = engine_name
        self._counters = counters
        self._snapshot = snapshot
        self._is_ready = is_ready
        self._tap = tap
        self._events = events
        self._started = time.time()
        self._busy = BusyRatio(time.monotonic())

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of a scrape: registering must not read the engine."""
        return []

    def _workers(self, counters: Counters) -> Iterator[Metric]:
        seconds = CounterMetricFamily(
            "tickserve_worker_busy_seconds", "How long each thread that serves has run.", labels=("worker",)
        )
        ratio = GaugeMetricFamily(
            "tickserve_worker_busy_ratio",
            "Share of the last seconds, five at least, that each thread that serves has run.",
            labels=("worker",),
        )
        ratios = self._busy.update(time.monotonic(), counters.worker_busy_ns)
        for worker, (busy_ns, share) in enumerate(zip(counters.worker_busy_ns, ratios, strict=True)):
            seconds.add_metric([str(worker)], busy_ns / 1e9)
            ratio.add_metric([str(worker)], share)
        yield from (seconds, ratio)

    def collect(self) -> Iterator[Metric]:
        """All families."""
        counters, snapshot = self._counters(), self._snapshot()
        yield _labelled(
            "tickserve_build_info",
            "Always 1; says what is running.",
            {"version": __version__, "engine": self._engine_name, "python": platform.python_version()},
            1,
        )
        yield _gauge("tickserve_start_time_seconds", "When the server started, Unix time.", self._started)
        yield _gauge("tickserve_ready", "1 while the server is ready for requests.", float(self._is_ready()))
        yield _gauge("tickserve_plan_generation", "Generation of the installed plan.", snapshot.plan.generation)
        yield _gauge("tickserve_in_flight_requests", "Requests accepted and not answered.", counters.in_flight)
        yield _gauge(
            "tickserve_loop_lag_seconds", "How long a request that comes now should wait.", counters.loop_lag_seconds
        )
        yield _gauge("tickserve_source_age_seconds", "Time since desired state was last read.", snapshot.source_age_s)
        yield _gauge("tickserve_source_revision", "Revision of desired state read last.", snapshot.source_revision)
        yield _gauge(
            "tickserve_source_stale",
            "1 while desired state cannot be read, and the last that could is obeyed.",
            float(bool(snapshot.source_error)),
        )
        yield _gauge(
            "tickserve_loading_versions", "Versions that are being loaded or wait for that.", len(snapshot.loading)
        )
        yield from self._workers(counters)
        tap = self._tap()
        if tap is not None:
            yield from _tap(tap)
        faults = CounterMetricFamily(
            "tickserve_faults", "Unexpected exceptions while answering; their tracebacks are in the log."
        )
        faults.add_metric([], counters.faults)
        yield faults
        events = CounterMetricFamily(
            "tickserve_events", "What changed at this server, by kind of event.", labels=("kind",)
        )
        for kind, count in self._events().items():
            events.add_metric([kind], count)
        yield events
        yield from _requests(counters)
        yield _stages(counters)
        yield from _shadows(counters)
        yield from _totals(model_totals(counters))
        yield from _models(snapshot)


class BusyRatio:
    """The share of time that each worker ran, over the last `SPAN_S` seconds or more, whoever scrapes how often."""

    SPAN_S = 5.0

    def __init__(self, now: float) -> None:
        self._before: tuple[float, Sequence[int]] = (now, [])
        self._last: tuple[float, Sequence[int]] = self._before

    def update(self, now: float, busy_ns: Sequence[int]) -> list[float]:
        """Takes what the workers have run altogether; returns a figure from 0 to 1 for each."""
        if now - self._last[0] >= self.SPAN_S:
            self._before, self._last = self._last, (now, busy_ns)
        since, before = self._before
        spent = [busy - (before[index] if index < len(before) else 0) for index, busy in enumerate(busy_ns)]
        return [min(1.0, max(0.0, each / 1e9 / max(now - since, 1e-9))) for each in spent]


def _tap(totals: TapTotals) -> Iterator[Metric]:
    for name, text, count in (
        ("tickserve_tap_records", "Records written to the tap's rings.", totals.written),
        (
            "tickserve_tap_dropped",
            "Records that found no room, because no reader took the ones before.",
            totals.dropped,
        ),
        ("tickserve_tap_cut", "Records without all of their tensors, because they were too large.", totals.cut),
        ("tickserve_tap_uncounted_versions", "Versions that found no block of counters.", totals.unplaced),
    ):
        family = CounterMetricFamily(name, text)
        family.add_metric([], count)
        yield family


def _requests(counters: Counters) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "tickserve_requests",
        "Requests by outcome: ok, or the reason of the refusal.",
        labels=(*_VERSION_LABELS, "outcome"),
    )
    rows = CounterMetricFamily("tickserve_rows", "Rows answered.", labels=_VERSION_LABELS)
    slow = CounterMetricFamily(
        "tickserve_slow_requests", "Answers over the package's latency budget.", labels=_VERSION_LABELS
    )
    violations = CounterMetricFamily(
        "tickserve_rule_violations",
        "Broken input and output rules, by policy.",
        labels=(*_VERSION_LABELS, "rule", "policy"),
    )
    for item in counters.versions:
        identity = [item.model, item.version, item.role.label]
        requests.add_metric([*identity, "ok"], item.answered)
        for reason, count in item.errors.items():
            requests.add_metric([*identity, reason], count)
        rows.add_metric(identity, item.rows)
        slow.add_metric(identity, item.slow)
        for (rule, policy), count in item.rule_violations.items():
            violations.add_metric([*identity, rule, policy], count)
    for (model, reason), count in counters.refused.items():
        requests.add_metric([model, "", "", reason], count)
    yield from (requests, rows, slow, violations)


def _stages(counters: Counters) -> Metric:
    stages = HistogramMetricFamily(
        "tickserve_stage_seconds", "Duration of each stage of answered requests.", labels=(*_VERSION_LABELS, "stage")
    )
    for item in counters.versions:
        for stage, counts in item.stages.items():
            stages.add_metric([item.model, item.version, item.role.label, stage], _classic(counts), counts.sum_ns / 1e9)
    return stages


def _shadows(counters: Counters) -> Iterator[Metric]:
    dropped = CounterMetricFamily(
        "tickserve_shadow_dropped",
        "Copies of requests that found no room in the queue of shadows.",
        labels=("model", "version"),
    )
    for (model, version), count in counters.shadow_dropped.items():
        dropped.add_metric([model, version], count)
    yield dropped
    yield _gauge("tickserve_shadow_queued", "Copies of requests that wait for a shadow.", counters.shadow_queued)


def _totals(models: Iterable[ModelCounters]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "tickserve_model_requests",
        "Requests that reached a version, over all versions since the start, by outcome.",
        labels=("model", "outcome"),
    )
    rows = CounterMetricFamily("tickserve_model_rows", "Rows answered, over all versions.", labels=("model",))
    slow = CounterMetricFamily(
        "tickserve_model_slow_requests", "Answers over the latency budget, over all versions.", labels=("model",)
    )
    violations = CounterMetricFamily(
        "tickserve_model_rule_violations",
        "Broken input and output rules by policy, over all versions.",
        labels=("model", "rule", "policy"),
    )
    duration = HistogramMetricFamily(
        "tickserve_model_request_seconds", "Duration of answered requests, over all versions.", labels=("model",)
    )
    for item in models:
        requests.add_metric([item.model, "ok"], item.answered)
        for reason, count in item.errors.items():
            requests.add_metric([item.model, reason], count)
        rows.add_metric([item.model], item.rows)
        slow.add_metric([item.model], item.slow)
        for (rule, policy), count in item.rule_violations.items():
            violations.add_metric([item.model, rule, policy], count)
        whole = item.stages["total"]
        duration.add_metric([item.model], _classic(whole), whole.sum_ns / 1e9)
    yield from (requests, rows, slow, violations, duration)


def _models(snapshot: Snapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "tickserve_model_info",
        "1 for each version that is served, with its digest.",
        labels=(*_VERSION_LABELS, "digest"),
    )
    halted = GaugeMetricFamily("tickserve_model_halted", "1 while the model is halted.", labels=("model",))
    failed = GaugeMetricFamily(
        "tickserve_failed_change",
        "1 for each version that should be served and could not be.",
        labels=("model", "version"),
    )
    load = GaugeMetricFamily(
        "tickserve_model_load_seconds", "How long loading and checking took.", labels=("model", "version")
    )
    resident = GaugeMetricFamily(
        "tickserve_model_resident_bytes", "Memory that loading took.", labels=("model", "version")
    )
    behind = GaugeMetricFamily(
        "tickserve_model_behind", "1 while the model serves anything but what is desired.", labels=("model",)
    )
    held = GaugeMetricFamily(
        "tickserve_model_held", "1 while the model does not follow desired state.", labels=("model",)
    )
    taken_out = GaugeMetricFamily(
        "tickserve_version_taken_out",
        "1 for each version that the breaker or an operator took out at this server.",
        labels=("model", "version"),
    )
    for record in snapshot.models:
        behind.add_metric([record.name], float(snapshot.is_behind(record)))
        held.add_metric([record.name], float(record.name in snapshot.overrides.held))
        for version in refused_versions(record, snapshot.overrides):
            taken_out.add_metric([record.name, version], 1)
        for version in record.faults:
            failed.add_metric([record.name, version], 1)
        installed = snapshot.plan.models.get(record.name)
        if installed is None:
            continue
        halted.add_metric([record.name], float(installed.halt is not None))
        for number, version_plan in installed.versions.items():
            info.add_metric([record.name, number, installed.role(number).label, version_plan.digest.hex()], 1)
            load.add_metric([record.name, number], record.prepared[number].load_seconds)
            resident.add_metric([record.name, number], record.prepared[number].resident_bytes)
    yield from (info, halted, failed, load, resident, behind, held, taken_out)


def _classic(counts: StageCounts) -> list[tuple[str, float]]:
    cumulative = list(accumulate(counts.counts, initial=0))
    edges = [(repr(edge), float(cumulative[end])) for edge, end in _BUCKETS]
    return [*edges, ("+Inf", float(cumulative[-1]))]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def export_certificates(certificates: Certificates, registry: CollectorRegistry) -> None:
    """Adds what an operator must know of the certificates to the metrics."""

    def expires(setting: str) -> float:
        return certificates.current.expires_unix[setting]

    expiry = Gauge(
        "tickserve_tls_certificate_expiry_seconds",
        "When the first certificate in use from the file of this setting expires, Unix time.",
        ["setting"],
        registry=registry,
    )
    for setting in certificates.current.expires_unix:
        expiry.labels(setting).set_function(partial(expires, setting))
    refused = Gauge(
        "tickserve_tls_reload_refused",
        "1 while the TLS files hold something that is not served.",
        registry=registry,
    )
    refused.set_function(lambda: bool(certificates.refused))
