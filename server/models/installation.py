"""What is installed, and the records behind it: changed together under one lock, and kept for the next process."""

import errno
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import structlog

from server.engine import Engine
from server.models import changes
from server.models.decided import Decided
from server.models.events import EventLog
from server.models.local import LocalState, Overrides
from server.models.memory import Memory
from server.models.records import ModelRecord, last_served, refused_versions
from server.models.served import LastServed, ServedFile
from server.models.values import Target
from server.plan import EMPTY_PLAN, Halt, Plan

_log = structlog.get_logger()


class Installation:
    """The one place that gives the engine a plan.

    `lock` covers the records, what was decided here and the install; never a load, the source or a disk, so that a halt
    is obeyed while the disk hangs. Every method is called with it held but for those that keep something on disk, which
    are called without it.
    """

    def __init__(
        self, engine: Engine, local: LocalState, served: ServedFile | None, memory: Memory, events: EventLog
    ) -> None:
        self.lock = threading.RLock()
        #: One writes at a time, and what is newest then. Taken before `lock`, never with it held.
        self._disk = threading.Lock()
        self.plan: Plan = EMPTY_PLAN
        self.records: Mapping[str, ModelRecord] = {}
        self._overrides = Decided("overrides", self.lock, local.read_overrides(), self._write_overrides)
        #: What an earlier process served, by model.
        self.last: Mapping[str, LastServed] = {} if served is None else served.read()
        self.is_closed = False
        self._engine = engine
        self._local = local
        self._served = served
        self._is_served_kept = True
        self._memory = memory
        self._events = events
        self._halts: Decided[Mapping[str, Halt]] = Decided("halts", self.lock, local.read_halts(), local.write_halts)

    @property
    def halts(self) -> Mapping[str, Halt]:
        """Which models are halted here, by name."""
        return self._halts.value

    @property
    def overrides(self) -> Overrides:
        """What is held and refused here."""
        return self._overrides.value

    def put(self, record: ModelRecord) -> None:
        """Takes a record that changes nothing of the plan."""
        self.records = {**self.records, record.name: record}

    def forget_warm(self, record: ModelRecord) -> None:
        """Takes a record that no longer names a version to load again, for the next process too."""
        self.put(record)
        self._is_served_kept = False

    def install(self, record: ModelRecord) -> None:
        """Takes a record and installs the plan with it."""
        self.install_all({**self.records, record.name: record})

    def install_all(self, records: Mapping[str, ModelRecord]) -> None:
        """Builds the whole plan from the records and installs it; they count from then on."""
        if self.is_closed:
            return
        records = {name: changes.planned(record, self._halt(record)) for name, record in records.items()}
        for record in records.values():
            self._tell_misfits(record)
        models = {name: record.plan for name, record in records.items() if record.plan is not None}
        not_loaded = {name: record.why for name, record in records.items() if record.plan is None}
        plan = Plan(self.plan.generation + 1, MappingProxyType(models), MappingProxyType(not_loaded))
        self._engine.install(plan)
        self.plan = plan
        self.records = {name: changes.dated(record) for name, record in records.items()}
        self._is_served_kept = False
        self.account()

    def switch(self, record: ModelRecord, target: Target) -> None:
        """Installs a target whose versions are loaded, and tells it."""
        if self.is_closed:
            return
        before = record.target.stable if record.target else ""
        self.install(changes.switched(record, target, refused_versions(record, self.overrides)))
        versions = self.records[record.name].loaded
        for version in target.required:
            loaded = versions[version]
            _log.info(
                "installed",
                model=record.name,
                version=version,
                digest=loaded.plan.digest.hex(),
                load_ms=round(loaded.prepared.load_seconds * 1e3, 1),
                run_us=round(loaded.prepared.run_time_ns / 1e3, 1),
            )
        text = f"digest {versions[target.stable].plan.digest.hex()[:12]}" + (f", after {before}" if before else "")
        self._events.add("installed", model=record.name, version=target.stable, message=text)

    def tidy(self, record: ModelRecord) -> None:
        """Drops what is loaded and no longer needed, once the model is where it should be."""
        unneeded = changes.unneeded(record)
        if unneeded or record.reloaded:
            for each in (*unneeded.values(), *record.reloaded.values()):
                self._engine.discard(each.plan)
            self.put(replace(changes.without(record, unneeded), reloaded={}))
            self.account()

    def change_halts(self, change: Callable[[Mapping[str, Halt]], dict[str, Halt]]) -> None:
        """Obeys; `keep_halts` comes after it: a full disk must not keep a model answering that is to be stopped."""
        self._halts.value = change(self.halts)
        self.install_all(self.records)

    def change_overrides(self, change: Callable[[Overrides], Overrides]) -> None:
        """Holds and refuses from the next pass on; `keep_overrides` comes after it."""
        self._overrides.value = change(self.overrides)

    def keep_halts(self) -> OSError | None:
        """Writes which models are halted where that changed. Returns what kept it from being written."""
        return self._halts.keep()

    def keep_overrides(self) -> OSError | None:
        """Writes what is held and refused where that changed. Returns what kept it from being written."""
        return self._overrides.keep()

    def keep(self) -> None:
        """Writes everything that changed and is not on disk yet, as where the breaker decided or a disk refused."""
        self.keep_served()
        self.keep_overrides()
        self.keep_halts()

    def account(self) -> None:
        """Tells the budget what the versions that are loaded take."""
        self._memory.keep(
            {
                (name, version): _resident_bytes(record, version)
                for name, record in self.records.items()
                for version in {**record.loaded, **record.reloaded}
            }
        )

    def keep_served(self) -> OSError | None:
        """Writes what is served where that changed. Returns what kept it from being written."""
        with self._disk:
            with self.lock:
                if self._served is None or self._is_served_kept:
                    return None
                if self.is_closed:
                    return OSError(errno.ESHUTDOWN, "the server has ended")
                self._is_served_kept = True
                # A model that serves nothing yet keeps what it served last.
                served = {name: last for name, record in self.records.items() if (last := last_served(record))}
            error = self._served.write(served)
            if error is not None:
                # Again with the next pass; a plan that was installed meanwhile has said so itself.
                with self.lock:
                    self._is_served_kept = False
            return error

    def _write_overrides(self, overrides: Overrides) -> None:
        # What is served is asked for after what is refused, and written before it: the next process must find a way
        # back that is not refused.
        error = self.keep_served()
        if error is not None:
            raise error
        self._local.write_overrides(overrides)

    def _tell_misfits(self, record: ModelRecord) -> None:
        """Says once of each version that it cannot be what it is meant to be."""
        before = self.records.get(record.name)
        for version, change in record.misfits.items():
            if before is None or before.misfits.get(version) is not change:
                _log.error("version_does_not_fit", model=record.name, version=version, error=change.error.message)
                self._events.add("failed", model=record.name, version=version, message=change.error.message)

    def _halt(self, record: ModelRecord) -> Halt | None:
        return self.halts.get(record.name) or record.desired.halt


def _resident_bytes(record: ModelRecord, version: str) -> int:
    """What one version takes, which may be loaded twice: by its rules, and by those it is to have next."""
    both = [each[version].prepared for each in (record.loaded, record.reloaded) if version in each]
    shadow_bytes = both[0].shadow_bytes if _is_shadow(record, version) else 0
    return sum(prepared.resident_bytes for prepared in both) + shadow_bytes


def _is_shadow(record: ModelRecord, version: str) -> bool:
    shadow = None if record.plan is None else record.plan.shadow
    return shadow is not None and shadow.version == version
