"""Records that came before their package could be had: where they begin in the log, and reading them back from it."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog

from mlops.prediction_log.batch import Batch
from tickserve.errors import DamagedLogError

_log = structlog.get_logger()
_Key = tuple[str, str, str]
#: Versions that are remembered; the one that was skipped first is forgotten first.
MAX_VERSIONS = 64

#: The records of a model and version behind a position, as `read_log` gives them.
ReadVersion = Callable[[str, str, int], Iterator[Batch]]


def read_nothing(model: str, version: str, after: int) -> Iterator[Batch]:
    """For a consumer that has no log."""
    return iter(())


class LateRecords:
    """Of each model, version and digest, the records that the log is still to be read for.

    A consumer that may skip a version asks `fresh` what of a batch is not to come from the log, or has come from it.
    """

    def __init__(self, read: ReadVersion) -> None:
        self._read = read
        #: The position from which on a version is read from the log.
        self._from: dict[_Key, int] = {}
        #: The last position that was read from the log, until what comes is behind it.
        self._until: dict[_Key, int] = {}
        self._sources: dict[_Key, tuple[int, Iterator[Batch]]] = {}

    @property
    def keys(self) -> list[_Key]:
        """Those that are still to be read."""
        return list(self._from)

    def skip(self, batch: Batch) -> None:
        """Says that records were left out: they and what follows them come from the log."""
        key = batch.model, batch.version, batch.digest
        self._from.setdefault(key, int(batch.position[0]))
        while len(self._from) > MAX_VERSIONS:
            self.forget(next(iter(self._from)))

    def fresh(self, batch: Batch) -> Batch | None:
        """What of a batch is to be taken now, None where nothing is."""
        key = batch.model, batch.version, batch.digest
        if key in self._from:
            return None
        until = self._until.get(key)
        if until is None:
            return batch
        if int(batch.position[-1]) <= until:
            return None
        del self._until[key]
        return batch.take(batch.position > until)

    def supersede(self, model: str, version: str, digest: str, position: int | None = None) -> None:
        """Forgets what other packages of this version were skipped for before a position: they count no more."""
        before = self._from.get((model, version, digest), 0) if position is None else position
        for key in [key for key, begin in self._from.items() if key[:2] == (model, version) and begin < before]:
            if key[2] != digest:
                self.forget(key)

    def read(self, key: _Key, take: Callable[[Batch], None], until: float) -> None:
        """Gives some of what one was skipped for, until a monotonic time, a batch at least; to the end of the log."""
        while key in self._from:
            begin = self._from[key]
            if key not in self._sources:
                self._sources[key] = begin, self._read(key[0], key[1], begin - 1)
            begun, source = self._sources[key]
            try:
                batch = next(source, None)
            except DamagedLogError as error:
                _log.error("records_not_made_up", model=key[0], version=key[1], reason=error.message)
                self.forget(key)
                return
            if batch is not None:
                self._from[key] = int(batch.position[-1]) + 1
                self._until[key] = int(batch.position[-1])
                if batch.digest == key[2]:
                    take(batch)
            elif begin == begun:
                self.forget(key)
            else:
                # The log has grown meanwhile: once more, until there is nothing new.
                del self._sources[key]
            if time.monotonic() >= until:
                return

    def state(self) -> dict[str, Any]:
        """What JSON holds and `restore` takes up."""
        return {
            "from": [[*key, position] for key, position in self._from.items()],
            "until": [[*key, position] for key, position in self._until.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave, or nothing where it is empty. Raises ValueError where it is something else."""
        try:
            self._from, self._until = (
                {(str(model), str(version), str(digest)): int(position) for model, version, digest, position in found}
                for found in (state.get("from", ()), state.get("until", ()))
            )
        except (TypeError, ValueError):
            raise ValueError("what was skipped is not whole") from None

    def forget(self, key: _Key) -> None:
        """Says that what comes of one is to be taken as it comes."""
        self._from.pop(key, None)
        self._sources.pop(key, None)
