"""An ONNX file as data: its tensors' schema and the promise that it stands alone, read without a runtime."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from pydantic import ValidationError

from mlops.package.datatypes import BY_ONNX_NUMBER
from mlops.package.manifest import MODEL_FILE, TensorSpec, explain
from mlops.package.onnx_parts import take_apart
from tickserve.errors import PackageError
from tickserve.wire import onnx_subset_pb2 as onnx

_EXTERNAL = 1
#: A file up to this size is parsed in one piece: some milliseconds.
_WHOLE_BYTES = 1 << 20


@dataclass(frozen=True)
class GraphSchema:
    """Inputs that a caller must give and outputs, in the graph's order; -1 is a dimension of any size."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read_graph(data: bytes) -> GraphSchema:
    """Reads the schema of an ONNX file that needs no other file.

    Raises
    ------
    PackageError
        Where the bytes are no ONNX model, a tensor lies in an external file, an input or output is no tensor, or has
        no rank or a datatype that cannot be served.
    """
    apart = take_apart(data) if len(data) > _WHOLE_BYTES else None
    rest, attributes = apart or (data, [])
    try:
        model = onnx.ModelProto.FromString(rest)
        apart_tensors = [tensor for each in attributes for tensor in _tensors_of(each)]
    except DecodeError:
        raise PackageError(f"{MODEL_FILE} is no ONNX file, or is cut short", field=MODEL_FILE) from None
    if not model.HasField("graph") or not model.graph.output:
        raise PackageError(f"{MODEL_FILE} holds no graph with outputs; is it an ONNX file?", field=MODEL_FILE)
    for tensor in itertools.chain(_tensors(model), apart_tensors):
        if tensor.data_location == _EXTERNAL or tensor.external_data:
            raise PackageError(
                f"{MODEL_FILE}: tensor {tensor.name!r} lies in another file (external data); "
                "save the model with all data inside",
                field=MODEL_FILE,
            )
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = tuple(_spec("input", value) for value in graph.input if value.name not in constants)
    outputs = tuple(_spec("output", value) for value in graph.output)
    if not inputs:
        raise PackageError(f"{MODEL_FILE}: the graph has no inputs, so it predicts nothing", field=MODEL_FILE)
    return GraphSchema(inputs, outputs)


def _spec(kind: str, value: onnx.ValueInfoProto) -> TensorSpec:
    place = f"{MODEL_FILE}: {kind} {value.name!r}"
    if not value.type.HasField("tensor_type"):
        raise PackageError(f"{place} is no tensor; export without ZipMap and sequence types", field=MODEL_FILE)
    tensor = value.type.tensor_type
    datatype = BY_ONNX_NUMBER.get(tensor.elem_type)
    if datatype is None:
        raise PackageError(f"{place} has ONNX type {tensor.elem_type}, which cannot be served", field=MODEL_FILE)
    if not tensor.HasField("shape"):
        raise PackageError(f"{place} declares no shape; export it with one (sizes may be open)", field=MODEL_FILE)
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else -1 for d in tensor.shape.dim)
    try:
        return TensorSpec(name=value.name, datatype=datatype, shape=shape)
    except ValidationError as error:
        raise PackageError(f"{place}: {explain(error, MODEL_FILE).message}", field=MODEL_FILE) from None


def _tensors_of(attribute: memoryview) -> list[onnx.TensorProto]:
    """Those in one attribute. Raises DecodeError."""
    return list(_attribute_tensors([onnx.AttributeProto.FromString(bytes(attribute))]))


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    if model.training_info:
        raise PackageError(f"{MODEL_FILE} carries a training graph; export for inference", field=MODEL_FILE)
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _attribute_tensors(node.attribute)
        yield from _attribute_tensors(function.attribute_proto)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _sparse_tensors(graph.sparse_initializer)
    for node in graph.node:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from _sparse_tensors([attribute.sparse_tensor])
        yield from _sparse_tensors(attribute.sparse_tensors)
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


def _sparse_tensors(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in tensors:
        yield tensor.values
        yield tensor.indices
