"""Engine over the Rust extension module `tickserve_native`: a thin adapter that hands over plans and reads counts."""

import importlib.metadata
import importlib.util
import socket
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from mlops.package import MODEL_FILE, ColumnMapping, Datatype, TensorSpec
from mlops.package.datatypes import numpy_dtype
from mlops.package.rules import OutputLimits, feature_bounds
from mlops.package.runtime import golden_error
from server.engine import texts
from server.engine.base import STAGES, Counters, ModelCounters, Prepared, RunCounts, StageCounts, VersionCounters
from server.engine.python import metadata, prediction
from server.engine.python.reflection import SERVICES, descriptors
from server.engine.python.runtime import Runtime, Tally
from server.engine.python.serving import Installed, build
from server.plan import ModelPlan, Plan, Role, VersionPlan
from server.tap import UNTAPPED, Tap, TappedModel
from tickserve.address import is_unix, split_host
from tickserve.errors import ConfigurationError, PackageError
from tickserve.listening.connections import DEFAULT_BOUNDS, ConnectionBounds
from tickserve.listening.sockets import socket_file
from tickserve.listening.tls import Certificates, TlsIdentity
from tickserve.wire import grpc_service_pb2 as oip

#: The format of what is handed over; the module must hold the same.
PLAN_FORMAT = 3
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
        self._waiting: dict[tuple[str, str, bytes], Any] = {}
        self._tap: Tap | None = None
        self.producers = workers
        bounds = {
            **asdict(connections),
            "max_message_bytes": max_message_bytes,
            "max_in_flight": max_in_flight,
            "max_in_flight_per_client": max_in_flight_per_client,
        }
        module = load_module()
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
            prepared = self._native.prepare(_version(version), _sample(version))
            golden_max_error = self._check_golden(version, prepared)
        except RuntimeError as error:
            raise PackageError(str(error), field=MODEL_FILE) from None
        run_time_ns, resident_bytes, load_seconds = prepared.figures
        with self._lock:
            self._waiting[_key(version)] = prepared
        return Prepared(
            version=version,
            run_time_ns=run_time_ns,
            resident_bytes=resident_bytes,
            golden_max_error=golden_max_error,
            load_seconds=load_seconds,
        )

    def install(self, plan: Plan) -> None:
        """Makes `plan` the installed one. Raises RuntimeError where it names what is not prepared."""
        with self._lock:
            for model in plan.models.values():
                for version in model.versions.values():
                    prepared = self._waiting.pop(_key(version), None)
                    if prepared is not None:
                        self._native.keep(prepared)
            placed = {} if self._tap is None else self._tap.place(plan)
            self._native.install(_plan(plan, placed))
            if self._tap is not None:
                self._tap.keep(plan, placed)

    def discard(self, version: VersionPlan) -> None:
        """Forgets a prepared version that is not installed."""
        with self._lock:
            self._waiting.pop(_key(version), None)

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
                    **_counts(counts),
                )
                for model, version, role, counts in found["versions"]
            ],
            folded=[ModelCounters(model=model, **_counts(counts)) for model, counts in found["folded"]],
            refused={(model, reason or ""): count for model, reason, count in found["refused"]},
            in_flight=found["in_flight"],
            loop_lag_seconds=found["queue_wait_s"],
            faults=found["faults"],
            worker_busy_ns=found["worker_busy_ns"],
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
        outputs = prepared.run([_given(spec, golden.inputs[spec.name]) for spec in version.inputs])
        named = {spec.name: _array(output) for spec, output in zip(version.outputs, outputs, strict=True)}
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


@dataclass(frozen=True)
class _NotRun:
    """Stands for a runtime where a version is described only."""

    version: VersionPlan


def _plan(plan: Plan, placed: Mapping[str, TappedModel]) -> dict[str, Any]:
    described = build(plan, lambda version: cast(Runtime, _NotRun(version)), lambda *_: cast(Tally, None))
    index = oip.RepositoryIndexRequest
    return {
        "generation": plan.generation,
        "models": {name: _model(model, described, placed.get(name, UNTAPPED)) for name, model in plan.models.items()},
        "not_loaded": dict(plan.not_loaded),
        "repository_index": metadata.repository_index(index().SerializeToString(), described),
        "repository_index_ready": metadata.repository_index(index(ready=True).SerializeToString(), described),
    }


def _model(model: ModelPlan, described: Installed, tapped: TappedModel) -> dict[str, Any]:
    roles = {segment.version: segment.role for segment in model.split.segments}
    return {
        "versions": [
            (number, version.digest, int(roles.get(number, Role.PREVIOUS)))
            for number, version in model.versions.items()
        ],
        "salt": model.split.salt,
        "segments": [(each.upper_bound, each.version, int(each.role)) for each in model.split.segments],
        "pins": sorted(model.pins),
        "client_pins": [(version, sorted(clients)) for version, clients in model.client_pins.items()],
        "halt": None if model.halt is None else {"reason": model.halt.reason, "actor": model.halt.actor},
        "position_scale": model.position_scale,
        "described": [
            answer for version in ("", *model.versions) for answer in _descriptions(model.name, version, described)
        ],
        "tap": {
            "split_generation": tapped.split_generation,
            "latency_edge_ns": tapped.latency_edge_ns,
            "versions": [(version, *placed) for version, placed in tapped.versions.items()],
        },
    }


def _descriptions(model: str, version: str, described: Installed) -> Iterator[tuple[str, str, bytes]]:
    asked = oip.ModelMetadataRequest(name=model, version=version).SerializeToString()
    yield "ModelMetadata", version, metadata.model_metadata(asked, described)
    yield "ModelConfig", version, metadata.model_config(asked, described)
    yield "GetModel", version, prediction.describe(asked, described)


def _key(version: VersionPlan) -> tuple[str, str, bytes]:
    return version.model, version.version, version.digest


def _version(version: VersionPlan) -> dict[str, Any]:
    rules = version.input_rules
    event_time = rules.event_time
    return {
        "model": version.model,
        "version": version.version,
        "digest": version.digest,
        "model_sha256": version.model_sha256,
        "model_file": str(version.path / MODEL_FILE),
        "inputs": _specs(version.inputs),
        "outputs": _specs(version.outputs),
        "feature_names": list(version.feature_names),
        "feature_digest": version.feature_digest,
        "signal": _mapping(version.signal),
        "confidence": _mapping(version.confidence),
        "input_rules": {
            "finite": rules.finite,
            "defaults": dict(rules.defaults),
            "bounds": _bounds(version),
            "event_time": {
                "required": event_time.required,
                "max_age_s": event_time.max_age_s,
                "max_future_s": event_time.max_future_s,
                "policy": event_time.policy,
            },
        },
        "output_rules": list(_output_rules(version)),
        "limits": version.limits.model_dump(),
    }


def _specs(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]


def _mapping(mapping: ColumnMapping | None) -> dict[str, Any] | None:
    if mapping is None:
        return None
    return {
        "output": mapping.output,
        "column": mapping.column,
        "scale": float(mapping.scale),
        "offset": float(mapping.offset),
    }


def _bounds(version: VersionPlan) -> list[dict[str, Any]]:
    rules = version.input_rules
    if not rules.bounds:
        return []
    lows, highs = feature_bounds(version.feature_names, rules, version.inputs[0].datatype)
    return [
        {"low": low, "high": high, "policy": rules.bounds[name].policy if name in rules.bounds else None}
        for name, low, high in zip(version.feature_names, lows.tolist(), highs.tolist(), strict=True)
    ]


def _output_rules(version: VersionPlan) -> Iterator[dict[str, Any]]:
    datatypes = {spec.name: spec.datatype for spec in version.outputs}
    for rule in version.output_rules:
        limits = OutputLimits(rule, datatypes[rule.output])
        yield {
            "name": rule.name,
            "output": rule.output,
            "kind": rule.kind,
            "low": limits.low,
            "high": limits.high,
            "policy": rule.policy,
        }


def _sample(version: VersionPlan) -> list[Any] | None:
    if version.golden is None:
        return None
    inputs = version.golden.inputs
    return [
        _given(spec, inputs[spec.name][:1] if spec.shape[:1] == (-1,) else inputs[spec.name]) for spec in version.inputs
    ]


def _given(spec: TensorSpec, array: np.ndarray[Any, Any]) -> tuple[str, list[int], Any]:
    elements = [str(item) for item in array.ravel()] if spec.datatype == "BYTES" else array.tobytes()
    return spec.datatype, list(array.shape), elements


def _array(tensor: tuple[str, list[int], Any]) -> np.ndarray[Any, Any]:
    datatype, shape, elements = tensor
    if datatype == "BYTES":
        return np.array(elements, dtype=object).reshape(shape)
    return np.frombuffer(elements, numpy_dtype(cast(Datatype, datatype))).reshape(shape)


def _counts(counts: Mapping[str, Any]) -> dict[str, Any]:
    stages = {}
    for stage in STAGES:
        data, sum_ns = counts["stages"][stage]
        stages[stage] = StageCounts(np.frombuffer(data, "<u8").tolist(), sum_ns)
    return {
        "stages": stages,
        "answered": counts["answered"],
        "rows": counts["rows"],
        "slow": counts["slow"],
        "errors": {reason or "": count for reason, count in counts["errors"]},
        "rule_violations": {(rule, policy): count for rule, policy, count in counts["rule_violations"]},
    }
