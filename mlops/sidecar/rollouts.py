"""Rollouts in the sidecar: a thread that holds the lease while there is something to decide, and decides it."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from mlops.alerts.actions import Notice
from mlops.registry import Registry
from mlops.registry.leases import Lease, LeaseLostError, Leases
from mlops.registry.rollouts import all_open
from mlops.rollout.alarms import Alarm, forget_told, read_untold
from mlops.rollout.controller import LEASE, Controller
from mlops.rollout.metrics import Verdict
from mlops.rollout.view import RolloutView, read_view
from mlops.sidecar.telling import Teller
from tickserve.errors import RegistryError, TickserveError, UnreachableError

_log = structlog.get_logger()
_POLL_S = 0.25
#: While the database is away it is tried this often.
_AWAY_S = 1.0
_PHASES = ("preparing", "running", "paused", "damaged")
_VERDICTS = {Verdict.PASS: 1.0, Verdict.INCONCLUSIVE: 0.0, Verdict.FAIL: -1.0}


class RolloutWorker:
    """Steps every open rollout of a registry while it holds the lease; others wait until that expires.

    Parameters
    ----------
    open_registry : callable
        Opens it, or returns None where there is none yet; asked again then. Raises TickserveError.
    lease_s : float
        After so much silence another sidecar takes over.
    tell : callable
        Takes alarms; where it fails it is asked again.
    """

    name = "rollouts"

    def __init__(
        self,
        open_registry: Callable[[], Registry | None],
        *,
        lease_s: float,
        tell: Callable[[Notice], None],
        holder: str | None = None,
    ) -> None:
        self._open = open_registry
        self._lease_s = lease_s
        self._teller = Teller(tell)
        self._holder = holder or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        self._registry: Registry | None = None
        self._lease: Lease | None = None
        self._views: tuple[RolloutView, ...] = ()
        #: Of open rollouts: a package is hashed whole when it is read, and a step may wait for its outputs for hours.
        self._baselines: dict[tuple[str, int], NDArray[np.int64] | None] = {}
        #: Rows that were passed over.
        self._damaged: set[str] = set()
        self._faults = {"away": 0, "lost": 0, "failed": 0}
        self._said = ""

    @property
    def is_holder(self) -> bool:
        """Whether this sidecar decides."""
        return self._lease is not None

    def start(self) -> None:
        """Begins to look."""
        self._teller.start()
        self._thread.start()

    def close(self) -> None:
        """Gives the lease back, so that the next one need not wait for it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._teller.close()

    def collect(self) -> Iterator[Metric]:
        """Who decides, and how each rollout stands; rollouts are told by the one who decides alone."""
        yield GaugeMetricFamily(
            "tickserve_rollout_lease_held", "1 at the sidecar that decides on rollouts.", value=float(self.is_holder)
        )
        faults = CounterMetricFamily(
            "tickserve_rollout_controller_faults",
            "Looks that came to nothing: the database away, the lease lost, a step that failed.",
            labels=("kind",),
        )
        for kind, count in self._faults.items():
            faults.add_metric([kind], count)
        yield faults
        views = self._views if self.is_holder else ()
        labels = ("model", "version")
        share = GaugeMetricFamily(
            "tickserve_rollout_share", "Share of the keys, and of the traffic.", labels=(*labels, "of")
        )
        step = GaugeMetricFamily("tickserve_rollout_step", "The present step, from 1.", labels=labels)
        phase = GaugeMetricFamily("tickserve_rollout_phase", "1 for the present phase.", labels=(*labels, "phase"))
        verdict = GaugeMetricFamily(
            "tickserve_rollout_verdict", "By metric: 1 pass, 0 inconclusive, -1 fail.", labels=(*labels, "metric")
        )
        bad = GaugeMetricFamily("tickserve_rollout_bad_answers", "Bad answers that reached clients.", labels=labels)
        unwatched = GaugeMetricFamily(
            "tickserve_rollout_unwatched_windows", "Windows that lacked the counts of a server.", labels=labels
        )
        hold = GaugeMetricFamily("tickserve_rollout_held", "1 while it must not advance.", labels=labels)
        for view in views:
            of = [view.rollout.model, str(view.rollout.canary)]
            stable = [view.rollout.model, str(view.rollout.stable)]
            share.add_metric([*of, "keys"], view.share_bp / 10_000)
            share.add_metric([*stable, "keys"], 1 - view.share_bp / 10_000)
            traffic = view.traffic_share
            if traffic is not None:
                share.add_metric([*of, "traffic"], traffic)
                share.add_metric([*stable, "traffic"], 1 - traffic)
            step.add_metric(of, view.step)
            for each in _PHASES:
                phase.add_metric([*of, each], float(each == view.phase))
            for judged in view.evidence.verdicts:
                verdict.add_metric([*of, judged.metric], _VERDICTS[judged.verdict])
            if view.spec is not None:
                bad.add_metric(of, view.evidence.bad_answers)
            unwatched.add_metric(of, view.unwatched)
            hold.add_metric(of, float(bool(view.hold)))
        yield from (share, step, phase, verdict, bad, unwatched, hold)

    def _run(self) -> None:
        renew_at = 0.0
        while not self._stopping.is_set():
            pause_s = _POLL_S
            try:
                registry = self._opened()
                if registry is None:
                    pause_s = _AWAY_S
                else:
                    renew_at = self._look(registry, Leases(registry.journal.database, self._lease_s), renew_at)
                self._say("")
            except LeaseLostError as error:
                self._lease = None
                self._faults["lost"] += 1
                self._say(error.message)
            except TickserveError as error:
                is_away = self._registry is None or isinstance(error, UnreachableError)
                self._faults["away" if is_away else "failed"] += 1
                self._say(error.message)
                pause_s = _AWAY_S
            except Exception as error:  # noqa: BLE001 - a rollout that cannot be looked at must not end all of them
                self._faults["failed"] += 1
                self._say(f"{type(error).__name__}: {error}")
                pause_s = _AWAY_S
            self._stopping.wait(pause_s)
        self._leave()

    def _look(self, registry: Registry, leases: Leases, renew_at: float) -> float:
        """Takes or keeps the lease while anything is open or untold, and steps; when it is to be renewed next."""
        if told := self._teller.heard:
            registry.journal.database.write(lambda connection: forget_told(connection, told))
            self._teller.forget(told)
        with registry.journal.database.read() as connection:
            untold = read_untold(connection)
            has_work = bool(all_open(connection) or untold)
        if not has_work:
            if self._lease is not None:
                leases.release(self._lease)
                self._lease, self._views = None, ()
            self._baselines.clear()
            self._damaged.clear()
            return 0.0
        now = time.monotonic()
        if self._lease is None or now >= renew_at:
            if self._lease is None or not leases.renew(self._lease):
                self._lease = leases.acquire(LEASE, self._holder)
            renew_at = now + self._lease_s / 3
        if self._lease is None:
            return 0.0
        # Also those of a sidecar that held the lease before, and was killed.
        self._teller.add(untold)
        controller = Controller(
            registry,
            leases,
            lambda model, version: self._baseline(registry, model, version),
            self._alarm,
            self._pass_over,
        )
        try:
            controller.step_all(self._lease)
        finally:
            with registry.journal.database.read() as connection:
                self._views = tuple(read_view(connection, found, leases) for found in all_open(connection))
        return renew_at

    def _baseline(self, registry: Registry, model: str, version: int) -> NDArray[np.int64] | None:
        key = model, version
        if key not in self._baselines:
            self._baselines[key] = baseline_of(registry, model, version)
        return self._baselines[key]

    def _opened(self) -> Registry | None:
        if self._registry is None:
            self._registry = self._open()
        return self._registry

    def _alarm(self, alarm: Alarm) -> None:
        _log.error("rollout_alarm", model=alarm.model, version=alarm.canary, did=alarm.event, reason=alarm.reason)
        self._teller.add([alarm])

    def _pass_over(self, error: RegistryError) -> None:
        if error.message not in self._damaged:
            self._damaged.add(error.message)
            _log.error("window_left_out", error=error.message)

    def _say(self, text: str) -> None:
        if text and text != self._said:
            _log.error("rollouts_not_decided", error=text)
        self._said = text

    def _leave(self) -> None:
        registry, lease = self._registry, self._lease
        if registry is None:
            return
        try:
            if lease is not None:
                Leases(registry.journal.database, self._lease_s).release(lease)
            registry.close()
        except TickserveError as error:
            _log.warning("lease_not_released", error=error.message)


def baseline_of(registry: Registry, model: str, version: int) -> NDArray[np.int64] | None:
    """Counts of the first output column of a version's baseline by block; None where it has none."""
    baseline = registry.fetch(registry.version(model, version)).baseline
    if baseline is None or baseline.outputs is None or not baseline.outputs.columns:
        return None
    return np.array(baseline.outputs.columns[0].counts, np.int64)
