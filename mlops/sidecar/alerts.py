"""Alerts in the sidecar: windows and figures in, levels out, and what they lead to done on a thread of its own."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from mlops.alerts.rates import rates
from mlops.alerts.reading import Reading
from mlops.alerts.runner import AlertPolicy
from mlops.alerts.sources import drift_reading, outcome_reading, rate_reading
from mlops.drift import WindowResult
from mlops.outcomes import OutcomeFigure
from mlops.prediction_log import Batch
from mlops.sidecar.rates import RateWindows
from mlops.tap.layout import STABLE_ROLE
from tickserve.errors import ConfigurationError

_log = structlog.get_logger()
#: What could not be done is tried again after this long, doubled each time up to the longest.
_SHORTEST_S, _LONGEST_S = 1.0, 60.0
#: A policy that could not be opened is tried again after this long.
_REOPEN_S = 60.0


class AlertConsumer:
    """One policy for each model, made when it is first heard of.

    Only the version that answers as stable counts: a canary is judged by its rollout.

    Parameters
    ----------
    open_policy : callable
        Opens the policy of a model. Raises ConfigurationError where another process acts for it.
    known : iterable of str
        Models that have state from before: what they owe is done without waiting for a window.
    windows : RateWindows
        The server's counts.
    """

    name = "alerts"

    def __init__(
        self,
        open_policy: Callable[[str], AlertPolicy],
        known: Iterable[str],
        windows: RateWindows,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = open_policy
        self._windows = windows
        self._clock = clock
        self._stable: dict[str, str] = {}
        self._policies: dict[str, AlertPolicy | None] = {}
        self._worker: threading.Thread | None = None
        self._wait_s, self._next, self._reopen_at = _SHORTEST_S, 0.0, clock() + _REOPEN_S
        for model in known:
            self._policy(model)

    def add(self, batch: Batch) -> None:
        """Learns which version answers as stable."""
        if (batch.role == STABLE_ROLE).any():
            self._stable[batch.model] = batch.version

    def checkpoint(self) -> bytes:
        """The stable versions; policies keep their state themselves, before they act on it."""
        return json.dumps(self._stable).encode()

    def restore(self, data: bytes) -> None:
        """Raises ValueError where this is none."""
        stable = json.loads(data)
        if not isinstance(stable, dict) or not all(isinstance(each, str) for each in stable.values()):
            raise ValueError("these are no stable versions")
        self._stable = stable

    def windows(self, results: Iterable[WindowResult]) -> None:
        """Takes windows of drift, in order; those that were taken before are not counted again."""
        for result in results:
            if self._stable.get(result.model, result.version) == result.version:
                self._observe(result.model, lambda row, of=result: drift_reading(row, of))

    def outcomes(self, figures: Iterable[OutcomeFigure]) -> None:
        """Takes figures of outcomes."""
        for figure in figures:
            # Without a version they are of the model, whoever answered.
            if not figure.version or self._stable.get(figure.model, figure.version) == figure.version:
                self._observe(figure.model, lambda row, of=figure: outcome_reading(row, of))

    def tick(self) -> None:
        """Looks at the server's counts when a window is over, and lets what waits be done."""
        for counts in self._windows.poll():
            for rate in rates(counts.counts):
                self._observe(
                    counts.model,
                    lambda row, of=rate, by=counts: rate_reading(
                        row, of, model=by.model, version=by.version, start_ns=by.start_ns, end_ns=by.end_ns
                    ),
                )
        if self._clock() >= self._reopen_at:
            self._reopen_at = self._clock() + _REOPEN_S
            for model in [model for model, policy in self._policies.items() if policy is None]:
                del self._policies[model]
                self._policy(model)
        is_idle = self._worker is None or not self._worker.is_alive()
        if is_idle and self._clock() >= self._next and any(policy.is_due for policy in self._opened()):
            self._worker = threading.Thread(target=self._act, name="alert-actions", daemon=True)
            self._worker.start()

    def collect(self) -> Iterator[Metric]:
        """Levels, what was done, and what waits."""
        level = GaugeMetricFamily(
            "tickserve_alert_level", "Level of each alert row: 0 none, 1 warning, 2 critical.", labels=("model", "row")
        )
        actions = CounterMetricFamily(
            "tickserve_alert_actions", "What alert rows did, by result.", labels=("model", "action", "result")
        )
        passed = CounterMetricFamily(
            "tickserve_alert_windows_passed_over",
            "Windows that alert rows could not count: insufficient, or not new.",
            labels=("model", "why"),
        )
        pending = GaugeMetricFamily(
            "tickserve_alert_pending_actions", "Actions of alert rows that are not done yet.", labels=("model",)
        )
        stored = GaugeMetricFamily(
            "tickserve_alert_state_stored",
            "0 while the state of alerts cannot be written, or is not this sidecar's.",
            labels=("model",),
        )
        for model, policy in list(self._policies.items()):
            if policy is None:
                stored.add_metric([model], 0.0)
                continue
            for row, value in policy.levels().items():
                level.add_metric([policy.model, row], value)
            for (action, result), count in policy.results.copy().items():
                actions.add_metric([policy.model, action, result], count)
            for why, count in policy.passed_over.copy().items():
                passed.add_metric([policy.model, why], count)
            pending.add_metric([policy.model], policy.pending)
            stored.add_metric([policy.model], float(policy.is_stored))
        yield from (level, actions, passed, pending, stored)

    def close(self) -> None:
        """Lets another process act, once what is under way has ended."""
        if self._worker is not None:
            self._worker.join()
        for policy in self._opened():
            policy.close()

    def _act(self) -> None:
        left = sum(policy.act() for policy in self._opened())
        is_stored = all(policy.is_stored for policy in self._opened())
        self._wait_s = _SHORTEST_S if not left and is_stored else min(2 * self._wait_s, _LONGEST_S)
        self._next = self._clock() + (self._wait_s if left or not is_stored else 0.0)

    def _observe(self, model: str, read: Callable[..., Reading | None]) -> None:
        policy = self._policy(model)
        if policy is None:
            return
        for name, row in policy.rows.items():
            reading = read(row)
            if reading is not None and policy.observe(name, [reading]):
                # New work is not made to wait for what has failed before.
                self._next = 0.0

    def _policy(self, model: str) -> AlertPolicy | None:
        if model not in self._policies:
            try:
                self._policies[model] = self._open(model)
            except ConfigurationError as error:
                # Somebody else acts, or nobody may before the state was looked at; both are for people.
                _log.error("alerts_of_model_off", model=model, error=error.message)
                self._policies[model] = None
        return self._policies[model]

    def _opened(self) -> list[AlertPolicy]:
        return [policy for policy in list(self._policies.values()) if policy is not None]
