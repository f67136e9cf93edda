"""Frames: what a segment is made of. Each is whole or is not there, which its checksum says."""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tickserve.errors import DamagedLogError

#: magic, bytes of the head, bytes of the body, checksum of these sizes, head and body.
_FRAME = struct.Struct("<4sIQI4x")
_SIZES = struct.Struct("<IQ")
_MAGIC = b"TSLF"
_MAX_HEAD = 1 << 20
_MAX_BODY = 1 << 32
#: Every segment begins with this.
FILE_HEADER = struct.pack("<8sI4x", b"TSLOGSEG", 1)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: a JSON object, and bytes that it describes. `end` is where the next one begins."""

    head: Mapping[str, Any]
    body: bytes
    end: int


def encode_frame(head: Mapping[str, Any], body: bytes | memoryview = b"") -> list[bytes | memoryview]:
    """A frame as pieces to write one after the other."""
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    sizes = len(text), len(body)
    checksum = zlib.crc32(body, zlib.crc32(text, zlib.crc32(_SIZES.pack(*sizes))))
    return [_FRAME.pack(_MAGIC, *sizes, checksum) + text, body]


class FrameReader:
    """The frames of one file, from a place in it on; what is damaged is left out and counted.

    Raises DamagedLogError where the file is no segment, OSError where it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Places where something lies that is no frame, and where a frame comes after.
        self.damaged = 0
        #: Where the last whole frame ends.
        self.end = len(FILE_HEADER)
        #: Whether all that the file holds is whole.
        self.is_whole = True

    def __iter__(self) -> Iterator[Frame]:
        with open(self.path, "rb") as file:
            header = file.read(len(FILE_HEADER))
            if header != FILE_HEADER:
                raise DamagedLogError(
                    f"{self.path} begins with {header!r}, which is no segment of format 1", field=str(self.path)
                )
            while (frame := _next(file, self.end)) is not None or self._skip(file):
                if frame is not None:
                    self.end = frame.end
                    yield frame

    def _skip(self, file: BinaryIO) -> bool:
        """Goes to the next frame after bytes that are none; False where there is none, and the file ends here."""
        file.seek(self.end)
        rest = file.read()
        self.is_whole = not rest
        at = rest.find(_MAGIC, 1)
        while at >= 0:
            if _next(file, self.end + at) is not None:
                if _next(file, self.end) is not None:
                    # It was still being written when it was looked at first: frames are written in their order.
                    return True
                self.damaged += 1
                self.end += at
                return True
            at = rest.find(_MAGIC, at + 1)
        return False


def _next(file: BinaryIO, at: int) -> Frame | None:
    file.seek(at)
    data = file.read(_FRAME.size)
    if len(data) < _FRAME.size:
        return None
    magic, head_bytes, body_bytes, checksum = _FRAME.unpack(data)
    if magic != _MAGIC or head_bytes > _MAX_HEAD or body_bytes > _MAX_BODY:
        return None
    text, body = file.read(head_bytes), b""
    if body_bytes:
        body = file.read(body_bytes)
    if len(text) != head_bytes or len(body) != body_bytes:
        return None
    if zlib.crc32(body, zlib.crc32(text, zlib.crc32(_SIZES.pack(head_bytes, body_bytes)))) != checksum:
        return None
    return Frame(json.loads(text), body, at + _FRAME.size + head_bytes + body_bytes)
