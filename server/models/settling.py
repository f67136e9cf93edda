"""Whether a version's folder is all there: a package says so itself, any other folder by being left alone for a while.

A package lists its files with their checksums, so one that is still being copied is refused and tried again. A folder
without manifest.json may be a bare model, or a package whose manifest is yet to come: served as it is, the latter would
answer without its rules.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from mlops.package import MANIFEST_FILE
from server.models.fingerprint import Fingerprint

_log = structlog.get_logger()


class Settling:
    """Remembers since when each folder looks as it does.

    Parameters
    ----------
    settle_s : float
        How long a folder without a manifest must look the same, in seconds.
    clock, unix_clock : callable
        Monotonic and Unix time, in seconds.
    """

    def __init__(
        self,
        settle_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settle_s = settle_s
        self._clock = clock
        self._unix_clock = unix_clock
        self._seen: dict[Path, tuple[Fingerprint, float]] = {}

    def is_settled(self, path: Path, fingerprint: Fingerprint) -> bool:
        """Whether the folder, which looks like this now, may be read."""
        if any(name == MANIFEST_FILE for name, _, _ in fingerprint):
            return True
        now = self._clock()
        seen = self._seen.get(path)
        if seen is None:
            # At a start there was no earlier look: then the files say how long they have been as they are.
            since = now - min(max(0.0, self._unix_clock() - _changed_at(fingerprint)), self._settle_s)
            if now - since < self._settle_s:
                _log.info("settling", folder=str(path), settle_s=self._settle_s)
        elif seen[0] != fingerprint:
            since = now
        else:
            since = seen[1]
        self._seen[path] = fingerprint, since
        return now - since >= self._settle_s

    def forget_others(self, paths: Collection[Path]) -> None:
        """Forgets every folder but these."""
        self._seen = {path: seen for path, seen in self._seen.items() if path in paths}


def _changed_at(fingerprint: Fingerprint) -> float:
    """Unix time of the last change of a file; without any, far ahead."""
    return max((change_time_ns / 1e9 for _, _, change_time_ns in fingerprint), default=float("inf"))
