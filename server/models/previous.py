"""The version that a model keeps warm to go back to: given up for room, and loaded again after a restart."""

from collections.abc import Callable
from dataclasses import replace

import structlog

from server.models import changes
from server.models.events import EventLog
from server.models.installation import Installation
from server.models.loading import Loaded
from server.models.records import ModelRecord, refused_versions
from server.models.values import Target, VersionRef
from tickserve.errors import TickserveError

_log = structlog.get_logger()


class Previous:
    """What becomes of it. Every method but `release` is called with the installation's lock held."""

    def __init__(self, installation: Installation, events: EventLog) -> None:
        self._installation = installation
        self._events = events

    def release(self, model: str, lacking_bytes: int) -> bool:
        """Gives it up, to make room for the next version; not where that would make less than is lacking."""
        with self._installation.lock:
            record = self._installation.records.get(model)
            if record is None or not record.previous:
                return False
            if record.target is not None and record.previous in record.target.optional:
                # It is a pin, the shadow or the fallback too, and stays loaded for that.
                return False
            version = record.previous
            if record.loaded[version].prepared.resident_bytes < lacking_bytes:
                return False
            self._installation.install(changes.without_previous(record))
        _log.warning("previous_released", model=model, version=version, why="memory_budget_mb")
        self._events.add("previous_released", model=model, version=version, message="to make room for the next version")
        return True

    def restore(self, record: ModelRecord, start: Callable[[ModelRecord, Target, VersionRef], bool]) -> None:
        """Loads what an earlier process kept warm, by `start`, once every model serves that can."""
        warm, target, installation = record.warm, record.target, self._installation
        if warm is None or target is None:
            return
        if any(other.target is None and not other.failed for other in installation.records.values()):
            return
        if warm.version in refused_versions(record, installation.overrides):
            installation.put(replace(record, warm=None))
        elif warm.version in record.loaded:
            installation.install(changes.warmed(record))
        elif not start(record, target, warm):
            installation.put(replace(record, warm=None))

    def restored(self, record: ModelRecord, version: str, loaded: Loaded) -> None:
        """Takes it once it is loaded."""
        self._installation.install(changes.warmed(changes.loaded(record, version, loaded)))
        self._events.add("previous_restored", model=record.name, version=version, message="kept warm to go back to")

    def give_up(self, record: ModelRecord, version: str, error: TickserveError) -> None:
        """Goes on without a version to go back to: desired state can name one."""
        self._installation.forget_warm(replace(record, warm=None))
        _log.warning("previous_not_restored", model=record.name, version=version, error=error.message)
        self._events.add("previous_not_restored", model=record.name, version=version, message=error.message)
