"""One server process, from settings to exit: what is started in which order, and ended in the reverse."""

import contextlib
import gc
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import prometheus_client
import structlog

from mlops.tap import slot_bytes_for
from server.api.admin import AdminServer
from server.api.control import ControlService, ProcessFacts
from server.api.repository import RepositoryService
from server.config import Settings
from server.descriptors import provide_descriptors
from server.engine.choose import choose_engine
from server.home_lock import lock_home
from server.metrics import ServerCollector, export_certificates
from server.models import (
    BreakerLimits,
    EventLog,
    Guard,
    LocalState,
    Memory,
    Operations,
    Reconciler,
    ServedFile,
    Snapshot,
    ThreadLoader,
    Trials,
)
from server.notify import Notifier
from server.sources import make_reporter, make_source
from server.starting import is_loaded
from server.tap import Tap, widest_record
from tickserve.errors import Code, StatusError
from tickserve.listening.http import HttpServer
from tickserve.listening.log import configure_log
from tickserve.listening.tls import Certificates

_log = structlog.get_logger()
#: Threads of the control plane give the interpreter back to the data plane after this long.
_SWITCH_INTERVAL_S = 0.0005
#: The plan is looked at this often at least.
_PASS_S = 0.25
#: A source that does not answer for this long is not waited for where an earlier process kept what it said.
_FIRST_READ_S = 2.0
#: And the counts of every version.
_WATCH_S = 0.25
#: What is written into desired state is waited for so long: less than clients of Control wait.
_DESIRE_S = 3.0
#: How long the end waits for a disk to take what was decided here.
_LAST_S = 1.0


class Server:
    """Owns every part of the process, and the state folder from its making on. `run` blocks until SIGTERM, SIGINT or
    Drain.

    Desired state is read on one thread, the plan is changed on another, and versions are loaded on further ones: a
    load may take minutes and cannot be interrupted, a registry may not answer, and neither certificates, nor changes
    of other models, nor the end wait for it.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._settings = settings
        # Before anything in it is read or tidied up: another server may be at work there.
        self._lock = lock_home(settings.home)
        self._is_told_to_stop = False
        #: Wakes `run`; its `put` may interrupt itself, as a signal's handler does.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._first_read = threading.Event()
        self._first_pass = threading.Event()
        self._is_kept = threading.Event()
        self._fault: Exception | None = None
        self._state = "starting"
        self._listen: Sequence[str] = ()
        self._tap: Tap | None = None
        files = settings.tls_files()
        self._certificates = Certificates(files) if files is not None else None
        self._engine = choose_engine(settings, self._certificates)
        self._notifier = Notifier(environment, self._engine.is_alive)
        state = settings.home / "server"
        self._memory = Memory(settings.memory_budget_mb << 20)
        self._trials = Trials(settings.load_timeout_s) if settings.trial_load else None
        #: Set when there is something to do for the thread that changes the plan.
        self._work = threading.Event()
        source = make_source(settings, lambda: self._reconciler.digests())
        self._reconciler = Reconciler(
            source,
            self._engine,
            LocalState(state),
            served=ServedFile(state / "served.json"),
            loader=ThreadLoader(
                settings.loading_threads, settings.load_timeout_s, wake=self._work.set, drop=self._engine.discard
            ),
            memory=self._memory,
            trials=self._trials,
            events=EventLog(state / "events.jsonl"),
        )
        self._reporter = make_reporter(source, self._reconciler, settings.server_name, self._engine.name, self._facts)
        operations = Operations(self._reconciler, self._work.set, within_s=_DESIRE_S)
        self._guard = Guard(
            self._reconciler,
            operations,
            self._engine.runs,
            BreakerLimits(
                settings.breaker_bad_share,
                settings.breaker_run_factor,
                settings.breaker_requests,
                settings.breaker_window_s,
            ),
            halts=settings.breaker_action == "halt",
        )
        self._admin = AdminServer(
            settings.admin,
            ControlService(
                self._reconciler, operations, self._engine, self._memory, process=self._facts, drain=self._stop
            ),
            RepositoryService(self._reconciler, operations),
            connections=settings.connection_bounds(),
            certificates=self._certificates,
        )
        registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)
        registry.register(
            ServerCollector(
                self._engine.name,
                self._engine.counters,
                self._reconciler.snapshot,
                self._is_ready,
                lambda: None if self._tap is None else self._tap.totals(),
                self._reconciler.events.counts,
            )
        )
        if self._certificates is not None:
            export_certificates(self._certificates, registry)
        self._http = HttpServer(settings.http, registry, self._is_ready)

    def run(self) -> None:
        """Serves until told to stop. Raises ConfigurationError or PackageError where it cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        # One listener for data at each address, and the one for operators.
        provide_descriptors(self._settings.max_connections * (len(self._settings.listen) + 1))
        self._open_tap()
        try:
            self._http.start()
            self._admin.start()
            self._listen = self._engine.start()
        except BaseException:
            self._close_tap()
            raise
        followers = [
            threading.Thread(target=self._guarded, args=(step,), name=name, daemon=True)
            for name, step in (
                ("desired", self._follow_desired),
                ("models", self._follow_models),
                ("breaker", self._watch_versions),
            )
        ]
        try:
            for follower in followers:
                follower.start()
            if self._reporter is not None:
                self._reporter.start()
            while not self._is_told_to_stop:
                self._supervise()
                with contextlib.suppress(queue.Empty):
                    self._wake.get(timeout=self._settings.poll_s)
        finally:
            self._end()
            self._lock.close()

    def _open_tap(self) -> None:
        settings = self._settings
        if settings.tap == "off":
            return
        self._tap = Tap(
            Path(settings.tap),
            ring_bytes=settings.tap_ring_bytes,
            slot_bytes=slot_bytes_for(widest_record(settings.models)),
            producers=self._engine.producers,
            server=settings.server_name,
        )
        self._engine.open_tap(self._tap)
        _log.info("tap", boot=str(self._tap.boot))

    def _close_tap(self) -> None:
        if self._tap is not None:
            self._tap.close()

    def _supervise(self) -> None:
        """Everything that must go on while models load."""
        if self._fault is not None:
            raise self._fault
        if self._engine.has_died():
            self._log_faults()
            raise StatusError("a thread of the data plane has ended; the log says why", code=Code.INTERNAL)
        if self._certificates is not None:
            self._certificates.refresh()
        if self._state == "serving":
            self._notifier.status(status_line(self._reconciler.snapshot()))
        elif self._first_pass.is_set() and self._is_loaded():
            self._become_ready()
        self._log_faults()

    def _guarded(self, follow: Callable[[], None]) -> None:
        try:
            follow()
        except Exception as error:  # noqa: BLE001 - raised again by `run`, which ends the process
            self._fault = error
            self._wake.put(None)

    def _follow_desired(self) -> None:
        while not self._ending.is_set():
            self._reconciler.refresh()
            self._first_read.set()
            self._work.set()
            self._ending.wait(self._settings.poll_s)

    def _follow_models(self) -> None:
        while not self._first_read.wait(_FIRST_READ_S) and not self._reconciler.fall_back():
            pass
        while not self._ending.is_set():
            # Back-off and time-outs have no event.
            self._work.wait(min(self._settings.poll_s, _PASS_S))
            self._work.clear()
            self._reconciler.converge()
            self._first_pass.set()
            if self._state == "starting":
                self._wake.put(None)
        # What the breaker decided last.
        self._reconciler.keep()
        self._is_kept.set()

    def _watch_versions(self) -> None:
        while not self._ending.wait(_WATCH_S):
            self._guard.check()
            if self._trials is not None:
                self._trials.tend()

    def _is_loaded(self) -> bool:
        """Whether every model that must be there is. Raises where one cannot be, unless told to serve the rest."""
        return is_loaded(
            self._reconciler.snapshot(),
            where=str(self._settings.models) if self._settings.source == "directory" else "the registry",
            required=self._settings.required_models,
            serve_rest=self._settings.serve_rest,
        )

    def _become_ready(self) -> None:
        gc.collect()
        gc.freeze()
        self._state = "serving"
        self._engine.set_ready(is_ready=True)
        self._notifier.ready()
        self._notifier.status(status_line(self._reconciler.snapshot()))
        _log.info("ready", listen=", ".join(self._listen), http=self._http.address, admin=self._admin.address)

    def _log_faults(self) -> None:
        for fault in self._engine.take_faults():
            _log.error("request_fault", traceback=fault)

    def _end(self) -> None:
        """Not ready first; then the answers in flight; then everything else. A load under way is left behind."""
        self._state = "draining"
        self._ending.set()
        self._reconciler.stop()
        self._work.set()
        self._reconciler.events.add("draining")
        self._engine.set_ready(is_ready=False)
        self._notifier.stopping()
        self._notifier.status("draining")
        _log.info("draining", grace_s=self._settings.grace_s)
        if self._settings.drain_delay_s:
            threading.Event().wait(self._settings.drain_delay_s)
        # First, so that no call changes a plan that no one serves any more.
        self._admin.stop()
        self._is_kept.wait(_LAST_S)
        self._reconciler.close()
        if self._trials is not None:
            self._trials.close()
        self._engine.stop(self._settings.grace_s)
        self._log_faults()
        self._notifier.stop()
        if self._reporter is not None:
            self._reporter.stop()
        self._http.stop()
        self._close_tap()
        _log.info("stopped")

    def _stop(self) -> None:
        self._is_told_to_stop = True
        self._wake.put(None)

    def _facts(self) -> ProcessFacts:
        return ProcessFacts(self._state, self._listen, self._http.address, self._settings.server_name)

    def _is_ready(self) -> bool:
        return self._state == "serving"


def status_line(snapshot: Snapshot) -> str:
    """One line for an operator: what is served, and whether something is not."""
    failed = sum(len(record.failed) for record in snapshot.models)
    served = f"models served: {len(snapshot.plan.models)}, plan generation {snapshot.plan.generation}"
    return f"{served}; versions that cannot be: {failed}" if failed else served


def serve(settings: Settings) -> NoReturn:
    """Runs a server with these settings until it is told to stop, and ends the process with 0."""
    configure_log(settings.log_format)
    Server(settings, os.environ).run()
    sys.stdout.flush()
    sys.stderr.flush()
    # A run that outlives the grace would keep the interpreter from ending, and abort it at its end.
    os._exit(0)
