"""ModelInfer of the Open Inference Protocol: bytes to a call, outputs to bytes."""

import json
import struct
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from mlops.package import TensorSpec
from server.engine import texts
from server.engine.python.call import Asked, Call, Shape
from server.engine.python.job import Codec
from server.engine.python.parameters import NO_OPTIONS, Options, check_length, read_options, refuse_unsupported
from server.engine.python.rules import Array
from server.engine.python.serving import Installed, Serving
from server.engine.python.tensors import input_shapes, read_inputs
from tickserve.varint import varint
from tickserve.wire import grpc_service_pb2 as oip

_HEADS = 64
# The wire tags of ModelInferResponse.id and .raw_output_contents.
_ID_TAG = b"\x1a"
_RAW_TAG = b"\x32"


#: A request that is parsed and routed and not read yet, with what its parameters ask for.
Pending = tuple[Any, Options]


def parse(data: bytes) -> Any:
    """One ModelInferRequest. Raises PredictionError where the bytes are none."""
    try:
        return oip.ModelInferRequest.FromString(data)
    except DecodeError:
        raise texts.MALFORMED.error(message="ModelInferRequest") from None


def route(request: Any, installed: Installed, drawn_id: str, client: str) -> tuple[Serving, Pending]:
    """Finds the version that answers. Raises PredictionError."""
    check_length("id", request.id)
    options = read_options(request.parameters) if request.parameters else NO_OPTIONS
    key = options.routing_key or request.id or drawn_id
    return installed.route(request.model_name, request.model_version, key, client), (request, options)


def ask(request: Any, pending: Pending) -> Asked:
    """What the tap keeps of a request."""
    options = pending[1]
    entities = options.entity_text.split(",") if options.entity_text else ()
    return Asked(request.id, options.routing_key, bool(request.model_version), entities)


def shape(serving: Serving, pending: Pending) -> Shape:
    """Holds everything but contents against the version. Raises PredictionError."""
    request, options = pending
    found = input_shapes(request, serving.runtime.readers, serving.version)
    if options is not NO_OPTIONS:
        if options.entities and options.entities != found.rows:
            raise texts.ENTITIES.error(at="tickserve_entities", got=options.entities, rows=found.rows)
        check_feature_digest(options.feature_digest, serving, "tickserve_feature_digest")
    return found


def read(serving: Serving, pending: Pending, shape: Shape) -> Call:
    """Reads the tensors of a request whose shapes are in order. Raises PredictionError."""
    request, options = pending
    arrays = read_inputs(request, serving.runtime.readers, shape)
    call = Call(arrays, shape.rows, request.id, options.event_time_unix_ns, options.timeout_us)
    if request.outputs:
        call.outputs = _requested(request.outputs, serving.runtime.output_names)
    return call


def encode(serving: Serving, call: Call, outputs: Sequence[Array], _duration_ns: int) -> bytes:
    """One ModelInferResponse with raw contents.

    What is the same for every answer of this version with as many rows and the same outputs is encoded once: a protobuf
    message is the concatenation of its fields.
    """
    wanted = call.outputs
    asked = call.rows, wanted
    head = serving.heads.get(asked)
    if head is None:
        head = _head(serving, range(len(outputs)) if wanted is None else wanted, outputs)
        if len(serving.heads) < _HEADS and _shapes_follow_rows(serving.version.outputs):
            serving.heads[asked] = head
    if wanted is not None:
        outputs = [outputs[index] for index in wanted]
    parts = [head]
    if call.request_id:
        request_id = call.request_id.encode()
        parts += (_ID_TAG, varint(len(request_id)), request_id)
    for array in outputs:
        raw = _raw(array)
        parts += (_RAW_TAG, varint(len(raw)), raw)
    if call.findings.kept:
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


def _requested(wanted: Any, names: Sequence[str]) -> tuple[int, ...]:
    chosen: list[int] = []
    for output in wanted:
        if output.parameters:
            refuse_unsupported(output.parameters)
        name = output.name
        if name not in names:
            raise texts.OUTPUT_UNKNOWN.error(at=name, tensor=name, expected=", ".join(names))
        index = names.index(name)
        if index in chosen:
            raise texts.OUTPUT_TWICE.error(at=name, tensor=name)
        chosen.append(index)
    return tuple(chosen)


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
    found = [{"kind": f.kind, "row": f.row, "column": f.column, "rule": f.rule} for f in call.findings.kept]
    response = oip.ModelInferResponse()
    response.parameters["tickserve_findings"].string_param = json.dumps(found)
    if call.findings.left_out:
        response.parameters["tickserve_findings_left_out"].int64_param = call.findings.left_out
    return response.SerializeToString()


def _raw(array: Array) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    elements = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


CODEC: Codec[Any, Pending] = Codec(
    parse=parse,
    model=lambda request: str(request.model_name),
    identify=lambda request, _drawn_id: str(request.id),
    route=route,
    shape=shape,
    ask=ask,
    read=read,
    encode=encode,
)
