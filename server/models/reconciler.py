"""Brings the installed plan to what is desired: load, verify, prepare, install; a failure changes nothing."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import structlog

from server.engine import Engine
from server.models import changes
from server.models.events import EventLog
from server.models.installation import Installation
from server.models.loading import InlineLoader, Loaded, Loader, Result
from server.models.local import LocalState, Overrides
from server.models.memory import Memory
from server.models.planning import schema_differences
from server.models.preparing import Preparer
from server.models.previous import Previous
from server.models.records import ModelRecord, Snapshot, choices, find_ref, following
from server.models.served import ServedFile
from server.models.source import Source
from server.models.trials import Trials
from server.models.values import Target, VersionRef
from server.models.watching import DesiredWatch
from server.plan import Halt
from tickserve.errors import Code, ControlError, PackageError, TickserveError

_log = structlog.get_logger()


class Reconciler:
    """Goes from what is desired to what is installed.

    `refresh` runs on the thread that reads the source, `converge` on the one that changes the plan (`reconcile` does
    both); everything else on any. No lock is held during a load or while the source is read, so that a halt is obeyed
    at once whatever loads.
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
        self._loader = loader or InlineLoader()
        memory = memory or Memory()
        self._installation = Installation(engine, local, served, memory, self.events)
        self._lock = self._installation.lock
        self._previous = Previous(self._installation, self.events)
        self._preparer = Preparer(source, engine, memory, self._previous.release, trials)
        self._watch = DesiredWatch(source, self.events, clock)
        self._clock = clock
        self._stopping = threading.Event()

    # What the two threads do

    def reconcile(self) -> None:
        """Reads the source and goes as far as it can without waiting."""
        self.refresh()
        self.converge()

    def refresh(self) -> None:
        """Reads the source. Where that fails, what was read last stands; at first, what an earlier process read."""
        self._watch.refresh()
        self.events.flush()

    def fall_back(self) -> bool:
        """Obeys what an earlier process read where nothing was read yet; whether there is anything to obey."""
        return self._watch.fall_back()

    def converge(self) -> None:
        """Goes towards what is desired as far as it can without waiting: starts loads, installs what is loaded."""
        self._adopt()
        while not self._is_ending:
            for name in list(self._installation.records):
                if self._stopping.is_set():
                    break
                self._step(name)
            results = self._loader.take()
            for result in results:
                self._finish(result)
            if not results:
                break
        self.keep()
        self.events.flush()

    def keep(self) -> None:
        """Writes what was decided and what is served where that is not on disk yet."""
        self._installation.keep()

    def stop(self) -> None:
        """Lets a pass that is under way load no further model."""
        self._stopping.set()

    def close(self) -> None:
        """From here on nothing is installed: a load that is under way may end after the engine, or never."""
        with self._lock:
            self._installation.is_closed = True
        self.events.close()

    def snapshot(self) -> Snapshot:
        """What is meant and what is served."""
        desired = self._watch.desired
        with self._lock:
            records = self._installation.records
            return Snapshot(
                plan=self._installation.plan,
                models=[records[name] for name in sorted(records)],
                overrides=self._installation.overrides,
                loading=self._loader.loading,
                source_name=self.source.name,
                source_revision=desired.revision if desired else 0,
                source_age_s=self._watch.age_s,
                source_error=self._watch.error,
            )

    def digests(self) -> frozenset[str]:
        """Those of every package that is served, kept warm or wanted, in hex."""
        with self._lock:
            records = list(self._installation.records.values())
        loaded = {each.plan.digest.hex() for record in records for each in record.loaded.values()}
        refs = [ref for record in records for ref in record.desired.versions.values()]
        refs += [ref for record in records if record.last for ref in record.last.versions.values()]
        refs += [record.warm for record in records if record.warm]
        return frozenset(loaded | {ref.digest for ref in refs if ref.digest})

    # What operators and the breaker do; see server/models/operations.py

    def named(self, model: str) -> list[str]:
        """The model, or all of them where it is empty. Raises ControlError where it is not known."""
        with self._lock:
            records = self._installation.records
            if not model:
                return sorted(records)
            if model not in records:
                known = ", ".join(sorted(records)) or "none"
                raise ControlError(f"unknown model {model!r}; models here: {known}", code=Code.NOT_FOUND, field="model")
            return [model]

    @property
    def halts(self) -> Mapping[str, Halt]:
        """Which models are halted here, by name."""
        with self._lock:
            return self._installation.halts

    def change_halts(self, change: Callable[[Mapping[str, Halt]], dict[str, Halt]]) -> None:
        """Changes which models are halted here, at once; `keep_halts`, or the next pass, writes it."""
        with self._lock:
            self._installation.change_halts(change)

    def keep_halts(self) -> OSError | None:
        """Writes which models are halted here. Returns what kept it from being written; each pass tries again."""
        return self._installation.keep_halts()

    def change_overrides(self, change: Callable[[Overrides], Overrides]) -> None:
        """Changes what is held and refused; the next pass obeys it, and writes it unless `keep_overrides` has."""
        with self._lock:
            self._installation.change_overrides(change)

    def keep_overrides(self) -> OSError | None:
        """Writes what is held and refused. Returns what kept it from being written; each pass tries again."""
        return self._installation.keep_overrides()

    def switch_now(
        self, model: str, choose: Callable[[ModelRecord], Target], refuse: Callable[[Overrides], Overrides]
    ) -> ModelRecord:
        """Refuses a version and installs a target of which everything is loaded already, as one change.

        Returns the record. `choose` may raise to change nothing; ControlError where the model is gone. What is refused
        is written by `keep_overrides`, or the next pass.
        """
        installation = self._installation
        with self._lock:
            self.named(model)
            record = installation.records[model]
            target = choose(record)
            installation.change_overrides(refuse)
            installation.switch(record, target)
            return installation.records[model]

    def retry(self, model: str) -> None:
        """Lets what failed be tried again in the next pass."""
        with self._lock:
            record = self._installation.records.get(model)
            if record is not None:
                self._installation.put(replace(record, failed={}))

    # One pass

    @property
    def _is_ending(self) -> bool:
        return self._stopping.is_set() or self._installation.is_closed

    def _adopt(self) -> None:
        """Takes over what was read last: new models, those that are gone, and halts."""
        desired = self._watch.desired
        if desired is None:
            return
        with self._lock:
            before = self._installation.records
            records = {
                name: changes.adopted(before.get(name), wanted, self._installation.last.get(name))
                for name, wanted in desired.models.items()
            }
            for name in sorted(before.keys() - records.keys()):
                _log.warning("model_removed", model=name)
                self.events.add("removed", model=name, message=f"the {self.source.name} no longer has it")
                for loaded in (*before[name].loaded.values(), *before[name].reloaded.values()):
                    self._engine.discard(loaded.plan)
            is_changed = records.keys() != before.keys() or any(
                record.desired.halt != before[name].desired.halt for name, record in records.items()
            )
            if is_changed:
                self._installation.install_all(records)
            else:
                self._installation.records = records

    def _step(self, name: str) -> None:
        installation = self._installation
        with self._lock:
            options: Sequence[Target] = choices(installation.records[name], installation.overrides)
            if not options:
                self._fail_refused(installation.records[name])
            while options:
                target = options[0]
                approach = self._approach(name, target, target.required)
                if approach == "loading":
                    return
                record = installation.records[name]
                if approach == "ready":
                    if target != record.target and not self._stopping.is_set():
                        installation.switch(record, target)
                    self._approach(name, target, target.optional)
                    self._previous.restore(installation.records[name], self._load_previous)
                    installation.tidy(installation.records[name])
                    return
                options = following(options, record.target)

    def _approach(self, name: str, target: Target, versions: tuple[str, ...]) -> str:
        """Starts what is missing of `versions`: `ready` where nothing is, `loading`, or `failed` until a later pass."""
        record, loading = self._installation.records[name], self._loader.loading
        missing: list[VersionRef] = []
        again: list[VersionRef] = []
        is_loading = False
        for version in versions:
            ref, loaded = find_ref(record, version), record.loaded_for(version, target)
            is_same = loaded is not None and _is_same(loaded, ref)
            if loaded is not None and version in target.required and version != target.schema_override:
                # What is still loaded, such as the version before, is held against what clients use now as well.
                is_same = is_same and not _is_of_another_schema(record, loaded)
            if loaded is not None and loaded.rules == target.rules and is_same:
                continue
            if (name, version) in loading:
                is_loading = True
                continue
            failed = record.failed.get(version)
            fingerprint = None if ref is None else ref.fingerprint
            if failed is not None and failed.fingerprint == fingerprint and self._clock() < failed.retry_at:
                return "failed"
            if ref is None:
                text = f"version {version} of model {name!r} is not in the {self.source.name}"
                self._fail(name, version, PackageError(text, field="version"), fingerprint)
                return "failed"
            if not ref.is_settled:
                return "failed"
            (again if is_same else missing).append(ref)
        if not missing and not is_loading:
            # What only gets other rules comes last, once all else of the target is there.
            missing = again
        for ref in missing:
            if not self._loader.start((name, ref.version), partial(self._preparer.load, record, target, ref)):
                return "failed"
        return "loading" if missing or is_loading else "ready"

    def _load_previous(self, record: ModelRecord, target: Target, ref: VersionRef) -> bool:
        """Whether it is being loaded from now on, or was already."""
        key = record.name, ref.version
        return key in self._loader.loading or self._loader.start(
            key, partial(self._preparer.load_previous, record, target, ref)
        )

    def _finish(self, result: Result) -> None:
        name, version = result.key
        with self._lock:
            record = self._installation.records.get(name)
            if record is None or self._is_ending:
                if result.loaded is not None:
                    self._engine.discard(result.loaded.plan)
                return
            is_warm = record.warm is not None and record.warm.version == version
            if result.loaded is None:
                error = result.error or PackageError(f"version {version} of model {name!r} was not loaded")
                if is_warm:
                    self._previous.give_up(record, version, error)
                else:
                    ref = find_ref(record, version)
                    self._fail(name, version, error, None if ref is None else ref.fingerprint)
            elif is_warm:
                self._previous.restored(record, version, result.loaded)
            elif _is_of_another_schema(record, result.loaded):
                # Held against what was stable when its load began; the next pass holds it against what is now.
                self._engine.discard(result.loaded.plan)
            else:
                for before in (record.loaded.get(version), record.reloaded.get(version)):
                    if before is not None and before.plan.key != result.loaded.plan.key:
                        # An engine keeps what a plan names.
                        self._engine.discard(before.plan)
                self._take(changes.loaded(record, version, result.loaded), version)

    def _take(self, record: ModelRecord, version: str) -> None:
        """Keeps a version that is loaded; one that clients may only pin is served at once."""
        if record.target is not None and version in record.target.optional:
            self._installation.install(record)
        else:
            self._installation.put(record)
            self._installation.account()

    def _fail(self, name: str, version: str, error: TickserveError, fingerprint: object) -> None:
        record = self._installation.records[name]
        failed = changes.failed(record, version, error, fingerprint, self._clock())
        if record.plan is None and record.why != failed.why:
            self._installation.install(failed)
        else:
            self._installation.put(failed)
        serving = ", ".join(record.target.required) if record.target else "nothing"
        _log.error("change_failed", model=name, version=version, still_serving=serving, error=error.message)
        if failed.failed[version].attempts == 1:
            self.events.add("failed", model=name, version=version, message=error.message)

    def _fail_refused(self, record: ModelRecord) -> None:
        version = record.wanted
        if version in record.failed or record.target is not None:
            return
        text = (
            f"every version that should be served was taken out here; `tickserve follow on {record.name}` releases them"
            if record.desired.targets
            else f"no version of model {record.name!r} is wanted: version policy or desired state name none that the "
            f"{self.source.name} has"
        )
        self._fail(record.name, version, ControlError(text, code=Code.FAILED_PRECONDITION), None)


def _is_same(loaded: Loaded, ref: VersionRef | None) -> bool:
    return ref is None or not ref.digest or loaded.plan.digest.hex() == ref.digest


def _is_of_another_schema(record: ModelRecord, loaded: Loaded) -> bool:
    """Whether it was held against another version than the one that is stable now, and differs from that one."""
    base = record.plan.versions[record.target.stable] if record.plan and record.target else None
    return base is not None and base.digest.hex() != loaded.held_against and bool(schema_differences(base, loaded.plan))
