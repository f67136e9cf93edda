"""From the bytes of an answer to typed values."""

from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from tickserve.errors import InternalError, TickserveError
from tickserve.prediction import Finding, FindingKind, FloatArray, Limits, ModelInfo, Prediction, Role, TensorSpec
from tickserve.v1 import prediction_pb2 as pb

ROLES = {number: Role(name.removeprefix("ROLE_").lower()) for name, number in pb.Role.items()}
FINDING_KINDS = {
    number: FindingKind(name.removeprefix("FINDING_KIND_").lower()) for name, number in pb.FindingKind.items()
}


_M = TypeVar("_M", bound=Message)


def decode(kind: type[_M], data: bytes) -> _M:
    """The message in `data`. Raises InternalError where it does not decode."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InternalError(
            f"the server's answer is no {kind.__name__}: its bytes do not decode", executed=True
        ) from None


def to_prediction(answer: pb.PredictResponse, info: ModelInfo | None) -> Prediction:
    """Columns get their names where `info` describes the very package that answered.

    Raises InternalError where the answer contradicts itself.
    """
    rows, digest = answer.rows, answer.digest.hex()
    if (
        rows == 0
        or len(answer.values) % rows
        or len(answer.signal) not in (0, rows)
        or len(answer.confidence) not in (0, rows)
    ):
        raise InternalError(
            f"the server's answer contradicts itself: {rows} rows, but {len(answer.values)} values, "
            f"{len(answer.signal)} signals and {len(answer.confidence)} confidences",
            request_id=answer.request_id,
            executed=True,
        )
    values = np.array(answer.values[:], dtype=np.float32).reshape(rows, -1)
    names = info.value_names if info is not None and info.digest == digest else ()
    return Prediction(
        values=values,
        rows=rows,
        signal=_optional(answer.signal[:]),
        confidence=_optional(answer.confidence[:]),
        model=answer.model,
        version=answer.version,
        digest=digest,
        role=ROLES.get(answer.role, Role.UNSPECIFIED),
        plan_generation=answer.plan_generation,
        position_scale=answer.position_scale,
        findings=tuple(
            Finding(FINDING_KINDS.get(found.kind, FindingKind.UNSPECIFIED), found.row, found.column, found.rule)
            for found in answer.findings
        ),
        request_id=answer.request_id,
        server_duration_ns=answer.server_duration_ns,
        value_names=names if len(names) == values.shape[1] else (),
        findings_left_out=answer.findings_left_out,
    )


def default_prediction(model: str, request_id: str, signal: FloatArray, because: TickserveError) -> Prediction:
    """What stands for an answer where there is none, `signal` being the caller's own, of shape (rows,)."""
    return Prediction(
        values=np.empty((len(signal), 0), dtype=np.float32),
        rows=len(signal),
        signal=signal,
        confidence=None,
        model=model,
        version="",
        digest="",
        role=Role.UNSPECIFIED,
        plan_generation=0,
        position_scale=0.0,
        findings=(),
        request_id=request_id,
        server_duration_ns=0,
        default_because=because,
    )


def to_model_info(info: pb.ModelInfo) -> ModelInfo:
    """The same as a frozen value."""
    return ModelInfo(
        model=info.model,
        version=info.version,
        digest=info.digest.hex(),
        role=ROLES.get(info.role, Role.UNSPECIFIED),
        plan_generation=info.plan_generation,
        feature_names=tuple(info.feature_names),
        feature_digest=info.feature_digest.hex(),
        inputs=tuple(_tensor(tensor) for tensor in info.inputs),
        outputs=tuple(_tensor(tensor) for tensor in info.outputs),
        value_names=tuple(info.value_names),
        limits=Limits(
            max_rows=info.limits.max_rows,
            default_deadline_us=info.limits.default_deadline_us,
            max_wait_us=info.limits.max_wait_us,
            latency_budget_us=info.limits.latency_budget_us,
        ),
        has_signal=info.has_signal,
        has_confidence=info.has_confidence,
        requires_event_time=info.requires_event_time,
        max_age_ns=info.max_age_ns if info.HasField("max_age_ns") else None,
        max_future_ns=info.max_future_ns if info.HasField("max_future_ns") else None,
    )


def _optional(values: list[float]) -> FloatArray | None:
    return np.array(values, dtype=np.float32) if values else None


def _tensor(tensor: pb.TensorSpec) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape))
