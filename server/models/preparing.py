"""From a reference to a version that may be installed: fetched, verified, held against what is served, and loaded."""

from collections.abc import Callable
from dataclasses import dataclass

from mlops.package import MODEL_FILE
from server.engine import Engine, Prepared
from server.models.loading import Loaded
from server.models.memory import Memory, expected_resident_bytes
from server.models.planning import require_schema, with_rules
from server.models.records import ModelRecord
from server.models.source import Source
from server.models.trials import Trials
from server.models.values import Target, VersionRef
from server.plan import VersionPlan
from tickserve.errors import ControlError, TickserveError


@dataclass(frozen=True, slots=True)
class Preparer:
    """Runs on a thread that loads.

    `make_room` gives up what a model keeps warm where that takes so many bytes, and says whether it did. With `trials`
    each version is tried in a process of its own first.
    """

    source: Source
    engine: Engine
    memory: Memory
    make_room: Callable[[str, int], bool]
    trials: Trials | None = None

    def load(self, record: ModelRecord, target: Target, ref: VersionRef) -> Loaded:
        """Loads one version of a model.

        Raises
        ------
        PackageError
            Where it cannot be fetched, verified or loaded, or clients would misread it.
        ControlError
            RESOURCE_EXHAUSTED where it should not fit into the memory that is left; nothing is loaded then.
        """
        plan = with_rules(self.source.open(record.name, ref), target.rules)
        base = self._served(record, ref)
        if base is not None:
            require_schema(base, plan, lambda: self.source.accepts_schema(target, base, plan))
        prepared = self._prepare(record, target, plan)
        return Loaded(plan, prepared, target.rules, ref.place, "" if base is None else base.digest.hex())

    def load_previous(self, record: ModelRecord, target: Target, ref: VersionRef) -> Loaded:
        """Loads again what was kept warm, whatever its schema: going back to it was accepted when it was left.

        Raises as `load` does.
        """
        plan = with_rules(self.source.open(record.name, ref), target.rules)
        return Loaded(plan, self._prepare(record, target, plan), target.rules, ref.place)

    def _prepare(self, record: ModelRecord, target: Target, plan: VersionPlan) -> Prepared:
        key = record.name, plan.version
        is_shadow = target.shadow is not None and target.shadow.version == plan.version
        self._reserve(key, record, plan, is_shadow=is_shadow)
        try:
            if self.trials is not None:
                self.trials.run(plan, self.memory.room_bytes(key))
            return self.engine.prepare(plan)
        finally:
            self.memory.settle(key)

    def _served(self, record: ModelRecord, ref: VersionRef) -> VersionPlan | None:
        """What clients use now, or used before this process started, where that can still be told."""
        if record.target is not None:
            return record.loaded[record.target.stable].plan
        last = record.last
        if last is None or last.target.stable == ref.version or last.target.stable not in last.versions:
            return None
        try:
            return self.source.open(record.name, last.versions[last.target.stable])
        except TickserveError:
            # It is gone or no longer what it was: nobody can be held to it.
            return None

    def _reserve(self, key: tuple[str, str], record: ModelRecord, plan: VersionPlan, *, is_shadow: bool) -> None:
        known = [
            (_size(each.plan), each.prepared.resident_bytes + (each.prepared.shadow_bytes if is_shadow else 0))
            for each in record.loaded.values()
        ]
        expected_bytes = expected_resident_bytes(_size(plan), known)
        try:
            self.memory.reserve(key, expected_bytes)
        except ControlError:
            if not self.make_room(record.name, self.memory.lacking_bytes(expected_bytes)):
                raise
            self.memory.reserve(key, expected_bytes)


def _size(plan: VersionPlan) -> int:
    """Bytes of the model's file; 0 where it is gone."""
    try:
        return (plan.path / MODEL_FILE).stat().st_size
    except OSError:
        return 0
