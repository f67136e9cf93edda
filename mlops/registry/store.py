"""Artifacts: files kept under their SHA-256, written whole or not at all, through fsspec."""

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mlops.package._files import sync_folder
from mlops.package._text import one_line
from tickserve.errors import ConfigurationError, DamagedPackageError, UnreachableError

_FILES = "sha256"
_INCOMING = "incoming"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of the store: its SHA-256, or for a write that never ended its temporary name."""

    name: str
    size_bytes: int
    age_s: float
    is_whole: bool


class ArtifactStore:
    """Files by SHA-256 below `url`.

    Parameters
    ----------
    url : str
        A folder, or whatever fsspec opens, such as `s3://bucket/prefix`.

    Raises
    ------
    ConfigurationError
        Where fsspec knows no such kind of store, or its library is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ConfigurationError(f"artifacts: {url}: {one_line(str(error))}", field="artifacts") from None
        self._root = root.rstrip("/")
        self._is_local = isinstance(self._files, LocalFileSystem)

    def path(self, sha256: str) -> str:
        """Where a file lies, in the store's own terms."""
        return f"{self._root}/{_FILES}/{sha256[:2]}/{sha256}"

    def put(self, data: bytes) -> str:
        """Stores these bytes and returns their SHA-256; once it returns they are on the disk, under their final name.

        Any number of processes may store the same bytes at once. A file of this name that holds other bytes is
        replaced, so that storing again mends a damaged one.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        final, incoming = self.path(sha256), f"{self._root}/{_INCOMING}/{uuid.uuid4().hex}"
        with _explained():
            if self._holds(final, data):
                return sha256
            self._files.makedirs(f"{self._root}/{_INCOMING}", exist_ok=True)
            self._files.makedirs(os.path.dirname(final), exist_ok=True)
            if self._is_local:
                self._write_local(incoming, final, data)
            else:
                self._files.pipe_file(incoming, data)
                self._files.mv(incoming, final)
        return sha256

    def get(self, sha256: str, size_bytes: int) -> bytes:
        """The bytes of a file, checked.

        Raises
        ------
        DamagedPackageError
            Where it is missing or holds anything else.
        """
        path = self.path(sha256)
        try:
            found = self._files.size(path)
            if found != size_bytes:
                raise DamagedPackageError(
                    f"artifact {path} is damaged: it has {found} bytes, {size_bytes} were stored", field=sha256
                )
            data: bytes = self._files.cat_file(path)
        except FileNotFoundError:
            raise DamagedPackageError(f"artifact {path} is missing", field=sha256) from None
        except OSError as error:
            raise DamagedPackageError(f"artifact {path} cannot be read: {error.strerror}", field=sha256) from None
        actual = hashlib.sha256(data).hexdigest()
        if actual != sha256:
            raise DamagedPackageError(f"artifact {path} is damaged: its SHA-256 is {actual}", field=sha256)
        return data

    def has(self, sha256: str) -> bool:
        """Whether a file of this name is there."""
        with _explained():
            return bool(self._files.exists(self.path(sha256)))

    def delete(self, name: str, *, is_whole: bool = True) -> None:
        """Removes a file, or what is left of a write that never ended; one that is gone already is no error."""
        path = self.path(name) if is_whole else f"{self._root}/{_INCOMING}/{name}"
        with _explained(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(path)

    def list_files(self) -> Iterator[StoredFile]:
        """Everything in the store, by name; what was never finished comes last."""
        now = time.time()
        for folder, is_whole in ((_FILES, True), (_INCOMING, False)):
            with _explained():
                found: dict[str, Any] = self._files.find(f"{self._root}/{folder}", detail=True)
            for path, facts in sorted(found.items()):
                name = path.removeprefix(f"{self._files._strip_protocol(self._root)}/{folder}/")
                name = name.removeprefix(f"{name.rpartition('/')[2][:2]}/") if is_whole else name
                changed = facts.get("mtime") or facts.get("created")
                changed_s = changed.timestamp() if hasattr(changed, "timestamp") else float(changed or 0.0)
                yield StoredFile(name, int(facts["size"]), max(0.0, now - changed_s), is_whole)

    def _holds(self, path: str, data: bytes) -> bool:
        if not self._files.exists(path) or self._files.size(path) != len(data):
            return False
        return bool(self._files.cat_file(path) == data)

    def _write_local(self, incoming: str, final: str, data: bytes) -> None:
        try:
            with open(incoming, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(incoming, final)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(incoming)
            raise
        for folder in (Path(final).parent, Path(final).parent.parent, Path(self._root)):
            sync_folder(folder)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnreachableError(f"the artifact store failed: {error.strerror or one_line(str(error))}") from error
