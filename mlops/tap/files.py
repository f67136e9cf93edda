"""Files in shared memory: allocated in full when they are made, and mapped."""

import mmap
import os
import struct
from pathlib import Path
from typing import Any

from mlops.tap.layout import FORMAT, HEADER_BYTES
from tickserve.errors import DamagedTapError

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


class Mapped:
    """A file of the tap in memory, whose header begins with a magic, the format and the header's size.

    Raises DamagedTapError where the file is none, OSError where it cannot be read.
    """

    def __init__(self, path: Path, magic: bytes, header: struct.Struct) -> None:
        self.path = path
        self._map = map_shared(path)
        try:
            if len(self._map) < HEADER_BYTES:
                raise self._damaged(f"it has {len(self._map)} bytes")
            found, version, header_bytes, self.boot, *fields = header.unpack_from(self._map)
            if (found, version, header_bytes) != (magic, FORMAT, HEADER_BYTES):
                raise self._damaged(f"it begins with {found!r}, format {version}, not {magic!r}, format {FORMAT}")
            self._read_header(fields)
        except BaseException:
            self._map.close()
            raise
        # One store or load of 8 bytes each, which no other process sees half of.
        self._words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        """Unmaps the file."""
        self._words.release()
        self._map.close()

    def _read_header(self, fields: list[Any]) -> None:
        """Takes what comes after the boot id. Raises DamagedTapError where it contradicts the file."""
        raise NotImplementedError

    def _damaged(self, why: str) -> DamagedTapError:
        return DamagedTapError(f"{self.path} is not whole: {why}", field=str(self.path))


def map_shared(path: Path) -> mmap.mmap:
    """Maps a whole file for reading and writing. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        # An empty file cannot be mapped.
        return mmap.mmap(descriptor, size, _FLAGS) if size else mmap.mmap(-1, 1)
    finally:
        os.close(descriptor)
