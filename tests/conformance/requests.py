"""Requests as bytes, right or wrong, from words that a case can be read in."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlops.package.datatypes import numpy_dtype
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

PREDICT = "/tickserve.v1.Prediction/Predict"
PREDICT_STREAM = "/tickserve.v1.Prediction/PredictStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"
INFER_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"

#: A field whose length goes beyond the end: no message of any type.
BROKEN = b"\x0a\xff"


@dataclass(frozen=True)
class Sent:
    """One input tensor of a ModelInferRequest: with `raw` contents, or with typed ones by field name, or both."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | None = None
    typed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)


def raw(values: Any, datatype: str = "FP32", name: str = "features", **changes: Any) -> Sent:
    """A tensor whose values are raw contents."""
    array = np.asarray(values, object if datatype == "BYTES" else numpy_dtype(datatype))
    return Sent(**({"name": name, "datatype": datatype, "shape": array.shape, "raw": raw_bytes(array)} | changes))


def typed(values: Any, datatype: str, contents: str, name: str = "features", **changes: Any) -> Sent:
    """A tensor whose values are in the field `contents` of its InferTensorContents."""
    array = np.asarray(values, object)
    fields = {contents: array.ravel().tolist()}
    return Sent(**({"name": name, "datatype": datatype, "shape": array.shape, "typed": fields} | changes))


def raw_bytes(array: np.ndarray) -> bytes:
    """Raw contents: little-endian; each element of BYTES after its length."""
    if array.dtype != object:
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    elements = [item if isinstance(item, bytes) else item.encode() for item in array.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def infer(
    *tensors: Sent,
    model: str = "echo",
    version: str = "",
    request_id: str = "",
    outputs: Sequence[str | oip.ModelInferRequest.InferRequestedOutputTensor] = (),
    parameters: Mapping[str, Any] | None = None,
) -> bytes:
    """A ModelInferRequest."""
    request = oip.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for each in tensors:
        sent = request.inputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
        for contents, elements in each.typed.items():
            getattr(sent.contents, contents).extend(elements)
        _set_parameters(sent, each.parameters)
        if each.raw is not None:
            request.raw_input_contents.append(each.raw)
    for output in outputs:
        if isinstance(output, str):
            request.outputs.add(name=output)
        else:
            request.outputs.append(output)
    _set_parameters(request, parameters or {})
    return bytes(request.SerializeToString(deterministic=True))


def requested(name: str, **parameters: Any) -> oip.ModelInferRequest.InferRequestedOutputTensor:
    """A requested output with parameters."""
    output = oip.ModelInferRequest.InferRequestedOutputTensor(name=name)
    _set_parameters(output, parameters)
    return output


def predict(features: Sequence[float] = (), *, model: str = "echo", **fields: Any) -> bytes:
    """A PredictRequest."""
    return pb.PredictRequest(model=model, features=features, **fields).SerializeToString()


def named(**values: float) -> list[pb.NamedValue]:
    """Features by name."""
    return [pb.NamedValue(name=name, value=value) for name, value in values.items()]


def unpacked_floats(number: int, *values: float) -> bytes:
    """A repeated float field with a tag for each value, as a proto2 writer sends it."""
    return b"".join(bytes([number << 3 | 5]) + struct.pack("<f", value) for value in values)


def unpacked_varints(number: int, *values: int) -> bytes:
    """A repeated integer field with a tag for each value."""
    return b"".join(bytes([number << 3]) + varint(value) for value in values)


def nested(number: int, data: bytes) -> bytes:
    """A field that holds a message, text or bytes."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(number: int) -> bytes:
    """A number as the wire has it: seven bits a byte, the lowest first."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def _set_parameters(message: Any, parameters: Mapping[str, Any]) -> None:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in parameters.items():
        if type(value) in kinds:
            setattr(message.parameters[name], kinds[type(value)], value)
        else:
            message.parameters[name].CopyFrom(value)
