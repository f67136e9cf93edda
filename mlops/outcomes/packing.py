"""Columns as bytes and back, for checkpoints: numbers as they are, texts as lengths and one run of UTF-8."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]


def pack(columns: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> bytes:
    """Columns, of which text is an object array, and facts that JSON holds."""
    arrays: Columns = {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
    for name, column in columns.items():
        if column.dtype == object:
            texts = [text.encode() for text in column]
            arrays[f"{name}:sizes"] = np.array([len(text) for text in texts], np.int64)
            arrays[f"{name}:text"] = np.frombuffer(b"".join(texts), np.uint8)
        else:
            arrays[name] = column
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[Columns, dict[str, Any]]:
    """What `pack` was given. Raises ValueError where these bytes are something else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        facts = json.loads(arrays.pop("facts").tobytes())
        columns: Columns = {name: array for name, array in arrays.items() if ":" not in name}
        for name in [name.removesuffix(":sizes") for name in arrays if name.endswith(":sizes")]:
            columns[name] = _texts(arrays[f"{name}:sizes"], arrays[f"{name}:text"].tobytes())
    except (KeyError, OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"no checkpoint of outcomes: {error}") from None
    return columns, facts


def texts(values: Iterable[str]) -> NDArray[Any]:
    """Texts as an object array."""
    found = list(values)
    array = np.empty(len(found), object)
    array[:] = found
    return array


def _texts(sizes: NDArray[Any], data: bytes) -> NDArray[Any]:
    ends = np.cumsum(sizes).tolist()
    return texts(data[start:end].decode() for start, end in zip([0, *ends], ends, strict=False))
