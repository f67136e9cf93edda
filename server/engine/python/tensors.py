"""Tensors of a ModelInferRequest: shapes held against the model's schema, then raw or typed contents to arrays."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlops.package import TensorSpec
from mlops.package.datatypes import numpy_dtype
from server.engine import texts
from server.engine.python.call import Shape
from server.engine.python.parameters import refuse_unsupported
from server.engine.python.rules import Array
from server.plan import VersionPlan

_SHAPES = 64
#: Elements read in one go: other threads get the interpreter in between.
_CHUNK = 4096
#: Dimensions that a refusal names.
_SHOWN_DIMENSIONS = 16
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

    __slots__ = ("_counts", "_dtype", "_is_text", "datatype", "has_rows", "name", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.datatype = spec.datatype
        self.has_rows = spec.shape[:1] == (-1,)
        self._dtype = numpy_dtype(spec.datatype)
        self._is_text = spec.datatype == "BYTES"
        self._counts: dict[tuple[int, ...], int] = {}

    def shape(self, tensor: Any) -> tuple[tuple[int, ...], int]:
        """The tensor's shape and its number of elements. Raises PredictionError where the schema does not allow it."""
        if tensor.datatype != self.datatype:
            raise texts.DATATYPE.error(at=self.name, tensor=self.name, got=tensor.datatype, expected=self.datatype)
        dimensions = tensor.shape
        if len(dimensions) != len(self.spec.shape):
            raise texts.RANK.error(
                at=self.name,
                tensor=self.name,
                got=list(dimensions[:_SHOWN_DIMENSIONS]),
                rank=len(self.spec.shape),
                expected=list(self.spec.shape),
            )
        shape = tuple(dimensions)
        count = self._counts.get(shape)
        if count is None:
            count = _count(shape, self.spec)
            if len(self._counts) < _SHAPES:
                self._counts[shape] = count
        return shape, count

    def read_raw(self, tensor: Any, data: bytes, shape: tuple[int, ...], count: int) -> Array:
        """The array of this shape that raw contents hold, without a copy. Raises PredictionError."""
        if tensor.HasField("contents"):
            raise texts.RAW_AND_TYPED.error(at=self.name, tensor=self.name)
        if self._is_text:
            return _from_raw_strings(data, shape, count, self.spec)
        size = count * self._dtype.itemsize
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

    def read_typed(self, tensor: Any, shape: tuple[int, ...], count: int) -> Array:
        """The array of this shape that typed contents hold. Raises PredictionError."""
        return _from_typed(tensor.contents, shape, count, self.spec)


def input_shapes(request: Any, readers: Sequence[InputReader], version: VersionPlan) -> Shape:
    """Holds names, datatypes and shapes of all inputs against the schema; reads no contents. Raises PredictionError."""
    tensors = request.inputs
    raw_count = len(request.raw_input_contents)
    if raw_count and raw_count != len(tensors):
        raise texts.RAW_COUNT.error(at="raw_input_contents", got=raw_count, expected=len(tensors))
    order: Sequence[int] = (0,)
    if len(tensors) != 1 or len(readers) != 1 or tensors[0].name != readers[0].name:
        order = _input_order(tensors, [reader.spec for reader in readers])
    found = []
    rows = values = 0
    for reader, position in zip(readers, order, strict=True):
        tensor = tensors[position]
        if tensor.parameters:
            refuse_unsupported(tensor.parameters)
        shape, count = reader.shape(tensor)
        found.append((tensor, position, shape, count))
        values += count
        if reader.has_rows:
            if rows and shape[0] != rows:
                raise texts.ROWS_DIFFER.error(at=reader.name, tensor=reader.name, got=shape[0], expected=rows)
            rows = shape[0]
            if rows > version.limits.max_rows:
                raise texts.TOO_MANY_ROWS.error(
                    at=reader.name, got=rows, model=version.model, bound=version.limits.max_rows
                )
    return Shape(rows or 1, values, found)


def read_inputs(request: Any, readers: Sequence[InputReader], shape: Shape) -> list[Array]:
    """The arrays in the order of `readers`, from a request whose shapes are in order. Raises PredictionError."""
    raw = request.raw_input_contents
    return [
        reader.read_raw(tensor, raw[position], dimensions, count)
        if raw
        else reader.read_typed(tensor, dimensions, count)
        for reader, (tensor, position, dimensions, count) in zip(readers, shape.tensors, strict=True)
    ]


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
    if len(elements) != count:
        raise _wrong_count(len(elements), shape, count, spec, "raw_input_contents")
    return _strings(elements, shape, spec)


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
    if len(elements) != count:
        raise _wrong_count(len(elements), shape, count, spec, field)
    if spec.datatype == "BYTES":
        return _strings(elements, shape, spec)
    array = np.empty(count, numpy_dtype(spec.datatype))
    try:
        for start in range(0, count, _CHUNK):
            array[start : start + _CHUNK] = np.array(elements[start : start + _CHUNK], dtype=array.dtype)
    except OverflowError:
        raise texts.TYPED_RANGE.error(at=spec.name, tensor=spec.name, datatype=spec.datatype) from None
    return array.reshape(shape)


def _strings(elements: Sequence[bytes], shape: tuple[int, ...], spec: TensorSpec) -> Array:
    array = np.empty(len(elements), dtype=object)
    try:
        for start in range(0, len(elements), _CHUNK):
            array[start : start + _CHUNK] = [element.decode() for element in elements[start : start + _CHUNK]]
    except UnicodeDecodeError:
        raise texts.NOT_TEXT.error(at=spec.name, tensor=spec.name) from None
    return array.reshape(shape)


def _wrong_count(got: int, shape: tuple[int, ...], count: int, spec: TensorSpec, field: str) -> Exception:
    return texts.TYPED_LENGTH.error(
        at=spec.name, tensor=spec.name, got=got, field=field, expected=count, datatype=spec.datatype, shape=list(shape)
    )
