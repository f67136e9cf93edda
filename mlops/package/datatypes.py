"""Datatypes of tensors: their names on the wire, in ONNX and in NumPy."""

from typing import Any

import numpy as np

from mlops.package.manifest import Datatype

#: An array of any supported dtype, of booleans, and of counts.
Array = np.ndarray[Any, np.dtype[Any]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Counts = np.ndarray[Any, np.dtype[np.int64]]

#: Datatype by its number in TensorProto.DataType; numbers that are absent cannot be served.
BY_ONNX_NUMBER: dict[int, Datatype] = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
}

_NUMPY: dict[Datatype, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.str_),
}
_BY_NUMPY: dict[np.dtype[Any], Datatype] = {dtype: datatype for datatype, dtype in _NUMPY.items()}


def numpy_dtype(datatype: Datatype) -> np.dtype[Any]:
    """The NumPy dtype of a datatype; BYTES is text of any length."""
    return _NUMPY[datatype]


def datatype_of(dtype: np.dtype[Any]) -> Datatype | None:
    """The datatype of a NumPy dtype in native byte order, or None where it has none."""
    return "BYTES" if dtype.kind == "U" else _BY_NUMPY.get(dtype)
