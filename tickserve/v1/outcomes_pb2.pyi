from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RequestRow(_message.Message):
    __slots__ = ("request_id", "row")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    row: int
    def __init__(self, request_id: _Optional[str] = ..., row: _Optional[int] = ...) -> None: ...

class EntityTime(_message.Message):
    __slots__ = ("model", "entity", "event_time_unix_ns")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    model: str
    entity: str
    event_time_unix_ns: int
    def __init__(self, model: _Optional[str] = ..., entity: _Optional[str] = ..., event_time_unix_ns: _Optional[int] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("outcome_id", "request_row", "entity_time", "horizon", "value", "available_at_unix_ns")
    OUTCOME_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ROW_FIELD_NUMBER: _ClassVar[int]
    ENTITY_TIME_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    outcome_id: str
    request_row: RequestRow
    entity_time: EntityTime
    horizon: str
    value: float
    available_at_unix_ns: int
    def __init__(self, outcome_id: _Optional[str] = ..., request_row: _Optional[_Union[RequestRow, _Mapping]] = ..., entity_time: _Optional[_Union[EntityTime, _Mapping]] = ..., horizon: _Optional[str] = ..., value: _Optional[float] = ..., available_at_unix_ns: _Optional[int] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("accepted", "duplicate", "unknown")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    duplicate: int
    unknown: int
    def __init__(self, accepted: _Optional[int] = ..., duplicate: _Optional[int] = ..., unknown: _Optional[int] = ...) -> None: ...
