"""Brings the installed plan to what is desired: load, verify, prepare, install; a failure changes nothing."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import structlog

from server.engine import Engine
from server.models import changes
from server.models.events import EventLog
from server.models.loading import InlineLoader, Loaded, Loader, Memory, Result
from server.models.local import LocalState, Overrides
from server.models.planning import schema_differences
from server.models.preparing import Preparer
from server.models.records import (
    ModelRecord,
    Snapshot,
    choices,
    find_ref,
    following,
    last_served,
    refused_versions,
)
from server.models.served import LastServed, ServedFile
from server.models.source import Source
from server.models.trials import Trials
from server.models.values import Target, VersionRef
from server.models.watching import DesiredWatch
from server.plan import EMPTY_PLAN, Halt, Plan
from tickserve.errors import Code, ControlError, PackageError, TickserveError

_log = structlog.get_logger()


class Reconciler:
    """Owns what is desired and what is installed.

    `refresh` runs on the thread that reads the source, `converge` on the one that changes the plan (`reconcile` does
    both); everything else on any. The lock covers the records and the install, never a load or the source, so that a
    halt is obeyed at once whatever loads.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        local: LocalState,
        *,
        served: ServedFile | None = None,
        loader: Loader | None = None,
        memory: Memory | None = None,
        trials: Trials | None = None,
        events: EventLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.events = events or EventLog()
        self._engine = engine
        self._local = local
        self._served = served
        self._is_served_kept = True
        self._last: Mapping[str, LastServed] = {} if served is None else served.read()
        self._loader = loader or InlineLoader()
        self._memory = memory or Memory()
        self._preparer = Preparer(source, engine, self._memory, self._release_previous, trials)
        self._clock = clock
        self._lock = threading.RLock()
        self._records: dict[str, ModelRecord] = {}
        self._halts = local.read_halts()
        self._overrides = local.read_overrides()
        self._plan = EMPTY_PLAN
        self._watch = DesiredWatch(source, self.events, clock)
        self._stopping = threading.Event()
        self._is_closed = False

    # What the two threads do

    def reconcile(self) -> None:
        """Reads the source and goes as far as it can without waiting."""
        self.refresh()
        self.converge()

    def refresh(self) -> None:
        """Reads the source. Where that fails, what was read last stands; at first, what an earlier process read."""
        self._watch.refresh()

    def converge(self) -> None:
        """Goes towards what is desired as far as it can without waiting: starts loads, installs what is loaded."""
        self._adopt()
        while not (self._stopping.is_set() or self._is_closed):
            for name in list(self._records):
                if self._stopping.is_set():
                    break
                self._step(name)
            results = self._loader.take()
            for result in results:
                self._finish(result)
            if not results:
                break
        self._keep_served()

    def stop(self) -> None:
        """Lets a pass that is under way load no further model."""
        self._stopping.set()

    def close(self) -> None:
        """From here on nothing is installed: a load that is under way may end after the engine, or never."""
        with self._lock:
            self._is_closed = True
        self.events.close()

    def snapshot(self) -> Snapshot:
        """What is meant and what is served."""
        desired = self._watch.desired
        with self._lock:
            return Snapshot(
                plan=self._plan,
                models=[self._records[name] for name in sorted(self._records)],
                overrides=self._overrides,
                loading=self._loader.loading,
                source_name=self.source.name,
                source_revision=desired.revision if desired else 0,
                source_age_s=self._watch.age_s,
                source_error=self._watch.error,
            )

    def digests(self) -> frozenset[str]:
        """Those of every package that is served, kept warm or wanted, in hex."""
        with self._lock:
            records = list(self._records.values())
        loaded = {each.plan.digest.hex() for record in records for each in record.loaded.values()}
        refs = [ref for record in records for ref in record.desired.versions.values()]
        refs += [ref for record in records if record.last for ref in record.last.versions.values()]
        refs += [record.warm for record in records if record.warm]
        return frozenset(loaded | {ref.digest for ref in refs if ref.digest})

    # What operators and the breaker do; see server/models/operations.py

    def named(self, model: str) -> list[str]:
        """The model, or all of them where it is empty. Raises ControlError where it is not known."""
        with self._lock:
            if not model:
                return sorted(self._records)
            if model not in self._records:
                known = ", ".join(sorted(self._records)) or "none"
                raise ControlError(f"unknown model {model!r}; models here: {known}", code=Code.NOT_FOUND, field="model")
            return [model]

    def change_halts(self, change: Callable[[Mapping[str, Halt]], dict[str, Halt]]) -> OSError | None:
        """Obeys first and then writes: a full disk must not keep a model answering that someone wants stopped.

        Returns what kept it from being written.
        """
        with self._lock:
            self._halts = change(self._halts)
            self._install(self._records)
            return _written(lambda: self._local.write_halts(self._halts))

    def change_overrides(self, change: Callable[[Overrides], Overrides]) -> OSError | None:
        """Changes what is held and refused; the next pass obeys. Returns what kept it from being written."""
        with self._lock:
            self._overrides = change(self._overrides)
            return _written(lambda: self._local.write_overrides(self._overrides))

    def switch_now(
        self, model: str, choose: Callable[[ModelRecord], Target], refuse: Callable[[Overrides], Overrides]
    ) -> ModelRecord:
        """Refuses a version and installs a target of which everything is loaded already, as one change.

        `choose` may raise to change nothing. What is refused is written after it is obeyed.
        """
        with self._lock:
            record = self._records[model]
            target = choose(record)
            self._overrides = refuse(self._overrides)
            self._switch(record, target)
            # In this order: a process that is killed between the two must find a way back that is not refused.
            self._keep_served()
            _written(lambda: self._local.write_overrides(self._overrides))
            return self._records[model]

    def retry(self, model: str) -> None:
        """Lets what failed be tried again in the next pass."""
        with self._lock:
            self._records[model] = replace(self._records[model], failed={})

    # One pass

    def _adopt(self) -> None:
        """Takes over what was read last: new models, those that are gone, and halts."""
        desired = self._watch.desired
        if desired is None:
            return
        with self._lock:
            records = {
                name: changes.adopted(self._records.get(name), wanted, self._last.get(name))
                for name, wanted in desired.models.items()
            }
            gone = self._records.keys() - records.keys()
            for name in sorted(gone):
                _log.warning("model_removed", model=name)
                self.events.add("removed", model=name, message=f"the {self.source.name} no longer has it")
                for loaded in self._records[name].loaded.values():
                    self._engine.discard(loaded.plan)
            is_changed = records.keys() != self._records.keys() or any(
                record.desired.halt != self._records[name].desired.halt for name, record in records.items()
            )
            if is_changed:
                self._install(records)
            else:
                self._records = records

    def _step(self, name: str) -> None:
        with self._lock:
            options: Sequence[Target] = choices(self._records[name], self._overrides)
            if not options:
                self._fail_refused(self._records[name])
            while options:
                target = options[0]
                approach = self._approach(name, target, target.required)
                if approach == "loading":
                    return
                record = self._records[name]
                if approach == "ready":
                    if target != record.target:
                        self._switch(record, target)
                    self._approach(name, target, target.optional)
                    self._restore_previous(name)
                    self._tidy(name)
                    return
                options = following(options, record.target)

    def _approach(self, name: str, target: Target, versions: tuple[str, ...]) -> str:
        """Starts what is missing of `versions`: `ready` where nothing is, `loading`, or `failed` until a later pass."""
        record, loading = self._records[name], self._loader.loading
        missing, is_loading = [], False
        for version in versions:
            ref, loaded = find_ref(record, version), record.loaded.get(version)
            if loaded is not None and loaded.rules == target.rules and _is_same(loaded, ref):
                continue
            if (name, version) in loading:
                is_loading = True
                continue
            failed = record.failed.get(version)
            looks = None if ref is None else ref.looks
            if failed is not None and failed.looks == looks and self._clock() < failed.retry_at:
                return "failed"
            if ref is None:
                text = f"version {version} of model {name!r} is not in the {self.source.name}"
                self._fail(name, version, PackageError(text, field="version"), looks)
                return "failed"
            if not ref.is_settled:
                return "failed"
            missing.append(ref)
        for ref in missing:
            if not self._loader.start((name, ref.version), partial(self._preparer.load, record, target, ref)):
                return "failed"
        return "loading" if missing or is_loading else "ready"

    def _release_previous(self, model: str) -> bool:
        """Gives up the version that is kept warm, to make room for the next one."""
        with self._lock:
            record = self._records.get(model)
            if record is None or not record.previous:
                return False
            version = record.previous
            self._install({**self._records, model: changes.without_previous(record)})
            self._account()
        _log.warning("previous_released", model=model, version=version, why="memory_budget_mb")
        self.events.add("previous_released", model=model, version=version, message="to make room for the next version")
        return True

    def _restore_previous(self, name: str) -> None:
        """Loads what an earlier process kept warm, once every model serves that can. Call with the lock held."""
        record = self._records[name]
        warm, target = record.warm, record.target
        if warm is None or target is None or (name, warm.version) in self._loader.loading:
            return
        if any(other.target is None and not other.failed for other in self._records.values()):
            return
        if warm.version in refused_versions(record, self._overrides):
            self._records[name] = replace(record, warm=None)
        elif warm.version in record.loaded:
            self._install({**self._records, name: changes.warmed(record)})
        elif not self._loader.start((name, warm.version), partial(self._preparer.load_previous, record, target, warm)):
            self._records[name] = replace(record, warm=None)

    def _finish(self, result: Result) -> None:
        name, version = result.key
        with self._lock:
            record = self._records.get(name)
            if record is None or self._is_closed or self._stopping.is_set():
                if result.loaded is not None:
                    self._engine.discard(result.loaded.plan)
                return
            is_warm = record.warm is not None and record.warm.version == version
            if result.loaded is None:
                error = result.error or PackageError(f"version {version} of model {name!r} was not loaded")
                if is_warm:
                    self._give_up_previous(record, error)
                    return
                ref = find_ref(record, version)
                self._fail(name, version, error, None if ref is None else ref.looks)
                return
            if is_warm:
                self._install({**self._records, name: changes.warmed(changes.loaded(record, version, result.loaded))})
                self.events.add("previous_restored", model=name, version=version, message="kept warm to go back to")
                self._account()
                return
            base = record.plan.versions[record.target.stable] if record.plan and record.target else None
            if (
                base is not None
                and base.digest.hex() != result.loaded.held_against
                and schema_differences(base, result.loaded.plan)
            ):
                # Held against what was stable when its load began; the next pass holds it against what is now.
                self._engine.discard(result.loaded.plan)
                return
            changed = changes.loaded(record, version, result.loaded)
            if record.target is not None and version in record.target.optional:
                self._install({**self._records, name: changed})
            else:
                self._records[name] = changed
            self._account()

    def _switch(self, record: ModelRecord, target: Target) -> None:
        """Installs a target whose versions are loaded. Call with the lock held."""
        if self._is_closed or self._stopping.is_set():
            return
        before = record.target.stable if record.target else ""
        changed = changes.switched(record, target, refused_versions(record, self._overrides))
        self._install({**self._records, record.name: changed})
        for version in target.required:
            loaded = record.loaded[version]
            _log.info(
                "installed",
                model=record.name,
                version=version,
                digest=loaded.plan.digest.hex(),
                load_ms=round(loaded.prepared.load_seconds * 1e3, 1),
                run_us=round(loaded.prepared.run_time_ns / 1e3, 1),
            )
        text = f"digest {record.loaded[target.stable].plan.digest.hex()[:12]}" + (f", after {before}" if before else "")
        self.events.add("installed", model=record.name, version=target.stable, message=text)
        self._account()

    def _tidy(self, name: str) -> None:
        """Drops what is loaded and no longer needed. Call with the lock held, once the model is where it should be."""
        record = self._records[name]
        unneeded = changes.unneeded(record)
        if unneeded:
            for each in unneeded.values():
                self._engine.discard(each.plan)
            loaded = {version: each for version, each in record.loaded.items() if version not in unneeded}
            self._records[name] = replace(record, loaded=loaded)
            self._account()

    def _fail(self, name: str, version: str, error: TickserveError, looks: object) -> None:
        record = self._records[name]
        records = {**self._records, name: changes.failed(record, version, error, looks, self._clock())}
        if record.plan is None and record.why != records[name].why:
            self._install(records)
        else:
            self._records = records
        serving = ", ".join(record.target.required) if record.target else "nothing"
        _log.error("change_failed", model=name, version=version, still_serving=serving, error=error.message)
        if records[name].failed[version].attempts == 1:
            self.events.add("failed", model=name, version=version, message=error.message)

    def _give_up_previous(self, record: ModelRecord, error: TickserveError) -> None:
        """Goes on without a version to go back to: desired state can name one. Call with the lock held."""
        warm = record.warm
        self._records[record.name] = replace(record, warm=None)
        self._is_served_kept = False
        version = "" if warm is None else warm.version
        _log.warning("previous_not_restored", model=record.name, version=version, error=error.message)
        self.events.add("previous_not_restored", model=record.name, version=version, message=error.message)

    def _fail_refused(self, record: ModelRecord) -> None:
        version = record.wanted
        if version in record.failed or record.target is not None:
            return
        text = (
            f"every version that should be served was taken out here; `tickserve follow on {record.name}` releases them"
        )
        self._fail(record.name, version, ControlError(text, code=Code.FAILED_PRECONDITION), None)

    def _install(self, records: Mapping[str, ModelRecord]) -> None:
        """Builds the whole plan from the records and installs it; the records count from then on. Lock held."""
        if self._is_closed:
            return
        records = {name: changes.planned(record, self._halt(record)) for name, record in records.items()}
        for record in records.values():
            self._tell_misfits(record)
        models = {name: record.plan for name, record in records.items() if record.plan is not None}
        not_loaded = {name: record.why for name, record in records.items() if record.plan is None}
        plan = Plan(self._plan.generation + 1, MappingProxyType(models), MappingProxyType(not_loaded))
        self._engine.install(plan)
        self._plan = plan
        self._records = {name: changes.dated(record) for name, record in records.items()}
        self._is_served_kept = False

    def _tell_misfits(self, record: ModelRecord) -> None:
        """Says once of each version that it cannot be what it is meant to be."""
        before = self._records.get(record.name)
        for version, change in record.misfits.items():
            if before is None or before.misfits.get(version) is not change:
                _log.error("version_does_not_fit", model=record.name, version=version, error=change.error.message)
                self.events.add("failed", model=record.name, version=version, message=change.error.message)

    def _keep_served(self) -> None:
        """Writes what is served where that changed; not under the lock, for a disk may take its time."""
        with self._lock:
            if self._served is None or self._is_served_kept or self._is_closed:
                return
            self._is_served_kept = True
            # A model that serves nothing yet keeps what it served last.
            served = {name: last for name, record in self._records.items() if (last := last_served(record))}
        self._served.write(served)

    def _account(self) -> None:
        self._memory.keep(
            {
                (name, version): loaded.prepared.resident_bytes
                for name, record in self._records.items()
                for version, loaded in record.loaded.items()
            }
        )

    def _halt(self, record: ModelRecord) -> Halt | None:
        return self._halts.get(record.name) or record.desired.halt


def _is_same(loaded: Loaded, ref: VersionRef | None) -> bool:
    return ref is None or not ref.digest or loaded.plan.digest.hex() == ref.digest


def _written(write: Callable[[], None]) -> OSError | None:
    try:
        write()
    except OSError as error:
        _log.error("decision_not_written", error=error.strerror)
        return error
    return None
