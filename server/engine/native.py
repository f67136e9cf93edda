"""Engine over the Rust extension module `tickserve_native`: a thin adapter that hands over plans and reads counts."""

import importlib.metadata
import importlib.util
import socket
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from mlops.package import MODEL_FILE
from mlops.package.runtime import disable_telemetry, golden_error
from server.engine import texts
from server.engine.base import Counters, ModelCounters, Prepared, RunCounts, StageCounts, VersionCounters
from server.engine.handover import array_of, counts_of, plan_values, sample_values, tensor_values, version_values
from server.engine.python import metadata
from server.engine.python.reflection import SERVICES, descriptors
from server.plan import DEFAULT_SHADOW_BOUNDS, Plan, Role, ShadowBounds, VersionPlan
from server.tap import Tap
from tickserve.address import is_unix, split_host
from tickserve.errors import ConfigurationError, PackageError
from tickserve.listening.connections import DEFAULT_BOUNDS, ConnectionBounds
from tickserve.listening.sockets import socket_file
from tickserve.listening.tls import Certificates, TlsIdentity

#: The format of what is handed over; the module must hold the same.
PLAN_FORMAT = 4
_BACKLOG = 1024
_OFFERED = (
    "inference.GRPCInferenceService",
    "tickserve.v1.Prediction",
    "tickserve.v1.Control",
    "grpc.health.v1.Health",
    *SERVICES,
)


class NativeEngine:
    """Executes plans without Python on the way of a request.

    Raises
    ------
    ConfigurationError
        Where the module is not installed, or was built for another format of plans.
    """

    name = "native"

    def __init__(
        self,
        listeners: Sequence[str],
        *,
        pool_threads: int,
        max_in_flight: int,
        max_in_flight_per_client: int,
        max_message_bytes: int,
        connections: ConnectionBounds = DEFAULT_BOUNDS,
        shadows: ShadowBounds = DEFAULT_SHADOW_BOUNDS,
        socket_mode: int = 0o660,
        certificates: Certificates | None = None,
        workers: int = 1,
        cpus: Sequence[int] = (),
    ) -> None:
        self._listeners = listeners
        self._socket_mode = socket_mode
        self._certificates = certificates
        self._lock = threading.Lock()
        #: Prepared, and named by no plan yet.
        self._waiting: dict[tuple[str, str, bytes, str], Any] = {}
        self._tap: Tap | None = None
        self.producers = workers + 1
        self._pool_threads = pool_threads
        bounds = {
            **asdict(connections),
            "max_message_bytes": max_message_bytes,
            "max_in_flight": max_in_flight,
            "max_in_flight_per_client": max_in_flight_per_client,
            "max_shadow_queue": shadows.requests,
            "max_shadow_bytes": shadows.size_bytes,
        }
        module = load_module()
        disable_telemetry()
        try:
            self._native = module.NativeEngine(
                onnxruntime=_runtime_library(),
                workers=workers,
                cpus=list(cpus),
                pool_threads=pool_threads,
                bounds=bounds,
                texts=[
                    (name, text["code"], text["reason"], text["template"], text["executed"])
                    for name, text in texts.table().items()
                ],
                server_metadata=metadata.server_metadata(),
                services=list(_OFFERED),
                descriptors=descriptors(),
            )
        except RuntimeError as error:
            raise ConfigurationError(f"engine: the native engine does not start: {error}", field="engine") from None

    def open_tap(self, tap: Tap) -> None:
        """Records requests there. Raises ConfigurationError where it cannot be mapped."""
        try:
            self._native.open_tap([str(path) for path in tap.rings], str(tap.counters))
        except RuntimeError as error:
            raise ConfigurationError(f"tap: {error}", field="tap") from None
        self._tap = tap

    def start(self) -> Sequence[str]:
        """Opens the listeners and returns their addresses.

        Raises ConfigurationError where one cannot be bound, or where the certificates cannot be served.
        """
        if self._certificates is not None:
            self._set_tls(self._certificates.current)
        opened: list[tuple[socket.socket, str]] = []
        try:
            # One by one, so that those before one that fails are closed.
            opened.extend(_listen(address, self._socket_mode) for address in self._listeners)
        except BaseException:
            for listener, _ in opened:
                listener.close()
            raise
        tls = None if self._certificates is None else _pem(self._certificates.current)
        sockets = [(listener.detach(), is_unix(address)) for listener, address in opened]
        self._native.start(sockets, tls)
        if self._certificates is not None:
            self._certificates.on_change(self._set_tls)
        return [address for _, address in opened]

    def prepare(self, version: VersionPlan) -> Prepared:
        """Loads, warms and checks a version on the calling thread. Raises PackageError."""
        try:
            prepared = self._native.prepare(version_values(version), sample_values(version))
            golden_max_error = self._check_golden(version, prepared)
        except RuntimeError as error:
            raise PackageError(str(error), field=MODEL_FILE) from None
        run_time_ns, resident_bytes, load_seconds = prepared.figures
        with self._lock:
            self._waiting[version.key] = prepared
        return Prepared(
            version=version,
            run_time_ns=run_time_ns,
            resident_bytes=resident_bytes,
            golden_max_error=golden_max_error,
            load_seconds=load_seconds,
            # The thread of shadows makes a session of its own; each thread of the pool has one, workers have perhaps.
            shadow_bytes=resident_bytes // self._pool_threads,
        )

    def install(self, plan: Plan) -> None:
        """Makes `plan` the installed one. Raises RuntimeError where it names what is not prepared."""
        with self._lock:
            for model in plan.models.values():
                for version in model.versions.values():
                    prepared = self._waiting.pop(version.key, None)
                    if prepared is not None:
                        self._native.keep(prepared)
            placed = {} if self._tap is None else self._tap.place(plan)
            self._native.install(plan_values(plan, placed))
            if self._tap is not None:
                self._tap.keep(plan, placed)

    def discard(self, version: VersionPlan) -> None:
        """Forgets a prepared version that is not installed."""
        with self._lock:
            self._waiting.pop(version.key, None)

    def counters(self) -> Counters:
        """A copy of all counters."""
        found = self._native.counters()
        return Counters(
            versions=[
                VersionCounters(
                    model=model,
                    version=version,
                    role=Role(role),
                    last_answer_unix_ns=counts["last_answer_unix_ns"],
                    **counts_of(counts),
                )
                for model, version, role, counts in found["versions"]
            ],
            folded=[ModelCounters(model=model, **counts_of(counts)) for model, counts in found["folded"]],
            refused={(model, reason or ""): count for model, reason, count in found["refused"]},
            in_flight=found["in_flight"],
            loop_lag_seconds=found["queue_wait_s"],
            faults=found["faults"],
            worker_busy_ns=found["worker_busy_ns"],
            shadow_dropped={(model, version): count for model, version, count in found["shadow_dropped"]},
            shadow_queued=found["shadow_queued"],
        )

    def runs(self, versions: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], RunCounts]:
        """How some versions have done."""
        asked = list(versions)
        return {
            key: RunCounts(
                answered,
                rows,
                {reason or "": count for reason, count in errors},
                StageCounts(np.frombuffer(run, "<u8").tolist(), sum_ns),
            )
            for key, found in zip(asked, self._native.runs(asked), strict=True)
            if found is not None
            for answered, rows, errors, run, sum_ns in [found]
        }

    def take_faults(self) -> Sequence[str]:
        """Texts of unexpected failures since the last call."""
        return cast(Sequence[str], self._native.take_faults())

    def is_alive(self, within_s: float) -> bool:
        """Whether every worker answers within `within_s` seconds."""
        return bool(self._native.is_alive(within_s))

    def has_died(self) -> bool:
        """Whether a worker or the acceptor has ended though nobody told it to."""
        return bool(self._native.has_died())

    def set_ready(self, *, is_ready: bool) -> None:
        """What health checks and ServerReady say."""
        self._native.set_ready(is_ready)

    def stop(self, grace_s: float) -> None:
        """Refuses new requests, answers those in flight for up to `grace_s` seconds, and ends."""
        self._native.stop(grace_s)

    def _set_tls(self, identity: TlsIdentity) -> None:
        """Checks an identity, and gives it to new connections where the listeners are open."""
        try:
            self._native.set_tls(_pem(identity))
        except ValueError as error:
            raise ConfigurationError(f"setting tls_cert: {error}", field="tls_cert") from None

    def _check_golden(self, version: VersionPlan, prepared: Any) -> float | None:
        golden = version.golden
        if golden is None:
            return None
        outputs = prepared.run([tensor_values(spec, golden.inputs[spec.name]) for spec in version.inputs])
        named = {spec.name: array_of(output) for spec, output in zip(version.outputs, outputs, strict=True)}
        return golden_error(golden, named)


def load_module() -> Any:
    """The extension module. Raises ConfigurationError where it is not here or was built for other plans."""
    try:
        import tickserve_native as module
    except ImportError as error:
        raise ConfigurationError(f"engine: the native engine is not installed: {error}", field="engine") from None
    spoken = getattr(module, "PLAN_FORMAT", "none")
    if spoken != PLAN_FORMAT:
        version = getattr(module, "__version__", "of no version")
        raise ConfigurationError(
            f"engine: tickserve-native {version} speaks plan format {spoken}, this server "
            f"{PLAN_FORMAT}; build it again with `make native`",
            field="engine",
        )
    return module


def _runtime_library() -> str:
    """The shared library in the installed onnxruntime, found without importing it."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for path in sorted(Path(folder, "capi").glob("libonnxruntime.so.*")):
            return str(path)
    version = importlib.metadata.version("onnxruntime") if spec is not None else "none"
    raise ConfigurationError(f"engine: no libonnxruntime.so in the installed onnxruntime ({version})", field="engine")


def _listen(address: str, mode: int) -> tuple[socket.socket, str]:
    try:
        if is_unix(address):
            with socket_file(address, mode=mode, setting="listen"):
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listener.bind(address.removeprefix("unix:"))
                listener.listen(_BACKLOG)
            return listener, address
        host, port = split_host(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"listen: cannot listen on {address}: {error.strerror}", field="listen") from None
    return listener, f"{address.rpartition(':')[0]}:{listener.getsockname()[1]}"


def _pem(identity: TlsIdentity) -> tuple[bytes, bytes, bytes | None]:
    return identity.certificate, identity.key, identity.client_ca
