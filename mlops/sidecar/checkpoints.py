"""Checkpoints of consumers: a file each, replaced whole, with a checksum over what it holds."""

import os
import struct
import zlib
from pathlib import Path

#: magic, format, checksum of what follows; position, order of the last outcome.
_HEADER = struct.Struct("<8sII")
_REACHED = struct.Struct("<qq")
_MAGIC = b"TSCHECKP"
_FORMAT = 1


def write_checkpoint(path: Path, position: int, order: int, data: bytes) -> None:
    """Replaces a checkpoint, on disk when this returns. Raises OSError."""
    staged = path.with_suffix(".new")
    body = _REACHED.pack(position, order) + data
    with open(staged, "wb") as file:
        file.write(_HEADER.pack(_MAGIC, _FORMAT, zlib.crc32(body)))
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checkpoint(path: Path) -> tuple[int, int, bytes]:
    """Position, order of the last outcome, and data of a checkpoint. Raises ValueError where it is none, OSError."""
    content = path.read_bytes()
    body = content[_HEADER.size :]
    if len(body) < _REACHED.size:
        raise ValueError(f"{path} is not whole")
    magic, version, checksum = _HEADER.unpack_from(content)
    if (magic, version) != (_MAGIC, _FORMAT) or zlib.crc32(body) != checksum:
        raise ValueError(f"{path} is damaged, or of another format")
    position, order = _REACHED.unpack_from(body)
    return position, order, body[_REACHED.size :]
