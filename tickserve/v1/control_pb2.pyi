from tickserve.v1 import prediction_pb2 as _prediction_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ServerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVER_STATE_UNSPECIFIED: _ClassVar[ServerState]
    SERVER_STATE_STARTING: _ClassVar[ServerState]
    SERVER_STATE_SERVING: _ClassVar[ServerState]
    SERVER_STATE_DRAINING: _ClassVar[ServerState]

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_SERVING: _ClassVar[ModelState]
    MODEL_STATE_HALTED: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]
SERVER_STATE_UNSPECIFIED: ServerState
SERVER_STATE_STARTING: ServerState
SERVER_STATE_SERVING: ServerState
SERVER_STATE_DRAINING: ServerState
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_SERVING: ModelState
MODEL_STATE_HALTED: ModelState
MODEL_STATE_FAILED: ModelState

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HaltInfo(_message.Message):
    __slots__ = ("reason", "actor", "since_unix_ns")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    actor: str
    since_unix_ns: int
    def __init__(self, reason: _Optional[str] = ..., actor: _Optional[str] = ..., since_unix_ns: _Optional[int] = ...) -> None: ...

class VersionStatus(_message.Message):
    __slots__ = ("version", "digest", "role", "weight_bp", "since_unix_ns", "resident_bytes", "run_time_ns", "golden_max_error")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BP_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RUN_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_MAX_ERROR_FIELD_NUMBER: _ClassVar[int]
    version: str
    digest: bytes
    role: _prediction_pb2.Role
    weight_bp: int
    since_unix_ns: int
    resident_bytes: int
    run_time_ns: int
    golden_max_error: float
    def __init__(self, version: _Optional[str] = ..., digest: _Optional[bytes] = ..., role: _Optional[_Union[_prediction_pb2.Role, str]] = ..., weight_bp: _Optional[int] = ..., since_unix_ns: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., run_time_ns: _Optional[int] = ..., golden_max_error: _Optional[float] = ...) -> None: ...

class FailedChange(_message.Message):
    __slots__ = ("version", "digest", "code", "message", "at_unix_ns", "attempts")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    digest: bytes
    code: int
    message: str
    at_unix_ns: int
    attempts: int
    def __init__(self, version: _Optional[str] = ..., digest: _Optional[bytes] = ..., code: _Optional[int] = ..., message: _Optional[str] = ..., at_unix_ns: _Optional[int] = ..., attempts: _Optional[int] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("name", "state", "halt", "versions", "desired", "failed", "is_following", "previous", "loading", "overrides")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    HALT_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    IS_FOLLOWING_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    LOADING_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: ModelState
    halt: HaltInfo
    versions: _containers.RepeatedCompositeFieldContainer[VersionStatus]
    desired: DesiredState
    failed: _containers.RepeatedCompositeFieldContainer[FailedChange]
    is_following: bool
    previous: str
    loading: _containers.RepeatedScalarFieldContainer[str]
    overrides: _containers.RepeatedCompositeFieldContainer[Override]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., halt: _Optional[_Union[HaltInfo, _Mapping]] = ..., versions: _Optional[_Iterable[_Union[VersionStatus, _Mapping]]] = ..., desired: _Optional[_Union[DesiredState, _Mapping]] = ..., failed: _Optional[_Iterable[_Union[FailedChange, _Mapping]]] = ..., is_following: bool = ..., previous: _Optional[str] = ..., loading: _Optional[_Iterable[str]] = ..., overrides: _Optional[_Iterable[_Union[Override, _Mapping]]] = ...) -> None: ...

class Override(_message.Message):
    __slots__ = ("kind", "version", "actor", "reason", "since_unix_ns")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    version: str
    actor: str
    reason: str
    since_unix_ns: int
    def __init__(self, kind: _Optional[str] = ..., version: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., since_unix_ns: _Optional[int] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("server_version", "engine", "state", "started_at_unix_ns", "plan_generation", "models", "source", "source_age_ns", "source_error", "server_id", "listen", "http", "server_name", "source_revision", "memory_bytes", "memory_budget_bytes")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    PLAN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_AGE_NS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ERROR_FIELD_NUMBER: _ClassVar[int]
    SERVER_ID_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    SERVER_NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_REVISION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    engine: str
    state: ServerState
    started_at_unix_ns: int
    plan_generation: int
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    source: str
    source_age_ns: int
    source_error: str
    server_id: str
    listen: _containers.RepeatedScalarFieldContainer[str]
    http: str
    server_name: str
    source_revision: int
    memory_bytes: int
    memory_budget_bytes: int
    def __init__(self, server_version: _Optional[str] = ..., engine: _Optional[str] = ..., state: _Optional[_Union[ServerState, str]] = ..., started_at_unix_ns: _Optional[int] = ..., plan_generation: _Optional[int] = ..., models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ..., source: _Optional[str] = ..., source_age_ns: _Optional[int] = ..., source_error: _Optional[str] = ..., server_id: _Optional[str] = ..., listen: _Optional[_Iterable[str]] = ..., http: _Optional[str] = ..., server_name: _Optional[str] = ..., source_revision: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., memory_budget_bytes: _Optional[int] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("version", "role", "weight_bp")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BP_FIELD_NUMBER: _ClassVar[int]
    version: str
    role: _prediction_pb2.Role
    weight_bp: int
    def __init__(self, version: _Optional[str] = ..., role: _Optional[_Union[_prediction_pb2.Role, str]] = ..., weight_bp: _Optional[int] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("version", "fraction_bp", "salt", "of")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FRACTION_BP_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    version: str
    fraction_bp: int
    salt: str
    of: str
    def __init__(self, version: _Optional[str] = ..., fraction_bp: _Optional[int] = ..., salt: _Optional[str] = ..., of: _Optional[str] = ...) -> None: ...

class AllowedPin(_message.Message):
    __slots__ = ("version", "clients")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    clients: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., clients: _Optional[_Iterable[str]] = ...) -> None: ...

class RuleOverride(_message.Message):
    __slots__ = ("rule", "policy", "minimum", "maximum")
    RULE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    rule: str
    policy: str
    minimum: float
    maximum: float
    def __init__(self, rule: _Optional[str] = ..., policy: _Optional[str] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ...) -> None: ...

class DesiredState(_message.Message):
    __slots__ = ("model", "revision", "split", "salt", "shadow", "fallback_version", "position_scale", "halt", "allowed_pins", "rule_overrides", "actor", "reason", "at_unix_ns", "schema_override", "latency_edge_ns")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_VERSION_FIELD_NUMBER: _ClassVar[int]
    POSITION_SCALE_FIELD_NUMBER: _ClassVar[int]
    HALT_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_PINS_FIELD_NUMBER: _ClassVar[int]
    RULE_OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_EDGE_NS_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: int
    split: _containers.RepeatedCompositeFieldContainer[Share]
    salt: str
    shadow: Shadow
    fallback_version: str
    position_scale: float
    halt: HaltInfo
    allowed_pins: _containers.RepeatedCompositeFieldContainer[AllowedPin]
    rule_overrides: _containers.RepeatedCompositeFieldContainer[RuleOverride]
    actor: str
    reason: str
    at_unix_ns: int
    schema_override: str
    latency_edge_ns: int
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[int] = ..., split: _Optional[_Iterable[_Union[Share, _Mapping]]] = ..., salt: _Optional[str] = ..., shadow: _Optional[_Union[Shadow, _Mapping]] = ..., fallback_version: _Optional[str] = ..., position_scale: _Optional[float] = ..., halt: _Optional[_Union[HaltInfo, _Mapping]] = ..., allowed_pins: _Optional[_Iterable[_Union[AllowedPin, _Mapping]]] = ..., rule_overrides: _Optional[_Iterable[_Union[RuleOverride, _Mapping]]] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., at_unix_ns: _Optional[int] = ..., schema_override: _Optional[str] = ..., latency_edge_ns: _Optional[int] = ...) -> None: ...

class SetDesiredRequest(_message.Message):
    __slots__ = ("desired", "expected_revision", "actor", "reason", "schema_override")
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    desired: DesiredState
    expected_revision: int
    actor: str
    reason: str
    schema_override: str
    def __init__(self, desired: _Optional[_Union[DesiredState, _Mapping]] = ..., expected_revision: _Optional[int] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., schema_override: _Optional[str] = ...) -> None: ...

class SetDesiredResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("model", "actor", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    actor: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RollbackResponse(_message.Message):
    __slots__ = ("version", "plan_generation", "not_desired")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PLAN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    NOT_DESIRED_FIELD_NUMBER: _ClassVar[int]
    version: str
    plan_generation: int
    not_desired: str
    def __init__(self, version: _Optional[str] = ..., plan_generation: _Optional[int] = ..., not_desired: _Optional[str] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("model", "is_following", "actor", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IS_FOLLOWING_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    is_following: bool
    actor: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., is_following: bool = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class FollowResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, models: _Optional[_Iterable[str]] = ...) -> None: ...

class HaltRequest(_message.Message):
    __slots__ = ("model", "actor", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    actor: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class HaltResponse(_message.Message):
    __slots__ = ("models", "plan_generation")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    PLAN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedScalarFieldContainer[str]
    plan_generation: int
    def __init__(self, models: _Optional[_Iterable[str]] = ..., plan_generation: _Optional[int] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("model", "actor", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    actor: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ("models", "plan_generation")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    PLAN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedScalarFieldContainer[str]
    plan_generation: int
    def __init__(self, models: _Optional[_Iterable[str]] = ..., plan_generation: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("actor", "reason")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    actor: str
    reason: str
    def __init__(self, actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("after_sequence", "until_now")
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NOW_FIELD_NUMBER: _ClassVar[int]
    after_sequence: int
    until_now: bool
    def __init__(self, after_sequence: _Optional[int] = ..., until_now: bool = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("sequence", "at_unix_ns", "kind", "model", "version", "actor", "message")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    at_unix_ns: int
    kind: str
    model: str
    version: str
    actor: str
    message: str
    def __init__(self, sequence: _Optional[int] = ..., at_unix_ns: _Optional[int] = ..., kind: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., actor: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class CountersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StageHistogram(_message.Message):
    __slots__ = ("model", "version", "role", "stage", "counts", "sum_ns")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SUM_NS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    role: _prediction_pb2.Role
    stage: str
    counts: _containers.RepeatedScalarFieldContainer[int]
    sum_ns: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., role: _Optional[_Union[_prediction_pb2.Role, str]] = ..., stage: _Optional[str] = ..., counts: _Optional[_Iterable[int]] = ..., sum_ns: _Optional[int] = ...) -> None: ...

class Counter(_message.Message):
    __slots__ = ("name", "model", "version", "role", "label", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    version: str
    role: _prediction_pb2.Role
    label: str
    value: int
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., role: _Optional[_Union[_prediction_pb2.Role, str]] = ..., label: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...

class CountersResponse(_message.Message):
    __slots__ = ("histograms", "counters")
    HISTOGRAMS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    histograms: _containers.RepeatedCompositeFieldContainer[StageHistogram]
    counters: _containers.RepeatedCompositeFieldContainer[Counter]
    def __init__(self, histograms: _Optional[_Iterable[_Union[StageHistogram, _Mapping]]] = ..., counters: _Optional[_Iterable[_Union[Counter, _Mapping]]] = ...) -> None: ...
