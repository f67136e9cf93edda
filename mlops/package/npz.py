"""Named arrays in one .npz file: written the same byte for byte every time, and read without trust.

A member's declared size is bounded before it is unpacked, and an array's declared shape is compared with the bytes
that are there before it is allocated. Nothing is ever unpickled.
"""

import io
import math
import zipfile
from collections.abc import Mapping

import numpy as np

from mlops.package._text import one_line
from mlops.package.datatypes import Array, datatype_of
from tickserve.errors import PackageError

#: Bounds on what one file may unpack to.
MAX_ARRAYS = 4096
MAX_UNPACKED_BYTES = 4 << 30

_SUFFIX = ".npy"


def write_arrays(arrays: Mapping[str, Array]) -> bytes:
    """The arrays as an uncompressed .npz file; equal arrays give equal bytes, in whatever order they come."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            array = np.array(arrays[name], order="C")
            member = zipfile.ZipInfo(name + _SUFFIX, date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            body = io.BytesIO()
            np.lib.format.write_array(body, array.astype(array.dtype.newbyteorder("<")), (1, 0), allow_pickle=False)
            archive.writestr(member, body.getvalue())
    return sink.getvalue()


def read_arrays(data: bytes, what: str, max_unpacked_bytes: int = MAX_UNPACKED_BYTES) -> dict[str, Array]:
    """Reads an .npz file whose arrays are all numbers, booleans or text.

    Parameters
    ----------
    data : bytes
        The whole file.
    what : str
        The file's name, for errors.
    max_unpacked_bytes : int
        Bound on all members together, unpacked.

    Raises
    ------
    PackageError
        Where the file is malformed, over a bound, or holds an array of anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS:
                raise PackageError(f"{what}: {len(members)} arrays, at most {MAX_ARRAYS} are read", field=what)
            unpacked = sum(member.file_size for member in members)
            if unpacked > max_unpacked_bytes:
                raise PackageError(
                    f"{what}: unpacks to {unpacked} bytes, at most {max_unpacked_bytes} are read", field=what
                )
            arrays: dict[str, Array] = {}
            for member in members:
                name = member.filename.removesuffix(_SUFFIX)
                if name == member.filename or name in arrays:
                    raise PackageError(f"{what}: {member.filename!r} is no array or appears twice", field=what)
                arrays[name] = _read_array(archive.read(member), f"{what}: array {name!r}")
            return arrays
    except PackageError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile, zlib, numpy, ast and tokenize each raise their own
        raise PackageError(
            f"{what}: not a readable .npz file ({one_line(str(error)) or type(error).__name__})", field=what
        ) from None


def _read_array(member: bytes, what: str) -> Array:
    stream = io.BytesIO(member)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"array format {version} is not supported")
    if datatype_of(dtype) is None:
        raise ValueError(f"{what} holds {dtype}; numbers, booleans or text are expected")
    size_bytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size_bytes != len(member) - stream.tell():
        raise ValueError(f"{what} declares shape {shape} of {dtype}, but has {len(member) - stream.tell()} bytes")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
