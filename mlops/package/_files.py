"""Folders of a few files: read once within bounds, and written so that they appear whole or not at all."""

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from tickserve.errors import DamagedPackageError, PackageError


def list_entries(folder: Path) -> set[str]:
    """Names of everything in `folder`; a missing folder is a PackageError."""
    try:
        return {entry.name for entry in os.scandir(folder)}
    except FileNotFoundError:
        raise PackageError(f"{folder} does not exist", field=str(folder)) from None
    except OSError as error:
        raise PackageError(f"{folder} cannot be read: {error.strerror}", field=str(folder)) from None


def read_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file.

    Raises
    ------
    DamagedPackageError
        Where it is missing, no regular file (a symbolic link is none), over the bound, or changes while it is read.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DamagedPackageError(f"{path} is missing", field=path.name) from None
    except OSError as error:
        raise DamagedPackageError(
            f"{path} cannot be read as a regular file: {error.strerror}", field=path.name
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedPackageError(f"{path} is no regular file", field=path.name)
        if status.st_size > max_bytes:
            raise DamagedPackageError(
                f"{path} has {status.st_size} bytes, at most {max_bytes} are read", field=path.name
            )
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(status.st_size + 1)
    except OSError as error:
        raise DamagedPackageError(f"{path} cannot be read: {error.strerror}", field=path.name) from None
    finally:
        os.close(descriptor)
    if len(data) != status.st_size:
        raise DamagedPackageError(f"{path} changed while it was read", field=path.name)
    return data


@contextlib.contextmanager
def staged_folder(parent: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """A hidden folder in `parent` that holds `files`, all on disk; removed unless it was renamed meanwhile.

    Raises
    ------
    PackageError
        Where it cannot be written, or the body fails to write.
    """
    staged = parent / f".incoming-{uuid.uuid4().hex}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        staged.mkdir()
        for name, data in files.items():
            with open(staged / name, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(staged)
        yield staged
    except OSError as error:
        raise PackageError(f"{parent} cannot be written: {error.strerror}", field=str(parent)) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def publish_folder(staged: Path, final: Path) -> bool:
    """Renames `staged` to `final` for good; False where something else already has that name."""
    try:
        staged.rename(final)
    except OSError:
        if not os.path.lexists(final):
            raise
        return False
    sync_folder(final.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Waits until the folder's entries are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
