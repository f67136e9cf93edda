"""Brings the installed plan to what the source holds: read, verify, prepare, install; a failure changes nothing."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import structlog

from mlops.routing import MAX_HASH
from server.engine import Engine, Prepared
from server.models.desired import DesiredFile
from server.models.directory import DirectorySource, Fingerprint, fingerprint
from server.models.settling import Settling
from server.plan import EMPTY_PLAN, Halt, ModelPlan, Plan, Role, Segment, Split, VersionPlan
from tickserve.errors import Code, ControlError, PackageError, TickserveError

_log = structlog.get_logger()
_FIRST_RETRY_S = 5.0
_LAST_RETRY_S = 300.0


@dataclass(frozen=True, slots=True)
class FailedChange:
    """A version that could not be served, and why; the plan before it stayed."""

    version: str
    error: TickserveError
    at_unix_ns: int
    attempts: int
    fingerprint: Fingerprint
    retry_at: float


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model as the reconciler knows it: what is installed (if anything), since when, and what failed."""

    name: str
    wanted: str
    plan: ModelPlan | None = None
    prepared: Mapping[str, Prepared] = field(default_factory=dict)
    since_unix_ns: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, FailedChange] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that status tells, at one moment."""

    plan: Plan
    models: Sequence[ModelRecord]
    source_name: str
    source_age_s: float
    source_error: str


class Reconciler:
    """Owns the desired and the installed state.

    `reconcile` runs on one control thread; `halt` and `resume` on any. The lock covers the records and the install,
    never the loading of a model, so that a halt is obeyed at once while another model loads. Without `settling` every
    folder is taken as it is found.
    """

    def __init__(
        self, source: DirectorySource, engine: Engine, desired: DesiredFile, settling: Settling | None = None
    ) -> None:
        self._source = source
        self._engine = engine
        self._desired = desired
        self._settling = settling or Settling(0.0)
        self._lock = threading.Lock()
        self._records: dict[str, ModelRecord] = {}
        self._halts = desired.read_halts()
        self._plan = EMPTY_PLAN
        self._read_at = time.monotonic()
        self._source_error = ""
        self._stopping = threading.Event()
        self._is_closed = False

    def reconcile(self) -> None:
        """One pass: lists the source, loads what is new, installs it, drops what is gone."""
        try:
            wanted = self._source.list_versions()
            if not wanted and self._plan.models:
                # More likely a volume that went away than a wish to serve nothing.
                raise PackageError(f"every model is gone from {self._source.root}; the served ones go on")
        except PackageError as error:
            if error.message != self._source_error:
                _log.error("source_failed", source=self._source.name, error=error.message)
            self._source_error = error.message
            return
        self._read_at, self._source_error = time.monotonic(), ""
        with self._lock:
            gone = [name for name in self._records if name not in wanted]
            for name in gone:
                del self._records[name]
                _log.warning("model_removed", model=name)
            new = [name for name in wanted if name not in self._records]
            for name in new:
                self._records[name] = ModelRecord(name, wanted=str(max(wanted[name])))
            if gone or new:
                self._install()
        self._settling.forget_others({path for versions in wanted.values() for path in versions.values()})
        for name, versions in wanted.items():
            if self._stopping.is_set():
                return
            self._reconcile_model(name, versions)

    def stop(self) -> None:
        """Lets a pass that is under way load no further model."""
        self._stopping.set()

    def close(self) -> None:
        """From here on nothing is installed: a load that is under way may end after the engine, or never."""
        with self._lock:
            self._is_closed = True

    def halt(self, model: str, *, actor: str, reason: str) -> list[str]:
        """Stops the answers of one model, or of all where `model` is empty; durable before it returns."""
        halt = Halt(reason, actor, time.time_ns())
        with self._lock:
            names = self._named(model)
            unwritten = self._change_halts({**self._halts, **dict.fromkeys(names, halt)})
        _log.warning("halted", models=names, actor=actor, reason=reason)
        _require_written(unwritten)
        return names

    def resume(self, model: str, *, actor: str, reason: str) -> list[str]:
        """Ends the halt of one model, or of all where `model` is empty; returns those that were halted."""
        with self._lock:
            # A halt can also be lifted while the model's folder is away.
            asked = [model] if model in self._halts else self._named(model) if model else sorted(self._halts)
            names = [name for name in asked if name in self._halts]
            unwritten = self._change_halts({name: halt for name, halt in self._halts.items() if name not in names})
        _log.warning("resumed", models=names, actor=actor, reason=reason)
        _require_written(unwritten)
        return names

    def snapshot(self) -> Snapshot:
        """What is meant and what is served."""
        with self._lock:
            return Snapshot(
                plan=self._plan,
                models=[self._records[name] for name in sorted(self._records)],
                source_name=self._source.name,
                source_age_s=time.monotonic() - self._read_at,
                source_error=self._source_error,
            )

    def _named(self, model: str) -> list[str]:
        if not model:
            return sorted(self._records)
        if model not in self._records:
            known = ", ".join(sorted(self._records)) or "none"
            raise ControlError(f"unknown model {model!r}; models here: {known}", code=Code.NOT_FOUND, field="model")
        return [model]

    def _change_halts(self, halts: dict[str, Halt]) -> OSError | None:
        """Obeys first and then writes: a full disk must not keep a model answering that someone wants stopped.

        Returns what kept it from being written.
        """
        self._halts = halts
        self._install()
        try:
            self._desired.write_halts(halts)
        except OSError as error:
            return error
        return None

    def _reconcile_model(self, name: str, versions: Mapping[int, Path]) -> None:
        """Serves the highest version that can be; one that failed waits until it changes or its time comes."""
        record = self._records[name]
        self._update(replace(record, wanted=str(max(versions)), failed=_only(record.failed, versions)))
        for number in sorted(versions, reverse=True):
            version, path = str(number), versions[number]
            record = self._records[name]
            if record.plan is not None and version in record.plan.versions:
                return
            looks = fingerprint(path)
            failed = record.failed.get(version)
            is_due = failed is None or failed.fingerprint != looks or time.monotonic() >= failed.retry_at
            if is_due and self._settling.is_settled(path, looks):
                try:
                    self._load(name, version, path, wanted=str(max(versions)))
                except TickserveError as error:
                    self._fail(name, version, error, looks)
                except Exception as error:  # noqa: BLE001 - one bad model must not end the others
                    _log.exception("load_fault", model=name, version=version)
                    text = f"version {version} of model {name!r} cannot be loaded: {type(error).__name__}: {error}"
                    self._fail(name, version, PackageError(text), looks)
                else:
                    return
            if record.plan is not None and any(int(served) in versions for served in record.plan.versions):
                # What is installed stays, whatever lies below the version that failed.
                return

    def _load(self, name: str, version: str, path: Path, *, wanted: str) -> None:
        plan = self._source.read(name, int(version), path)
        record = self._records[name]
        if record.plan is not None:
            _require_same_schema(next(iter(record.plan.versions.values())), plan)
        prepared = self._engine.prepare(plan)
        if self._stopping.is_set():
            return
        failed = {number: change for number, change in record.failed.items() if number != version}
        self._update(
            replace(
                record,
                wanted=wanted,
                plan=_only_version(plan),
                prepared={version: prepared},
                since_unix_ns={version: time.time_ns()},
                failed=failed,
            )
        )
        _log.info(
            "installed",
            model=name,
            version=version,
            digest=plan.digest.hex(),
            load_ms=round(prepared.load_seconds * 1e3, 1),
            run_us=round(prepared.run_time_ns / 1e3, 1),
        )

    def _fail(self, name: str, version: str, error: TickserveError, looks: Fingerprint) -> None:
        record = self._records[name]
        before = record.failed.get(version)
        attempts = 1 if before is None or before.fingerprint != looks else before.attempts + 1
        delay_s = min(_FIRST_RETRY_S * 2 ** (attempts - 1), _LAST_RETRY_S)
        change = FailedChange(version, error, time.time_ns(), attempts, looks, time.monotonic() + delay_s)
        self._update(replace(record, failed={**record.failed, version: change}))
        serving = ", ".join(record.plan.versions) if record.plan else "nothing"
        _log.error("change_failed", model=name, version=version, still_serving=serving, error=error.message)

    def _update(self, record: ModelRecord) -> None:
        with self._lock:
            before = self._records[record.name]
            is_same = before.plan is record.plan and (record.plan is not None or _why(before) == _why(record))
            self._records[record.name] = record
            if not is_same:
                self._install()

    def _install(self) -> None:
        """Builds the whole plan from the records and installs it. Call with the lock held."""
        if self._is_closed:
            return
        models = {
            name: replace(record.plan, halt=self._halts.get(name))
            for name, record in self._records.items()
            if record.plan is not None
        }
        not_loaded = {name: _why(record) for name, record in self._records.items() if record.plan is None}
        plan = Plan(self._plan.generation + 1, MappingProxyType(models), MappingProxyType(not_loaded))
        self._engine.install(plan)
        self._plan = plan


def _require_written(unwritten: OSError | None) -> None:
    if unwritten is not None:
        _log.error("halts_not_written", error=unwritten.strerror)
        raise ControlError(
            f"obeyed, but not written: it will not survive a restart ({unwritten.strerror})", code=Code.INTERNAL
        )


def _why(record: ModelRecord) -> str:
    """Why a model has no version: its newest failure, or nothing while it is loading."""
    failed = record.failed.get(record.wanted)
    return "" if failed is None else failed.error.message


def _only_version(version: VersionPlan) -> ModelPlan:
    """A split of one version, which any client may also pin."""
    return ModelPlan(
        name=version.model,
        versions=MappingProxyType({version.version: version}),
        split=Split(salt=b"", segments=(Segment(MAX_HASH, version.version, Role.STABLE),)),
        pins=frozenset({version.version}),
    )


def _only(failed: Mapping[str, FailedChange], versions: Iterable[int]) -> Mapping[str, FailedChange]:
    """The failures of versions that still exist."""
    numbers = {str(number) for number in versions}
    return {version: change for version, change in failed.items() if version in numbers}


def _require_same_schema(old: VersionPlan, new: VersionPlan) -> None:
    """Refuses a version that a running client would misread: other features, another order, other tensors."""
    differences = [
        what
        for what, before, after in (
            ("feature names or their order", old.feature_names, new.feature_names),
            ("inputs", old.inputs, new.inputs),
            ("outputs", old.outputs, new.outputs),
        )
        if before != after
    ]
    if differences:
        raise PackageError(
            f"version {new.version} of model {new.model!r} has other {' and '.join(differences)} than version "
            f"{old.version}, which clients use now; serve it under another name, or restart the server",
            field="schema",
        )
