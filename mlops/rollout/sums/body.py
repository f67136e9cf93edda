"""Named arrays of int64 as the bytes of one row: zlib, whose checksum shows damage, over JSON and the numbers."""

import json
import math
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_FORMAT = b"\x01"
_HEAD = struct.Struct("<I")
#: More than any row takes: 64 blocks of counters are 1 MiB.
_MAX_BYTES = 32 << 20
Arrays = dict[str, NDArray[np.int64]]


def pack(arrays: Mapping[str, NDArray[np.int64]]) -> bytes:
    """Arrays as bytes."""
    head = json.dumps({name: list(each.shape) for name, each in arrays.items()}, separators=(",", ":")).encode()
    data = b"".join(np.ascontiguousarray(each, "<i8").tobytes() for each in arrays.values())
    return _FORMAT + zlib.compress(_HEAD.pack(len(head)) + head + data, 1)


def unpack(body: bytes) -> Arrays:
    """What `pack` made bytes of. Raises ValueError where it did not, or they were changed."""
    if body[:1] != _FORMAT:
        raise ValueError(f"begins with {body[:1]!r}, which is no format that this tickserve knows")
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(body[1:], _MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"is damaged: {error}") from None
    if not reader.eof or reader.unused_data:
        raise ValueError("is not whole, or has something behind its end")
    try:
        (size,) = _HEAD.unpack_from(data)
        shapes = json.loads(data[_HEAD.size : _HEAD.size + size])
        at, found = _HEAD.size + size, Arrays()
        for name, shape in shapes.items():
            count = math.prod(shape)
            found[name] = np.frombuffer(data, "<i8", count, at).astype(np.int64).reshape(shape)
            at += 8 * count
    except (struct.error, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"holds no arrays: {error}") from None
    if at != len(data):
        raise ValueError("holds more than its arrays")
    return found
