"""Files in shared memory: allocated in full when they are made, and mapped."""

import mmap
import os
from pathlib import Path

#: A full file system is found here and not by a signal when a page is first written.
_FLAGS = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)


def allocate(path: Path, size_bytes: int, header: bytes) -> None:
    """Makes a file of zeros that begins with `header`, with all of its memory. Raises OSError; leaves nothing then."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        os.pwrite(descriptor, header, 0)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def map_shared(path: Path) -> mmap.mmap:
    """Maps a whole file for reading and writing. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        # An empty file cannot be mapped.
        return mmap.mmap(descriptor, size, _FLAGS) if size else mmap.mmap(-1, 1)
    finally:
        os.close(descriptor)
