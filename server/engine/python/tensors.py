"""Tensors of a ModelInferRequest: raw or typed contents to arrays, each held against the model's schema."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlops.package import TensorSpec
from mlops.package.datatypes import numpy_dtype
from server.engine import texts
from server.engine.python.rules import Array

_REFUSED = {"classification": "classification results"}
_REFUSED_PREFIXES = {"shared_memory_": "shared memory", "sequence_": "stateful sequences"}
_SHAPES = 64
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class InputReader:
    """Reads one input of one version. What a shape implies is worked out once and remembered."""

    __slots__ = ("_dtype", "_is_text", "_sizes", "datatype", "has_rows", "name", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.datatype = spec.datatype
        self.has_rows = spec.shape[:1] == (-1,)
        self._dtype = numpy_dtype(spec.datatype)
        self._is_text = spec.datatype == "BYTES"
        self._sizes: dict[tuple[int, ...], int] = {}

    def read_raw(self, tensor: Any, data: bytes) -> Array:
        """The array that raw contents hold, without a copy. Raises PredictionError."""
        shape = tuple(tensor.shape)
        size = self._size(tensor, shape)
        if tensor.HasField("contents"):
            raise texts.RAW_AND_TYPED.error(at=self.name, tensor=self.name)
        if self._is_text:
            return _from_raw_strings(data, shape, size, self.spec)
        if len(data) != size:
            raise texts.RAW_LENGTH.error(
                at=self.name,
                tensor=self.name,
                got=len(data),
                expected=size,
                datatype=self.datatype,
                shape=list(shape),
            )
        if self.datatype == "BOOL" and data.translate(None, b"\0\1"):
            raise texts.NOT_BOOL.error(at=self.name, tensor=self.name)
        return np.ndarray(shape, self._dtype, data)

    def read_typed(self, tensor: Any) -> Array:
        """The array that typed contents hold. Raises PredictionError."""
        shape = tuple(tensor.shape)
        size = self._size(tensor, shape)
        count = size if self._is_text else size // self._dtype.itemsize
        return _from_typed(tensor.contents, shape, count, self.spec)

    def _size(self, tensor: Any, shape: tuple[int, ...]) -> int:
        """The size of a tensor of this shape: bytes, or elements where they have no fixed size."""
        if tensor.datatype != self.datatype:
            raise texts.DATATYPE.error(at=self.name, tensor=self.name, got=tensor.datatype, expected=self.datatype)
        size = self._sizes.get(shape)
        if size is None:
            count = _count(shape, self.spec)
            size = count if self._is_text else count * self._dtype.itemsize
            if len(self._sizes) < _SHAPES:
                self._sizes[shape] = size
        return size


def read_inputs(request: Any, readers: Sequence[InputReader]) -> tuple[list[Array], int]:
    """The arrays in the order of `readers`, and the number of rows. Raises PredictionError."""
    tensors = request.inputs
    raw = request.raw_input_contents
    if raw and len(raw) != len(tensors):
        raise texts.RAW_COUNT.error(at="raw_input_contents", got=len(raw), expected=len(tensors))
    order: Sequence[int] = (0,)
    if len(tensors) != 1 or len(readers) != 1 or tensors[0].name != readers[0].name:
        order = _input_order(tensors, [reader.spec for reader in readers])
    arrays = []
    rows = 0
    for reader, position in zip(readers, order, strict=True):
        tensor = tensors[position]
        if tensor.parameters:
            for name in tensor.parameters:
                refuse_unsupported(name)
        array = reader.read_raw(tensor, raw[position]) if raw else reader.read_typed(tensor)
        arrays.append(array)
        if reader.has_rows:
            count = len(array)
            if rows and count != rows:
                raise texts.ROWS_DIFFER.error(at=reader.name, tensor=reader.name, got=count, expected=rows)
            rows = count
    return arrays, rows or 1


def _input_order(tensors: Any, specs: Sequence[TensorSpec]) -> list[int]:
    """The position in the request of each input; raises where one is missing, unknown or repeated."""
    expected = ", ".join(spec.name for spec in specs)
    known = {spec.name for spec in specs}
    found: dict[str, int] = {}
    for position, tensor in enumerate(tensors):
        if tensor.name not in known:
            raise texts.INPUT_UNKNOWN.error(at=tensor.name, tensor=tensor.name, expected=expected)
        if tensor.name in found:
            raise texts.INPUT_TWICE.error(at=tensor.name, tensor=tensor.name)
        found[tensor.name] = position
    for spec in specs:
        if spec.name not in found:
            raise texts.INPUT_MISSING.error(at=spec.name, tensor=spec.name, expected=expected)
    return [found[spec.name] for spec in specs]


def _count(shape: tuple[int, ...], spec: TensorSpec) -> int:
    """The number of elements of a tensor of this shape; raises where the schema does not allow it."""
    if len(shape) != len(spec.shape):
        raise texts.RANK.error(
            at=spec.name, tensor=spec.name, got=list(shape), rank=len(spec.shape), expected=list(spec.shape)
        )
    for size, expected in zip(shape, spec.shape, strict=True):
        if size < 0 or (size != expected and expected != -1):
            raise texts.DIMENSION.error(at=spec.name, tensor=spec.name, got=list(shape), expected=list(spec.shape))
    if 0 in shape:
        raise texts.EMPTY.error(at=spec.name, tensor=spec.name, got=list(shape))
    return math.prod(shape)


def _from_raw_strings(data: bytes, shape: tuple[int, ...], count: int, spec: TensorSpec) -> Array:
    elements: list[bytes] = []
    position = 0
    while position < len(data):
        end = position + 4
        if end <= len(data):
            end += struct.unpack_from("<I", data, position)[0]
        if end > len(data) or end < position + 4:
            raise texts.RAW_BYTES.error(at=spec.name, tensor=spec.name, element=len(elements), expected=count)
        elements.append(data[position + 4 : end])
        position = end
        if len(elements) > count:
            break
    return _strings(elements, shape, count, spec, "raw_input_contents")


def _from_typed(contents: Any, shape: tuple[int, ...], count: int, spec: TensorSpec) -> Array:
    field = _CONTENTS.get(spec.datatype)
    if field is None:
        raise texts.ONLY_RAW.error(at=spec.name, tensor=spec.name, datatype=spec.datatype)
    for descriptor, _ in contents.ListFields():
        if descriptor.name != field:
            raise texts.TYPED_FIELD.error(
                at=spec.name, tensor=spec.name, datatype=spec.datatype, got=descriptor.name, field=field
            )
    elements = getattr(contents, field)
    if spec.datatype == "BYTES":
        return _strings(list(elements), shape, count, spec, field)
    if len(elements) != count:
        raise _wrong_count(len(elements), shape, count, spec, field)
    dtype = numpy_dtype(spec.datatype)
    try:
        return np.array(elements, dtype=dtype).reshape(shape)
    except OverflowError:
        raise texts.TYPED_RANGE.error(at=spec.name, tensor=spec.name, datatype=spec.datatype) from None


def _strings(elements: list[bytes], shape: tuple[int, ...], count: int, spec: TensorSpec, field: str) -> Array:
    if len(elements) != count:
        raise _wrong_count(len(elements), shape, count, spec, field)
    try:
        return np.array([element.decode() for element in elements], dtype=object).reshape(shape)
    except UnicodeDecodeError:
        raise texts.NOT_TEXT.error(at=spec.name, tensor=spec.name) from None


def _wrong_count(got: int, shape: tuple[int, ...], count: int, spec: TensorSpec, field: str) -> Exception:
    return texts.TYPED_LENGTH.error(
        at=spec.name, tensor=spec.name, got=got, field=field, expected=count, datatype=spec.datatype, shape=list(shape)
    )


def refuse_unsupported(name: str) -> None:
    """Refuses a parameter that asks for what there is not; every other unknown one is accepted."""
    what = _REFUSED.get(name) or next((w for prefix, w in _REFUSED_PREFIXES.items() if name.startswith(prefix)), None)
    if what is not None:
        raise texts.PARAMETER_REFUSED.error(at=name, name=name, what=what)
