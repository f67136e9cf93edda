"""One server process, from settings to exit: what is started in which order, and ended in the reverse."""

import gc
import signal
import sys
import threading
from collections.abc import Sequence

import prometheus_client
import structlog

from server.api.admin import AdminServer
from server.api.control import ControlService, ProcessFacts
from server.config import Settings
from server.engine import Engine
from server.engine.python import PythonEngine
from server.http import HttpServer
from server.log import configure_log
from server.metrics import ServerCollector
from server.models import DesiredFile, DirectorySource, Reconciler
from tickserve.errors import PackageError

_log = structlog.get_logger()
#: Threads of the control plane give the interpreter back to the data plane after this long.
_SWITCH_INTERVAL_S = 0.0005


class Server:
    """Owns every part of the process. `run` blocks until SIGTERM, SIGINT or Drain."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._state = "starting"
        self._listen: Sequence[str] = ()
        self._engine = choose_engine(settings)
        self._reconciler = Reconciler(
            DirectorySource(settings.models), self._engine, DesiredFile(settings.home / "server" / "halts.json")
        )
        self._admin = AdminServer(
            settings.admin,
            ControlService(self._reconciler, self._engine, process=self._facts, drain=self._stopping.set),
        )
        registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)
        registry.register(
            ServerCollector(self._engine.name, self._engine.counters, self._reconciler.snapshot, self._is_ready)
        )
        self._http = HttpServer(settings.http, registry, self._is_ready)

    def run(self) -> None:
        """Serves until told to stop. Raises ConfigurationError or PackageError where it cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._http.start()
        self._admin.start()
        self._listen = self._engine.start()
        try:
            self._load()
            self._become_ready()
            self._follow()
        finally:
            self._end()

    def _load(self) -> None:
        """The first pass. Unless told to serve the rest, every model must load."""
        self._reconciler.reconcile()
        snapshot = self._reconciler.snapshot()
        if snapshot.source_error:
            raise PackageError(f"models cannot be read: {snapshot.source_error}", field="models")
        failures = [
            f"model {record.name!r}, version {change.version}: {change.error.message}"
            for record in snapshot.models
            for change in record.failed.values()
        ]
        if not snapshot.models:
            raise PackageError(
                f"no models in {self._settings.models}; expected <model>/<version>/ with a package or a model.onnx",
                field="models",
            )
        if failures and not self._settings.serve_rest:
            raise PackageError(f"{'; '.join(failures)}. Use --serve-rest to serve the others", field="models")
        if not snapshot.plan.models:
            raise PackageError(f"no model can be served: {'; '.join(failures)}", field="models")

    def _become_ready(self) -> None:
        gc.collect()
        gc.freeze()
        self._state = "serving"
        self._engine.set_ready(is_ready=True)
        _log.info("ready", listen=", ".join(self._listen), http=self._http.address, admin=self._admin.address)

    def _follow(self) -> None:
        while not self._stopping.wait(self._settings.poll_s):
            self._reconciler.reconcile()
            for fault in self._engine.take_faults():
                _log.error("request_fault", traceback=fault)

    def _end(self) -> None:
        """Not ready first; then the answers in flight; then everything else."""
        self._state = "draining"
        self._engine.set_ready(is_ready=False)
        _log.info("draining", grace_s=self._settings.grace_s)
        if self._settings.drain_delay_s:
            threading.Event().wait(self._settings.drain_delay_s)
        self._engine.stop(self._settings.grace_s)
        self._admin.stop()
        self._http.stop()
        _log.info("stopped")

    def _facts(self) -> ProcessFacts:
        return ProcessFacts(self._state, self._listen, self._http.address)

    def _is_ready(self) -> bool:
        return self._state == "serving"


def choose_engine(settings: Settings) -> Engine:
    """The engine that the settings and this machine allow; says in one line which and why."""
    engine = PythonEngine(
        settings.listen,
        pool_threads=settings.pool_threads,
        max_in_flight=settings.max_in_flight,
        max_message_bytes=settings.max_message_bytes,
    )
    why = "as asked" if settings.engine == "python" else "there is no other one"
    _log.info("engine", engine=engine.name, why=why)
    return engine


def serve(settings: Settings) -> None:
    """Runs a server with these settings until it is told to stop."""
    configure_log(settings.log_format)
    Server(settings).run()
