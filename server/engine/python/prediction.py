"""Prediction.Predict and GetModel: bytes to a call, outputs to bytes."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from mlops.package import TensorSpec
from server.engine import texts
from server.engine.python.call import Asked, Call, Shape
from server.engine.python.job import Codec
from server.engine.python.oip import check_feature_digest
from server.engine.python.parameters import check_length
from server.engine.python.rules import Array, Findings
from server.engine.python.runtime import row_value, row_values
from server.engine.python.serving import Installed, Serving
from server.plan import VersionPlan
from tickserve.v1 import prediction_pb2 as pb
from tickserve.varint import varint

_FLOAT32 = struct.Struct("<f")
#: Features from this many on are taken from the message's own bytes; fewer are faster one by one.
_MANY = 512
_OTHER_FIELDS = [field.name for field in pb.PredictRequest.DESCRIPTOR.fields if field.name != "features"]
# Keys of length-delimited fields of PredictResponse: number << 3 | 2.
_VALUES_KEY, _SIGNAL_KEY, _CONFIDENCE_KEY = (
    bytes([pb.PredictResponse.DESCRIPTOR.fields_by_name[name].number << 3 | 2])
    for name in ("values", "signal", "confidence")
)
_NUMBERS = ("FP16", "FP32", "FP64", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")


#: A request that is parsed and routed and not read yet, with the client's request id or the drawn one.
Pending = tuple[pb.PredictRequest, str]


def parse(data: bytes) -> pb.PredictRequest:
    """One PredictRequest. Raises PredictionError where the bytes are none."""
    try:
        return pb.PredictRequest.FromString(data)
    except DecodeError:
        raise texts.MALFORMED.error(message="PredictRequest") from None


def identify(request: pb.PredictRequest, drawn_id: str) -> str:
    """The client's request id, or the drawn one."""
    return request.request_id or drawn_id


def route(request: pb.PredictRequest, installed: Installed, drawn_id: str, client: str) -> tuple[Serving, Pending]:
    """Finds the version that answers. Raises PredictionError."""
    request_id = identify(request, drawn_id)
    check_length("request_id", request_id)
    check_length("routing_key", request.routing_key)
    key = request.routing_key or request_id
    return installed.route(request.model, request.version, key, client), (request, request_id)


def ask(request: pb.PredictRequest, _pending: Pending) -> Asked:
    """What the tap keeps of a request."""
    return Asked(request.request_id, request.routing_key, bool(request.version), request.entities)


def shape(serving: Serving, pending: Pending) -> Shape:
    """Holds everything but the values against the version. Raises PredictionError."""
    (request, _), version = pending, serving.version
    if not takes_predictions(version):
        raise texts.NOT_ONE_FLOAT_INPUT.error(at="model", model=version.model)
    if request.feature_digest:
        check_feature_digest(request.feature_digest, serving, "feature_digest")
    rows = request.rows or 1
    steps = request.steps or 1
    if rows > version.limits.max_rows:
        raise texts.TOO_MANY_ROWS.error(at="rows", got=rows, model=version.model, bound=version.limits.max_rows)
    entities = len(request.entities)
    if entities and entities != rows:
        raise texts.ENTITIES.error(at="entities", got=entities, rows=rows)
    wanted = version.inputs[0].shape
    if len(wanted) == 2 and steps != 1:
        raise texts.STEPS.error(at="steps", got=steps, model=version.model, expected=1)
    if len(wanted) == 3 and wanted[1] not in (-1, steps):
        raise texts.STEPS.error(at="steps", got=steps, model=version.model, expected=wanted[1])
    values = rows * steps * wanted[-1]
    if request.named:
        if request.features:
            raise texts.FEATURES_AND_NAMED.error(at="named")
        if rows != 1 or steps != 1:
            raise texts.NAMED_ROWS.error(at="named", rows=rows, steps=steps)
    elif len(request.features) != values:
        raise texts.FEATURE_COUNT.error(
            at="features", got=len(request.features), expected=values, rows=rows, steps=steps, width=wanted[-1]
        )
    return Shape(rows, values)


def read(serving: Serving, pending: Pending, shape: Shape) -> Call:
    """Reads the features of a request whose shape is in order. Raises PredictionError."""
    (request, request_id), version = pending, serving.version
    findings = Findings()
    if request.named:
        array = np.array(_by_name(request.named, version, findings), dtype=np.float32)
    elif shape.values < _MANY:
        array = np.array(request.features[:], dtype=np.float32)
    else:
        array = _many(request, shape.values)
    wanted = version.inputs[0].shape
    dimensions = (shape.rows, *(() if len(wanted) == 2 else (request.steps or 1,)), wanted[-1])
    call = Call([array.reshape(dimensions)], shape.rows, request_id, request.event_time_unix_ns, request.timeout_us)
    call.findings = findings
    return call


def encode(serving: Serving, call: Call, outputs: Sequence[Array], duration_ns: int) -> bytes:
    """One PredictResponse.

    Figures are written as the packed floats that they are on the wire; protobuf would take them as Python objects.
    """
    version = serving.version
    response = pb.PredictResponse(
        request_id=call.request_id,
        model=version.model,
        version=version.version,
        digest=version.digest,
        role=pb.Role.Name(serving.role),
        plan_generation=serving.generation,
        rows=call.rows,
        position_scale=serving.position_scale,
        findings_left_out=call.findings.left_out,
        server_duration_ns=duration_ns,
    )
    for finding in call.findings.kept:
        response.findings.add(
            kind=f"FINDING_KIND_{finding.kind}", row=finding.row, column=finding.column, rule=finding.rule
        )
    parts = [response.SerializeToString()]
    values = [_float32(array, spec.name, serving, call) for spec, array in zip(version.outputs, outputs, strict=True)]
    if len(values) == 1:
        _append(parts, _VALUES_KEY, values[0])
    else:
        # The elements of every output, row by row.
        _append(parts, _VALUES_KEY, np.concatenate([array.reshape(call.rows, -1) for array in values], axis=1))
    for key, what, mapping in (
        (_SIGNAL_KEY, "signal", version.signal),
        (_CONFIDENCE_KEY, "confidence", version.confidence),
    ):
        if mapping is not None:
            output = outputs[_index(version, mapping.output)]
            if call.rows == 1:
                parts += (key, b"\x04", _one_float32(row_value(mapping, output), what, serving, call))
            else:
                _append(parts, key, _float32(row_values(mapping, output, call.rows), what, serving, call))
    return b"".join(parts)


def describe(data: bytes, installed: Installed) -> bytes:
    """Answers GetModel. Raises PredictionError."""
    try:
        request = pb.GetModelRequest.FromString(data)
    except DecodeError:
        raise texts.MALFORMED.error(message="GetModelRequest") from None
    serving = installed.find(request.model, request.version)
    version = serving.version
    rule = version.input_rules.event_time
    return pb.ModelInfo(
        model=version.model,
        version=version.version,
        digest=version.digest,
        role=pb.Role.Name(serving.role),
        plan_generation=serving.generation,
        feature_names=version.feature_names,
        feature_digest=version.feature_digest if version.feature_names else b"",
        inputs=[_tensor(spec) for spec in version.inputs],
        outputs=[_tensor(spec) for spec in version.outputs],
        value_names=_value_names(version),
        limits=pb.Limits(
            max_rows=version.limits.max_rows,
            default_deadline_us=version.limits.default_deadline_us,
            max_wait_us=version.limits.max_wait_us,
            latency_budget_us=version.limits.latency_budget_us,
        ),
        has_signal=version.signal is not None,
        has_confidence=version.confidence is not None,
        requires_event_time=rule.required,
        max_age_ns=_nanoseconds(rule.max_age_s),
        max_future_ns=_nanoseconds(rule.max_future_s),
    ).SerializeToString()


def takes_predictions(version: VersionPlan) -> bool:
    """Whether Prediction serves the model: one FP32 tensor of rows in, numbers a row out."""
    shape = version.inputs[0].shape
    return (
        len(version.inputs) == 1
        and version.inputs[0].datatype == "FP32"
        and len(shape) in (2, 3)
        and shape[0] == -1
        and shape[-1] > 0
        and all(spec.datatype in _NUMBERS and spec.shape[:1] == (-1,) for spec in version.outputs)
    )


def _many(request: pb.PredictRequest, count: int) -> Array:
    """The features from the bytes of a message that holds nothing else, where they are one packed field."""
    alone = pb.PredictRequest()
    alone.CopyFrom(request)
    for name in _OTHER_FIELDS:
        alone.ClearField(name)
    alone.DiscardUnknownFields()
    data = alone.SerializeToString()
    return np.frombuffer(data, "<f4", count, offset=len(data) - 4 * count)


def _by_name(named: Any, version: VersionPlan, findings: Findings) -> list[float]:
    names = version.feature_names
    if not names:
        raise texts.NAMES_NOT_KNOWN.error(at="named", model=version.model)
    given: dict[str, float] = {}
    for item in named:
        if item.name in given:
            raise texts.FEATURE_TWICE.error(at=item.name, feature=item.name)
        if item.name not in names:
            raise texts.FEATURE_UNKNOWN.error(at=item.name, feature=item.name[:64], expected=", ".join(names))
        given[item.name] = item.value
    defaults = version.input_rules.defaults
    values = []
    for column, name in enumerate(names):
        if name in given:
            values.append(given[name])
        elif name in defaults:
            values.append(defaults[name])
            findings.add("DEFAULTED", 0, column, f"default:{name}")
        else:
            raise texts.FEATURE_MISSING.error(at=name, feature=name)
    return values


def _append(parts: list[bytes], key: bytes, figures: Array) -> None:
    raw = figures.tobytes()
    if raw:
        parts += (key, varint(len(raw)), raw)


def _one_float32(figure: float, what: str, serving: Serving, call: Call) -> bytes:
    """As `_float32`, for one figure: a tenth of the time."""
    try:
        return _FLOAT32.pack(figure)
    except OverflowError:
        raise serving.runtime.withheld(call, f"float32:{what}", "reject", at=what) from None


def _float32(figures: Array, what: str, serving: Serving, call: Call) -> Array:
    """The figures as float32; refuses finite ones that would leave as infinities."""
    if figures.dtype != np.float64:
        # Through float64, as the message would; no other datatype reaches beyond float32.
        return figures if figures.dtype == np.float32 else figures.astype(np.float64).astype(np.float32)
    with np.errstate(over="ignore"):
        narrow = figures.astype(np.float32)
    if np.isinf(narrow).any() and (np.isinf(narrow) & np.isfinite(figures)).any():
        raise serving.runtime.withheld(call, f"float32:{what}", "reject", at=what)
    return narrow


def _index(version: VersionPlan, output: str) -> int:
    return next(index for index, spec in enumerate(version.outputs) if spec.name == output)


def _tensor(spec: TensorSpec) -> pb.TensorSpec:
    return pb.TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _nanoseconds(seconds: float | None) -> int | None:
    if seconds is None:
        return None
    # More than the field holds is 584 years: no bound that anything meets.
    return round(seconds * 1e9) if seconds * 1e9 < 2.0**64 else 2**64 - 1


def _value_names(version: VersionPlan) -> list[str]:
    """Names of the columns of a row of values; empty where a row's width is not fixed."""
    if not takes_predictions(version) or any(-1 in spec.shape[1:] for spec in version.outputs):
        return []
    return [f"{spec.name}[{column}]" for spec in version.outputs for column in range(math.prod(spec.shape[1:]))]


CODEC: Codec[pb.PredictRequest, Pending] = Codec(
    parse=parse,
    model=lambda request: request.model,
    identify=identify,
    route=route,
    shape=shape,
    ask=ask,
    read=read,
    encode=encode,
)
