"""ModelInfer of the Open Inference Protocol: bytes to a call, outputs to bytes."""

import json
import struct
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from mlops.package import TensorSpec
from server.engine import texts
from server.engine.python.pipeline import Codec
from server.engine.python.rules import Array
from server.engine.python.runtime import Call
from server.engine.python.serving import Installed, Serving
from server.engine.python.tensors import read_inputs, refuse_unsupported
from tickserve.wire import grpc_service_pb2 as oip

MAX_KEY_BYTES = 64
_HEADS = 64
# The wire tags of ModelInferResponse.id and .raw_output_contents.
_ID_TAG = b"\x1a"
_RAW_TAG = b"\x32"


class _Options:
    """What a request's parameters ask for."""

    __slots__ = ("entities", "event_time_unix_ns", "feature_digest", "routing_key", "timeout_us")

    def __init__(self) -> None:
        self.routing_key = ""
        self.event_time_unix_ns = 0
        self.timeout_us = 0
        self.entities = 0
        self.feature_digest = b""


_NO_OPTIONS = _Options()
_OWN = (
    "tickserve_routing_key",
    "tickserve_event_time_unix_ns",
    "tickserve_entities",
    "tickserve_feature_digest",
)


#: A request that is parsed and routed and not read yet, with what its parameters ask for.
Pending = tuple[Any, _Options]


def parse(data: bytes) -> Any:
    """One ModelInferRequest. Raises PredictionError where the bytes are none."""
    try:
        return oip.ModelInferRequest.FromString(data)
    except DecodeError:
        raise texts.MALFORMED.error(message="ModelInferRequest") from None


def route(request: Any, installed: Installed, drawn_id: str) -> tuple[Serving, Pending]:
    """Finds the version that answers. Raises PredictionError."""
    options = _read_options(request.parameters) if request.parameters else _NO_OPTIONS
    key = options.routing_key or request.id or drawn_id
    return installed.route(request.model_name, request.model_version, key), (request, options)


def read(serving: Serving, pending: Pending) -> Call:
    """Reads the tensors and options of a routed request. Raises PredictionError."""
    request, options = pending
    arrays, rows = read_inputs(request, serving.runtime.readers)
    version = serving.version
    if rows > version.limits.max_rows:
        raise texts.TOO_MANY_ROWS.error(
            at=version.inputs[0].name, got=rows, model=version.model, bound=version.limits.max_rows
        )
    if options is not _NO_OPTIONS:
        if options.entities and options.entities != rows:
            raise texts.ENTITIES.error(at="tickserve_entities", got=options.entities, rows=rows)
        check_feature_digest(options.feature_digest, serving, "tickserve_feature_digest")
    call = Call(arrays, rows, request.id, options.event_time_unix_ns, options.timeout_us)
    if request.outputs:
        call.outputs = _requested(request.outputs, version.outputs)
    return call


def encode(serving: Serving, call: Call, outputs: Sequence[Array], _duration_ns: int) -> bytes:
    """One ModelInferResponse with raw contents.

    What is the same for every answer of this version with as many rows is encoded once: a protobuf message is the
    concatenation of its fields.
    """
    if call.outputs is None:
        head = serving.heads.get(call.rows)
        if head is None:
            head = _head(serving, range(len(outputs)), outputs)
            if len(serving.heads) < _HEADS and _shapes_follow_rows(serving.version.outputs):
                serving.heads[call.rows] = head
    else:
        head = _head(serving, call.outputs, outputs)
        outputs = [outputs[index] for index in call.outputs]
    parts = [head]
    if call.request_id:
        request_id = call.request_id.encode()
        parts += (_ID_TAG, varint(len(request_id)), request_id)
    for array in outputs:
        raw = _raw(array)
        parts += (_RAW_TAG, varint(len(raw)), raw)
    if call.findings:
        parts.append(_findings(call))
    return b"".join(parts)


def check_feature_digest(digest: bytes, serving: Serving, field: str) -> None:
    """Refuses a feature digest that is not the version's; an empty one is no check."""
    if not digest:
        return
    if len(digest) != 32:
        raise texts.DIGEST_LENGTH.error(at=field, got=len(digest))
    version = serving.version
    if digest != version.feature_digest:
        raise texts.FEATURES_CHANGED.error(at=field, version=version.version, model=version.model)


def _read_options(parameters: Any) -> _Options:
    options = _NO_OPTIONS
    for name in parameters:
        if name != "timeout" and not name.startswith("tickserve_"):
            refuse_unsupported(name)
            continue
        if options is _NO_OPTIONS:
            options = _Options()
        parameter = parameters[name]
        kind = parameter.WhichOneof("parameter_choice")
        if name == "timeout":
            if kind not in ("int64_param", "uint64_param") or getattr(parameter, kind) < 0:
                raise texts.PARAMETER_TYPE.error(at=name, name=name, expected="a number of microseconds")
            options.timeout_us = getattr(parameter, kind)
        else:
            _read_own_option(options, name, parameter, kind)
    return options


def _read_own_option(options: _Options, name: str, parameter: Any, kind: str | None) -> None:
    if name not in _OWN:
        # A misspelt check must not be lost in silence.
        raise texts.PARAMETER_UNKNOWN.error(at=name, name=name, known=", ".join(_OWN))
    if name == "tickserve_event_time_unix_ns":
        if kind not in ("int64_param", "uint64_param"):
            raise texts.PARAMETER_TYPE.error(at=name, name=name, expected="an integer of nanoseconds")
        options.event_time_unix_ns = getattr(parameter, kind)
        return
    if kind != "string_param":
        raise texts.PARAMETER_TYPE.error(at=name, name=name, expected="a string")
    text = parameter.string_param
    if name == "tickserve_routing_key":
        check_length(name, text)
        options.routing_key = text
    elif name == "tickserve_entities":
        options.entities = text.count(",") + 1 if text else 0
    else:
        try:
            options.feature_digest = bytes.fromhex(text)
        except ValueError:
            raise texts.PARAMETER_TYPE.error(at=name, name=name, expected="64 hexadecimal digits") from None


def check_length(name: str, text: str) -> None:
    """Refuses an identifier of more than 64 bytes."""
    if len(text) * 4 > MAX_KEY_BYTES and len(text.encode()) > MAX_KEY_BYTES:
        raise texts.TOO_LONG.error(at=name, name=name, size=len(text.encode()), bound=MAX_KEY_BYTES)


def _requested(wanted: Any, specs: Sequence[TensorSpec]) -> list[int]:
    names = [spec.name for spec in specs]
    chosen: list[int] = []
    for output in wanted:
        for name in output.parameters:
            refuse_unsupported(name)
        if output.name not in names:
            raise texts.OUTPUT_UNKNOWN.error(at=output.name, tensor=output.name, expected=", ".join(names))
        index = names.index(output.name)
        if index in chosen:
            raise texts.OUTPUT_TWICE.error(at=output.name, tensor=output.name)
        chosen.append(index)
    return chosen


def _head(serving: Serving, indices: Sequence[int], outputs: Sequence[Array]) -> bytes:
    version = serving.version
    response = oip.ModelInferResponse(model_name=version.model, model_version=version.version)
    for index in indices:
        spec = version.outputs[index]
        response.outputs.add(name=spec.name, datatype=spec.datatype, shape=outputs[index].shape)
    response.parameters["tickserve_digest"].string_param = version.digest.hex()
    response.parameters["tickserve_role"].string_param = serving.role.label
    response.parameters["tickserve_plan_generation"].int64_param = serving.generation
    return response.SerializeToString(deterministic=True)


def _shapes_follow_rows(specs: Sequence[TensorSpec]) -> bool:
    """Whether the rows of a request alone decide every output's shape."""
    return all(-1 not in spec.shape[1:] for spec in specs)


def _findings(call: Call) -> bytes:
    found = [{"kind": f.kind, "row": f.row, "column": f.column, "rule": f.rule} for f in call.findings]
    response = oip.ModelInferResponse()
    response.parameters["tickserve_findings"].string_param = json.dumps(found)
    return response.SerializeToString()


def _raw(array: Array) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    elements = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def varint(number: int) -> bytes:
    """A protobuf varint."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


CODEC: Codec[Any, Pending] = Codec(
    parse=parse,
    model=lambda request: str(request.model_name),
    identify=lambda request, _drawn_id: str(request.id),
    route=route,
    read=read,
    encode=encode,
)
