"""One server process, from settings to exit: what is started in which order, and ended in the reverse."""

import contextlib
import fcntl
import gc
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, TextIO

import prometheus_client
import structlog

from mlops.tap import slot_bytes_for
from server.api.admin import AdminServer
from server.api.control import ControlService, ProcessFacts
from server.api.repository import RepositoryService
from server.config import Settings
from server.descriptors import provide_descriptors
from server.engine.choose import choose_engine
from server.metrics import ServerCollector
from server.models import (
    BreakerLimits,
    DesiredRows,
    DirectorySource,
    EventLog,
    Guard,
    LocalState,
    Memory,
    Operations,
    PackageCache,
    Reconciler,
    ServedFile,
    Settling,
    Snapshot,
    Source,
    ThreadLoader,
    Trials,
    parse_policy,
)
from server.notify import Notifier
from server.starting import is_loaded
from server.tap import Tap, widest_record
from tickserve.errors import Code, ConfigurationError, StatusError
from tickserve.listening.http import HttpServer
from tickserve.listening.log import configure_log
from tickserve.listening.tls import Certificates

_log = structlog.get_logger()
#: Threads of the control plane give the interpreter back to the data plane after this long.
_SWITCH_INTERVAL_S = 0.0005
#: The plan is looked at this often at least.
_PASS_S = 0.25
#: And the counts of every version.
_WATCH_S = 0.25


class Server:
    """Owns every part of the process. `run` blocks until SIGTERM, SIGINT or Drain.

    Desired state is read on one thread, the plan is changed on another, and versions are loaded on further ones: a
    load may take minutes and cannot be interrupted, a registry may not answer, and neither certificates, nor changes
    of other models, nor the end wait for it.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._is_told_to_stop = False
        #: Wakes `run`; its `put` may interrupt itself, as a signal's handler does.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._first_read = threading.Event()
        self._first_pass = threading.Event()
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
        operations = Operations(self._reconciler, self._work.set)
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
        lock = lock_home(self._settings.home)
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
            lock.close()

    def _open_tap(self) -> None:
        settings = self._settings
        if settings.tap == "off":
            return
        self._tap = Tap(
            Path(settings.tap),
            ring_bytes=settings.tap_ring_bytes,
            slot_bytes=slot_bytes_for(widest_record(settings.models)),
            producers=self._engine.producers,
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
        self._first_read.wait()
        while not self._ending.is_set():
            # Back-off and time-outs have no event.
            self._work.wait(min(self._settings.poll_s, _PASS_S))
            self._work.clear()
            self._reconciler.converge()
            self._first_pass.set()
            if self._state == "starting":
                self._wake.put(None)

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
        self._reconciler.events.add("draining")
        self._engine.set_ready(is_ready=False)
        self._notifier.stopping()
        self._notifier.status("draining")
        _log.info("draining", grace_s=self._settings.grace_s)
        if self._settings.drain_delay_s:
            threading.Event().wait(self._settings.drain_delay_s)
        # First, so that no call changes a plan that no one serves any more.
        self._admin.stop()
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


def make_source(settings: Settings, in_use: Callable[[], Collection[str]]) -> Source:
    """Where desired state and versions come from; `in_use` gives the digests that a cache must keep.

    Raises
    ------
    ConfigurationError
        Where the registry's libraries are not installed.
    """
    state = settings.home / "server"
    if settings.source == "directory":
        return DirectorySource(
            settings.models,
            settings.trusted_keys if settings.require_signature else None,
            {name: parse_policy(text) for name, text in settings.version_policy.items()},
            Settling(settings.settle_s),
            DesiredRows(state / "desired.json"),
        )
    try:
        from server.models.registry import RegistrySource, connect
    except ImportError as error:
        raise ConfigurationError(
            f"source: {error.name} is not installed; `pip install 'tickserve[registry]'` brings it", field="source"
        ) from None
    cache = PackageCache(state / "cache", settings.cache_mb << 20, in_use)
    cache.remove_unfinished()
    return RegistrySource(
        partial(connect, settings.home, settings.registry, settings.artifacts, cache.folder, settings.trusted_keys),
        cache,
        state / "registry.json",
        keys=settings.trusted_keys,
        requires_signature=settings.require_signature,
    )


class Reporter(Protocol):
    """Tells others what this server serves."""

    def start(self) -> None:
        """Begins to tell."""

    def stop(self) -> None:
        """Says that it ends."""


def make_reporter(
    source: Source, reconciler: Reconciler, name: str, engine_name: str, facts: Callable[[], ProcessFacts]
) -> Reporter | None:
    """Who tells the registry what this server serves; None where there is no registry."""
    if source.name != "registry":
        return None
    from server.fleet import FleetReporter
    from server.models.registry import RegistrySource

    if not isinstance(source, RegistrySource):
        raise TypeError("a source named registry is one")

    def told() -> tuple[str, Sequence[str]]:
        found = facts()
        return found.state, found.listen

    return FleetReporter(name, engine_name, reconciler, source.registry, told)


def lock_home(home: Path) -> TextIO:
    """Holds the state folder until the process ends; two servers would overwrite each other's halts.

    Raises ConfigurationError where another server holds it.
    """
    path = home / "server" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w", encoding="ascii")  # noqa: SIM115 - held open on purpose
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(
            f"home: another server runs over {home}; stop it, or give this one another TICKSERVE_HOME", field="home"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"home: cannot use {home}: {error.strerror}", field="home") from None
    return file


def export_certificates(certificates: Certificates, registry: prometheus_client.CollectorRegistry) -> None:
    """Adds what an operator must know of the certificates to the metrics."""

    def expires(setting: str) -> float:
        return certificates.current.expires_unix[setting]

    expiry = prometheus_client.Gauge(
        "tickserve_tls_certificate_expiry_seconds",
        "When the first certificate in use from the file of this setting expires, Unix time.",
        ["setting"],
        registry=registry,
    )
    for setting in certificates.current.expires_unix:
        expiry.labels(setting).set_function(partial(expires, setting))
    refused = prometheus_client.Gauge(
        "tickserve_tls_reload_refused",
        "1 while the TLS files hold something that is not served.",
        registry=registry,
    )
    refused.set_function(lambda: bool(certificates.refused))


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
