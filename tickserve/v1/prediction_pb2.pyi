from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_STABLE: _ClassVar[Role]
    ROLE_CANARY: _ClassVar[Role]
    ROLE_SHADOW: _ClassVar[Role]
    ROLE_PREVIOUS: _ClassVar[Role]
    ROLE_FALLBACK: _ClassVar[Role]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_OVERLOADED: _ClassVar[Reason]
    REASON_RATE_LIMITED: _ClassVar[Reason]
    REASON_DRAINING: _ClassVar[Reason]
    REASON_LOADING: _ClassVar[Reason]
    REASON_HALTED: _ClassVar[Reason]
    REASON_STALE_INPUT: _ClassVar[Reason]
    REASON_OUTPUT_RULE: _ClassVar[Reason]
    REASON_FEATURES_CHANGED: _ClassVar[Reason]
    REASON_PIN_REFUSED: _ClassVar[Reason]
    REASON_INVALID_INPUT: _ClassVar[Reason]
    REASON_NOT_FOUND: _ClassVar[Reason]
    REASON_DEADLINE: _ClassVar[Reason]
    REASON_INTERNAL: _ClassVar[Reason]

class FindingKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINDING_KIND_UNSPECIFIED: _ClassVar[FindingKind]
    FINDING_KIND_CLIPPED: _ClassVar[FindingKind]
    FINDING_KIND_FLAGGED: _ClassVar[FindingKind]
    FINDING_KIND_FALLBACK: _ClassVar[FindingKind]
    FINDING_KIND_STALE: _ClassVar[FindingKind]
    FINDING_KIND_DEFAULTED: _ClassVar[FindingKind]
ROLE_UNSPECIFIED: Role
ROLE_STABLE: Role
ROLE_CANARY: Role
ROLE_SHADOW: Role
ROLE_PREVIOUS: Role
ROLE_FALLBACK: Role
REASON_UNSPECIFIED: Reason
REASON_OVERLOADED: Reason
REASON_RATE_LIMITED: Reason
REASON_DRAINING: Reason
REASON_LOADING: Reason
REASON_HALTED: Reason
REASON_STALE_INPUT: Reason
REASON_OUTPUT_RULE: Reason
REASON_FEATURES_CHANGED: Reason
REASON_PIN_REFUSED: Reason
REASON_INVALID_INPUT: Reason
REASON_NOT_FOUND: Reason
REASON_DEADLINE: Reason
REASON_INTERNAL: Reason
FINDING_KIND_UNSPECIFIED: FindingKind
FINDING_KIND_CLIPPED: FindingKind
FINDING_KIND_FLAGGED: FindingKind
FINDING_KIND_FALLBACK: FindingKind
FINDING_KIND_STALE: FindingKind
FINDING_KIND_DEFAULTED: FindingKind

class NamedValue(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("model", "version", "request_id", "routing_key", "features", "feature_digest", "named", "rows", "steps", "entities", "event_time_unix_ns", "timeout_us")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NAMED_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    request_id: str
    routing_key: str
    features: _containers.RepeatedScalarFieldContainer[float]
    feature_digest: bytes
    named: _containers.RepeatedCompositeFieldContainer[NamedValue]
    rows: int
    steps: int
    entities: _containers.RepeatedScalarFieldContainer[str]
    event_time_unix_ns: int
    timeout_us: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., request_id: _Optional[str] = ..., routing_key: _Optional[str] = ..., features: _Optional[_Iterable[float]] = ..., feature_digest: _Optional[bytes] = ..., named: _Optional[_Iterable[_Union[NamedValue, _Mapping]]] = ..., rows: _Optional[int] = ..., steps: _Optional[int] = ..., entities: _Optional[_Iterable[str]] = ..., event_time_unix_ns: _Optional[int] = ..., timeout_us: _Optional[int] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("kind", "row", "column", "rule")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    kind: FindingKind
    row: int
    column: int
    rule: str
    def __init__(self, kind: _Optional[_Union[FindingKind, str]] = ..., row: _Optional[int] = ..., column: _Optional[int] = ..., rule: _Optional[str] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("request_id", "model", "version", "digest", "role", "plan_generation", "values", "rows", "signal", "confidence", "position_scale", "findings", "server_duration_ns", "findings_left_out")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PLAN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    POSITION_SCALE_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    SERVER_DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    version: str
    digest: bytes
    role: Role
    plan_generation: int
    values: _containers.RepeatedScalarFieldContainer[float]
    rows: int
    signal: _containers.RepeatedScalarFieldContainer[float]
    confidence: _containers.RepeatedScalarFieldContainer[float]
    position_scale: float
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    server_duration_ns: int
    findings_left_out: int
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[bytes] = ..., role: _Optional[_Union[Role, str]] = ..., plan_generation: _Optional[int] = ..., values: _Optional[_Iterable[float]] = ..., rows: _Optional[int] = ..., signal: _Optional[_Iterable[float]] = ..., confidence: _Optional[_Iterable[float]] = ..., position_scale: _Optional[float] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., server_duration_ns: _Optional[int] = ..., findings_left_out: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "reason", "message", "field", "request_id", "executed")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: Reason
    message: str
    field: str
    request_id: str
    executed: bool
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[_Union[Reason, str]] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., request_id: _Optional[str] = ..., executed: bool = ...) -> None: ...

class PredictStreamRequest(_message.Message):
    __slots__ = ("sequence", "predict")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    predict: PredictRequest
    def __init__(self, sequence: _Optional[int] = ..., predict: _Optional[_Union[PredictRequest, _Mapping]] = ...) -> None: ...

class PredictStreamResponse(_message.Message):
    __slots__ = ("sequence", "answer", "error")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    answer: PredictResponse
    error: Error
    def __init__(self, sequence: _Optional[int] = ..., answer: _Optional[_Union[PredictResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "datatype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_rows", "default_deadline_us", "max_wait_us", "latency_budget_us")
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_DEADLINE_US_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_US_FIELD_NUMBER: _ClassVar[int]
    LATENCY_BUDGET_US_FIELD_NUMBER: _ClassVar[int]
    max_rows: int
    default_deadline_us: int
    max_wait_us: int
    latency_budget_us: int
    def __init__(self, max_rows: _Optional[int] = ..., default_deadline_us: _Optional[int] = ..., max_wait_us: _Optional[int] = ..., latency_budget_us: _Optional[int] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("model", "version", "digest", "role", "plan_generation", "feature_names", "feature_digest", "inputs", "outputs", "value_names", "limits", "has_signal", "has_confidence", "requires_event_time", "max_age_ns", "max_future_ns")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PLAN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    VALUE_NAMES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    HAS_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    HAS_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_NS_FIELD_NUMBER: _ClassVar[int]
    MAX_FUTURE_NS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    digest: bytes
    role: Role
    plan_generation: int
    feature_names: _containers.RepeatedScalarFieldContainer[str]
    feature_digest: bytes
    inputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    value_names: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    has_signal: bool
    has_confidence: bool
    requires_event_time: bool
    max_age_ns: int
    max_future_ns: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[bytes] = ..., role: _Optional[_Union[Role, str]] = ..., plan_generation: _Optional[int] = ..., feature_names: _Optional[_Iterable[str]] = ..., feature_digest: _Optional[bytes] = ..., inputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., value_names: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., has_signal: bool = ..., has_confidence: bool = ..., requires_event_time: bool = ..., max_age_ns: _Optional[int] = ..., max_future_ns: _Optional[int] = ...) -> None: ...
