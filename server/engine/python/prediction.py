"""Prediction.Predict and GetModel: bytes to a call, outputs to bytes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from mlops.package import ColumnMapping, TensorSpec
from server.engine import texts
from server.engine.python.oip import check_feature_digest, check_length
from server.engine.python.pipeline import Codec
from server.engine.python.rules import Array, Finding
from server.engine.python.runtime import Call, row_values
from server.engine.python.serving import Installed, Serving
from server.plan import VersionPlan
from tickserve.v1 import prediction_pb2 as pb

#: What still rounds to a finite float32.
_FLOAT32_MAX = float(np.finfo(np.float32).max)
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


def route(request: pb.PredictRequest, installed: Installed, drawn_id: str) -> tuple[Serving, Pending]:
    """Finds the version that answers. Raises PredictionError."""
    request_id = identify(request, drawn_id)
    check_length("request_id", request_id)
    check_length("routing_key", request.routing_key)
    key = request.routing_key or request_id
    return installed.route(request.model, request.version, key), (request, request_id)


def read(serving: Serving, pending: Pending) -> Call:
    """Reads the features of a routed request. Raises PredictionError."""
    (request, request_id), version = pending, serving.version
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
    findings: list[Finding] = []
    if request.named:
        if request.features:
            raise texts.FEATURES_AND_NAMED.error(at="named")
        if rows != 1 or steps != 1:
            raise texts.NAMED_ROWS.error(at="named", rows=rows, steps=steps)
        values: Any = _by_name(request.named, version, findings)
    else:
        values = request.features
    array = _shaped(values, rows, steps, version)
    call = Call([array], rows, request_id, request.event_time_unix_ns, request.timeout_us)
    call.findings = findings
    return call


def encode(serving: Serving, call: Call, outputs: Sequence[Array], duration_ns: int) -> bytes:
    """One PredictResponse."""
    version = serving.version
    flat = [array.ravel().tolist() for array in outputs]
    for spec, values in zip(version.outputs, flat, strict=True):
        if spec.datatype == "FP64":
            _require_float32(values, spec.name, serving)
    response = pb.PredictResponse(
        request_id=call.request_id,
        model=version.model,
        version=version.version,
        digest=version.digest,
        role=pb.Role.Name(serving.role),
        plan_generation=serving.generation,
        values=flat[0] if len(flat) == 1 else _interleaved(flat, call.rows),
        rows=call.rows,
        position_scale=serving.position_scale,
        server_duration_ns=duration_ns,
    )
    if version.signal is not None:
        response.signal.extend(_mapped(version.signal, "signal", flat, serving, call.rows))
    if version.confidence is not None:
        response.confidence.extend(_mapped(version.confidence, "confidence", flat, serving, call.rows))
    for finding in call.findings:
        response.findings.add(
            kind=f"FINDING_KIND_{finding.kind}", row=finding.row, column=finding.column, rule=finding.rule
        )
    return response.SerializeToString()


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


def _shaped(values: Any, rows: int, steps: int, version: VersionPlan) -> Array:
    shape = version.inputs[0].shape
    if len(shape) == 2:
        if steps != 1:
            raise texts.STEPS.error(at="steps", got=steps, model=version.model, expected="1")
        wanted: tuple[int, ...] = (rows, shape[1])
    else:
        if shape[1] not in (-1, steps):
            raise texts.STEPS.error(at="steps", got=steps, model=version.model, expected=shape[1])
        wanted = (rows, steps, shape[2])
    if len(values) != math.prod(wanted):
        raise texts.FEATURE_COUNT.error(
            at="features", got=len(values), expected=math.prod(wanted), rows=rows, steps=steps, width=shape[-1]
        )
    return np.array(values, dtype=np.float32).reshape(wanted)


def _by_name(named: Any, version: VersionPlan, findings: list[Finding]) -> list[float]:
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
            findings.append(Finding("DEFAULTED", 0, column, f"default:{name}"))
        else:
            raise texts.FEATURE_MISSING.error(at=name, feature=name)
    return values


def _interleaved(flat: list[list[float]], rows: int) -> list[float]:
    """The elements of every output, row by row."""
    widths = [len(values) // rows for values in flat]
    return [
        value
        for row in range(rows)
        for values, width in zip(flat, widths, strict=True)
        for value in values[row * width : (row + 1) * width]
    ]


def _mapped(mapping: ColumnMapping, what: str, flat: list[list[float]], serving: Serving, rows: int) -> list[float]:
    values = row_values(mapping, flat[_index(serving.version, mapping.output)], rows)
    _require_float32(values, what, serving)
    return values


def _require_float32(values: list[float], what: str, serving: Serving) -> None:
    """Refuses finite figures that would leave as infinities, because the message carries float32."""
    if all(-_FLOAT32_MAX <= value <= _FLOAT32_MAX for value in values):
        return
    if any(math.isfinite(value) and abs(value) > _FLOAT32_MAX for value in values):
        rule = f"float32:{what}"
        serving.tally.count_violation(rule, "reject")
        version = serving.version
        raise texts.OUTPUT_RULE.error(at=what, rule=rule, version=version.version, model=version.model)


def _index(version: VersionPlan, output: str) -> int:
    return next(index for index, spec in enumerate(version.outputs) if spec.name == output)


def _tensor(spec: TensorSpec) -> pb.TensorSpec:
    return pb.TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)


def _value_names(version: VersionPlan) -> list[str]:
    """Names of the columns of a row of values; empty where a row's width is not fixed."""
    if not takes_predictions(version) or any(-1 in spec.shape[1:] for spec in version.outputs):
        return []
    return [f"{spec.name}[{column}]" for spec in version.outputs for column in range(math.prod(spec.shape[1:]))]


CODEC: Codec[pb.PredictRequest, Pending] = Codec(
    parse=parse, model=lambda request: request.model, identify=identify, route=route, read=read, encode=encode
)
