"""All that a client does but the waiting: which calls a request needs, and what their outcomes mean.

Blocking and asyncio clients perform the same jobs; only how a call travels and how time passes is theirs.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar, cast

import numpy as np
from google.protobuf.message import Message

from tickserve.client.answer import decode, default_prediction, to_model_info, to_prediction
from tickserve.client.failure import is_unexecuted, prediction_error
from tickserve.client.features import Features, NamedLines, NamesDifferError, check_steps, parse_features, to_rows
from tickserve.client.known import Key, KnownModels
from tickserve.client.options import Request
from tickserve.client.request import Head, encode_array, encode_lines, make_head, unix_ns
from tickserve.client.transport import CallError, check_addresses
from tickserve.errors import (
    Code,
    ConfigurationError,
    DeadlineError,
    FeaturesChangedError,
    InvalidInputError,
    TickserveError,
    UnreachableError,
)
from tickserve.prediction import FloatArray, ModelInfo, Prediction
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import health_pb2

if TYPE_CHECKING:
    from tickserve.client.native_codec import NativeCodec

PREDICT = "/tickserve.v1.Prediction/Predict"
PREDICT_STREAM = "/tickserve.v1.Prediction/PredictStream"
GET_MODEL = "/tickserve.v1.Prediction/GetModel"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

#: Options that the quick way knows.
_QUICK = frozenset(("model", "version", "request_id", "routing_key", "entities", "event_time", "timeout_s"))
_POLL_S = 0.05
# Three years, for all that is longer: locks, clocks and grpc count nanoseconds in 64 bits, and some from 1970.
_MAX_TIMEOUT_S = 1e8
_PROBE_TIMEOUT_S = 1.0

_MAX_FLOAT32 = float(np.finfo(np.float32).max)

_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class Call:
    """One unary call to make, or its like on a stream; `end` is its deadline on the monotonic clock."""

    method: str
    request: bytes
    end: float

    @property
    def left_s(self) -> float:
        """Time until the deadline, in seconds; never below zero."""
        return max(0.0, self.end - time.monotonic())


@dataclass(slots=True)
class QuickCall:
    """A call of PREDICT that needs nothing else; not frozen, which would cost more than the rest of it."""

    key: Key
    request_id: str
    data: bytes
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Time to let pass."""

    seconds: float


Step: TypeAlias = Call | Pause
#: Of a call its answer, as bytes or decoded, or how it failed; of a pause None.
Outcome: TypeAlias = bytes | Message | CallError | None
_Steps: TypeAlias = Generator[Step, Outcome, _T]


class Job(Generic[_T]):
    """Steps that someone else performs: take `step`, `advance` with its outcome, until it is None; then `result`.

    Starting and advancing raise what the whole job raises.
    """

    result: _T

    def __init__(self, steps: _Steps[_T]) -> None:
        self._steps = steps
        self.step: Step | None = None
        self.advance(None)

    def advance(self, outcome: Outcome) -> None:
        """Goes on to the next step."""
        try:
            if isinstance(outcome, CallError):
                self.step = self._steps.throw(outcome)
            else:
                self.step = self._steps.send(outcome)
        except StopIteration as stop:
            self.step, self.result = None, stop.value


class Core:
    """The defaults of one client, and what it knows of the models; makes its jobs. Any thread may use it."""

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        model: str | None,
        timeout_s: float,
        check_features: bool,
        codec: NativeCodec | None = None,
    ) -> None:
        self.addresses = check_addresses(address)
        self.address = ", ".join(self.addresses)
        if not _is_duration(timeout_s):
            raise ConfigurationError(f"timeout_s is {timeout_s!r}; expected seconds above 0", field="timeout_s")
        self._model = model
        self._timeout_s = _bounded(timeout_s)
        self._check_features = check_features
        self._known = KnownModels()
        self._codec = codec

    def with_defaults(self, model: str | None, timeout_s: float | None) -> Self:
        """The same, knowledge included, with other defaults where they are given."""
        other = copy.copy(self)
        other._model = model or self._model
        if timeout_s is not None:
            other._timeout_s = _checked(timeout_s)
        return other

    def goes_elsewhere(self, outcome: Outcome) -> bool:
        """Whether what a stream could not do is for another server: there is one, and nothing was executed."""
        return (
            len(self.addresses) > 1
            and isinstance(outcome, CallError)
            and outcome.code is Code.UNAVAILABLE
            and is_unexecuted(outcome)
        )

    def predict(self, request: Request) -> Job[Prediction]:
        """Answers one request; the job is never without a step that calls PREDICT."""
        return Job(self._predict(request))

    def quick(self, features: Features, options: Mapping[str, Any]) -> QuickCall | None:
        """The one call that a request needs, where nothing has to be asked first and nothing is wrong; else None.

        The same request as `predict` makes of it, by a shorter way.
        """
        # Subclasses, such as masked arrays, go the long way.
        if self._codec is None or type(features) is not np.ndarray or not options.keys() <= _QUICK:
            return None
        key = (options.get("model") or self._model or "", options.get("version") or "")
        timeout_s = options.get("timeout_s", self._timeout_s)
        info = self._known.first(key) if self._check_features else None
        if not key[0] or (info is None and self._check_features) or not _is_duration(timeout_s):
            return None
        entities = options.get("entities")
        try:
            event_time_unix_ns = unix_ns(options.get("event_time"))
            listed = [entities] if isinstance(entities, str) else list(entities or ())
        except (InvalidInputError, TypeError):
            return None
        request_id = options.get("request_id") or os.urandom(16).hex()
        data = self._codec.encode(
            key, info, features, request_id, options.get("routing_key"), listed, event_time_unix_ns
        )
        return None if data is None else QuickCall(key, request_id, data, _bounded(timeout_s))

    def answered(self, call: QuickCall, answer: bytes) -> Prediction:
        """What the answer to a quick call says. Raises InternalError where that is nothing."""
        info = self._known.latest(call.key)
        prediction = None if self._codec is None else self._codec.decode(answer, info)
        if prediction is None:
            try:
                prediction = to_prediction(decode(pb.PredictResponse, answer), info)
            except TickserveError as error:
                error.request_id = call.request_id
                raise
        self._known.compare(call.key, prediction)
        return prediction

    def refused(self, call: QuickCall, failed: CallError) -> TickserveError:
        """What a quick call that failed raises."""
        error = prediction_error(failed, address=self.address)
        if isinstance(error, FeaturesChangedError):
            _say_how_to_follow(error)
        error.request_id = call.request_id
        return error

    def get_model(self, model: str | None, version: str | None, timeout_s: float | None) -> Job[ModelInfo]:
        """Describes a model."""
        return Job(self._describe(self._name(model), version or "", self._end(timeout_s)))

    def wait_ready(self, timeout_s: float) -> Job[None]:
        """Ends once the server is ready."""
        return Job(self._wait_ready(timeout_s))

    def _predict(self, request: Request) -> _Steps[Prediction]:
        head = make_head(
            self._name(request.model),
            request.version,
            request.request_id,
            request.routing_key,
            request.entities,
            request.event_time,
        )
        end = self._end(request.timeout_s)
        try:
            given = parse_features(request.features)
            check_steps(request.steps)
            default = _default(request, given)
        except TickserveError as error:
            error.request_id = head.request_id
            raise
        try:
            if isinstance(given, NamedLines):
                return (yield from self._predict_lines(head, given, request.steps, end))
            return (yield from self._predict_array(head, given, request.steps, end))
        except TickserveError as error:
            error.request_id = head.request_id
            if default is None:
                raise
            return default_prediction(head.model, head.request_id, default, error)

    def _predict_array(self, head: Head, values: FloatArray, steps: int | None, end: float) -> _Steps[Prediction]:
        key = (head.model, head.version)
        info = None
        if self._check_features:
            info = self._known.first(key) or (yield from self._describe(*key, end))
        try:
            return (yield from self._send(head, encode_array(head, values, info, steps), end))
        except FeaturesChangedError as error:
            _say_how_to_follow(error)
            raise

    def _predict_lines(self, head: Head, lines: NamedLines, steps: int | None, end: float) -> _Steps[Prediction]:
        key = (head.model, head.version)
        info = self._known.latest(key) or (yield from self._describe(*key, end))
        try:
            return (yield from self._send(head, encode_lines(head, lines, info, steps), end))
        except (NamesDifferError, FeaturesChangedError) as error:
            if error.executed:
                raise
            # Perhaps only this client's description is old.
            info = yield from self._describe(*key, end)
        return (yield from self._send(head, encode_lines(head, lines, info, steps), end))

    def _send(self, head: Head, data: bytes, end: float) -> _Steps[Prediction]:
        key = (head.model, head.version)
        answer = yield from self._call(PREDICT, data, pb.PredictResponse, end)
        prediction = to_prediction(answer, self._known.latest(key))
        self._known.compare(key, prediction)
        return prediction

    def _describe(self, model: str, version: str, end: float) -> _Steps[ModelInfo]:
        request = pb.GetModelRequest(model=model, version=version).SerializeToString()
        try:
            info = to_model_info((yield from self._call(GET_MODEL, request, pb.ModelInfo, end)))
        except TickserveError as error:
            # Describing runs no model, whatever became of the call.
            error.executed = False
            raise
        self._known.learn((model, version), info)
        return info

    def _wait_ready(self, timeout_s: float) -> _Steps[None]:
        request = health_pb2.HealthCheckRequest().SerializeToString()
        end = self._end(timeout_s)
        late: TickserveError = DeadlineError(f"{self.address} was not ready within {timeout_s} s")
        while (left_s := end - time.monotonic()) > 0:
            try:
                probe_end = min(end, time.monotonic() + _PROBE_TIMEOUT_S)
                answer = yield from self._call(HEALTH_CHECK, request, health_pb2.HealthCheckResponse, probe_end)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                late = DeadlineError(f"{self.address} answers, but was not ready within {timeout_s} s")
            except UnreachableError as error:
                late = error
            except DeadlineError:
                pass
            yield Pause(min(_POLL_S, left_s))
        raise late

    def _call(self, method: str, request: bytes, kind: type[_M], end: float) -> _Steps[_M]:
        call = Call(method, request, end)
        if not call.left_s:
            raise DeadlineError("the deadline passed before the request was sent")
        try:
            answer = yield call
        except CallError as failed:
            raise prediction_error(failed, address=self.address) from None
        # A stream hands over what it has decoded already.
        return decode(kind, answer) if isinstance(answer, bytes) else cast(_M, answer)

    def _name(self, model: str | None) -> str:
        name = model or self._model
        if not name:
            raise InvalidInputError("no model is named; give `model` here or to the client", field="model")
        return name

    def _end(self, timeout_s: float | None) -> float:
        return time.monotonic() + (self._timeout_s if timeout_s is None else _checked(timeout_s))


def _say_how_to_follow(error: FeaturesChangedError) -> None:
    error.message += "; this client goes by the order it saw first, so make a new one when your arrays follow"
    error.args = (error.message,)


def _default(request: Request, given: FloatArray | NamedLines) -> FloatArray | None:
    """The signal to give where there is none from a model, of shape (rows,); None where errors are to be raised.

    Raises InvalidInputError for what would be wrong at any server.
    """
    if request.default is None:
        return None
    try:
        signal = float(request.default)
    except (TypeError, ValueError):
        raise InvalidInputError(f"default is {request.default!r}; expected a number", field="default") from None
    if abs(signal) > _MAX_FLOAT32:
        raise InvalidInputError(f"default is {signal}, too large for float32 (3.4e38)", field="default")
    if isinstance(given, NamedLines):
        rows = max(1, len(given.values) // (request.steps or 1))
    else:
        rows = to_rows(given, request.steps).shape[0]
    return np.full(rows, signal, np.float32)


def _checked(timeout_s: float) -> float:
    if not _is_duration(timeout_s):
        raise InvalidInputError(f"timeout_s is {timeout_s!r}; expected seconds above 0", field="timeout_s")
    return _bounded(timeout_s)


def _bounded(timeout_s: float) -> float:
    return float(min(timeout_s, _MAX_TIMEOUT_S))


def _is_duration(seconds: float) -> bool:
    return isinstance(seconds, int | float | np.integer | np.floating) and 0 < seconds < math.inf
