"""Packages on this machine by digest, at most so many bytes of them: those used longest ago go first."""

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import structlog

from mlops.package._files import staged_folder
from tickserve.errors import PackageError

_log = structlog.get_logger()
_DIGEST = re.compile(r"[0-9a-f]{64}")


class PackageCache:
    """One folder of packages.

    Parameters
    ----------
    folder : Path
        Holds a folder a package, named by its digest.
    max_bytes : int
        Beyond it the packages used longest ago are removed, but for those of `in_use`.
    in_use : callable
        Digests that must stay, in hex.
    """

    def __init__(self, folder: Path, max_bytes: int, in_use: Callable[[], Collection[str]]) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._in_use = in_use
        self._lock = threading.Lock()
        self._fetching: set[str] = set()
        #: Of the packages that are here: what a digest names never changes, so each is looked at once.
        self._sizes: dict[str, int] = {}

    def path(self, digest: str) -> Path:
        """Where a package lies, or would."""
        if not _DIGEST.fullmatch(digest):
            raise PackageError(f"{digest!r} is no digest", field="digest")
        return self.folder / digest

    def touch(self, digest: str) -> None:
        """Says that a package was used now."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / digest)

    @contextlib.contextmanager
    def fetching(self, digest: str) -> Iterator[None]:
        """While a package is fetched into the folder; room is made after it."""
        with self._lock:
            self._fetching.add(digest)
        try:
            yield
        finally:
            self.touch(digest)
            with self._lock:
                self._sizes.pop(digest, None)
                self._trim()
                self._fetching.discard(digest)

    def _trim(self) -> None:
        try:
            with os.scandir(self.folder) as entries:
                # Plain paths: pathlib keeps every part of a path that it has seen, in a table that never shrinks.
                found = [(entry.stat().st_mtime, entry.name, entry.path) for entry in entries if entry.is_dir()]
        except OSError:
            return
        known = self._sizes
        self._sizes = sizes = {
            name: known[name] if name in known and _DIGEST.fullmatch(name) else _size(path) for _, name, path in found
        }
        total = sum(sizes.values())
        kept = self._fetching | set(self._in_use())
        for _, name, _ in sorted(found):
            if total <= self._max_bytes:
                return
            if name in kept or not _DIGEST.fullmatch(name):
                continue
            try:
                # Out of sight first, so that nobody reads half of it.
                with staged_folder(self.folder, {}) as trash:
                    (self.folder / name).rename(trash / name)
            except (PackageError, OSError) as error:
                _log.warning("cache_not_trimmed", package=name, error=str(error))
                return
            total -= sizes[name]
            _log.info("cache_trimmed", package=name, size_bytes=sizes[name])

    def remove_unfinished(self) -> None:
        """Removes what a killed process left behind; call before anything is fetched."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.folder):
                if entry.name.startswith(".incoming-"):
                    shutil.rmtree(entry.path, ignore_errors=True)


def _size(folder: str) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        total = sum(entry.stat().st_size for entry in entries)
    return total
