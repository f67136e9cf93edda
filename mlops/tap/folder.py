"""The folder of the tap: one boot a life of a server, and which of those that ended stay."""

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from mlops.tap.counters import Page
from mlops.tap.ring import RingFile
from tickserve.errors import TickserveError

CATALOG = "catalog.jsonl"
COUNTERS = "counters"
_READER = "reader"
#: Boots that ended and are not read to their end: more of them go, the oldest first.
KEPT_BOOTS = 4
_BOOT = re.compile("[0-9a-f]{32}")


def default_folder(home: Path) -> Path:
    """Where the tap of the server over `home` is unless a setting says otherwise."""
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    return Path("/dev/shm") / f"tickserve-{os.getuid()}-{digest}"  # noqa: S108 - shared memory, 0700


def ring_path(boot: Path, ring: int) -> Path:
    """The file of one ring of a boot."""
    return boot / f"ring-{ring}"


def rings(boot: Path) -> list[Path]:
    """The rings of a boot, in order."""
    found = [path for path in boot.glob("ring-*") if path.name[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def boots(folder: Path) -> list[Path]:
    """The boots of a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _BOOT.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: path.name)


def announce_reader(folder: Path) -> None:
    """Says that somebody reads: from now on nothing goes unread that the bounds allow to stay."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / _READER).touch(mode=0o600)


def has_reader(folder: Path) -> bool:
    """Whether somebody has said that they read."""
    return (folder / _READER).exists()


def new_boot() -> bytes:
    """An id for one life of a server; ids sort by the time that they were made."""
    return time.time_ns().to_bytes(8, "big") + os.urandom(8)


def open_catalog(boot: Path) -> int:
    """Makes the catalog of a boot and takes its lock, which says that the boot lives. Raises OSError.

    Returns the descriptor; the lock goes with it.
    """
    descriptor = os.open(boot / CATALOG, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def is_alive(boot: Path) -> bool:
    """Whether the server of a boot lives. One that is just being made does."""
    try:
        descriptor = os.open(boot / CATALOG, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return time.time_ns() - int(boot.name[:16], 16) < 60_000_000_000
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_read(boot: Path) -> bool:
    """Whether a reader is through with a boot that ended. What cannot be read, nobody waits for."""
    return all(_rings_read(boot)) and all(_pages_read(boot))


def tidy(folder: Path) -> list[Path]:
    """Removes the boots that ended and that nobody needs any more; returns them. Raises OSError."""
    ended = [boot for boot in boots(folder) if not is_alive(boot)]
    kept = [boot for boot in ended if not is_read(boot)][-KEPT_BOOTS:] if has_reader(folder) else []
    removed = [boot for boot in ended if boot not in kept]
    for boot in removed:
        shutil.rmtree(boot)
    return removed


def _rings_read(boot: Path) -> Iterator[bool]:
    for path in rings(boot):
        try:
            ring = RingFile(path)
        except (TickserveError, OSError):
            continue
        yield ring.lag_slots == 0
        ring.close()


def _pages_read(boot: Path) -> Iterator[bool]:
    try:
        page = Page(boot / COUNTERS)
    except (TickserveError, OSError):
        return
    yield page.is_final
    page.close()
