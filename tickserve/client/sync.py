"""The blocking client of the Prediction service."""

import math
import time
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from tickserve.client.answer import decode, decode_model_info, decode_prediction
from tickserve.client.failure import prediction_error
from tickserve.client.features import Features, NamedLines, NamesDifferError, parse_features
from tickserve.client.known import KnownModels
from tickserve.client.request import Head, encode_array, encode_lines, make_head
from tickserve.client.transport import CallError, Connect, GrpcTransport, Tls, check_address
from tickserve.errors import (
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

PREDICT = "/tickserve.v1.Prediction/Predict"
GET_MODEL = "/tickserve.v1.Prediction/GetModel"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

_POLL_S = 0.05
_PROBE_TIMEOUT_S = 1.0


class Client:
    """Asks one server for predictions; one client serves any number of threads.

    Parameters
    ----------
    address : str
        The server's data listener: `host:port`, or `unix:/path`. Connected to at the first call.
    model : str, optional
        Model for the calls that name none.
    timeout_s : float
        Deadline of the calls that bring none, in seconds; it covers all that a call needs.
    tls : Tls, optional
        Absent means plain text.
    check_features : bool
        Sends the digest of the feature names with values by position, too. This costs one GetModel a model and
        client. The order is the one that this client saw first, for its whole life: when a swap brings another one,
        arrays are refused with FeaturesChangedError until they follow it and a new client is made.
    connect : callable
        Makes the transport.

    Examples
    --------
    >>> with tickserve.Client("127.0.0.1:8500", model="sp500-logistic") as client:  # doctest: +SKIP
    ...     client.predict({"return_1d": 0.002, "rsi_14": 55.0}).signal
    """

    def __init__(
        self,
        address: str,
        *,
        model: str | None = None,
        timeout_s: float = 1.0,
        tls: Tls | None = None,
        check_features: bool = True,
        connect: Connect = GrpcTransport,
    ) -> None:
        self._address = check_address(address)
        if not _is_duration(timeout_s):
            raise ConfigurationError(f"timeout_s is {timeout_s!r}; expected seconds above 0", field="timeout_s")
        self._model = model
        self._timeout_s = timeout_s
        self._check_features = check_features
        self._known = KnownModels()
        self._transport = connect(self._address, tls)

    def predict(
        self,
        features: Features,
        *,
        model: str | None = None,
        version: str | None = None,
        request_id: str | None = None,
        routing_key: str | None = None,
        entities: str | Sequence[str] | None = None,
        event_time: datetime | int | None = None,
        timeout_s: float | None = None,
        steps: int | None = None,
    ) -> Prediction:
        """The model's answer for one or more rows.

        Parameters
        ----------
        features : array, dict, list of dicts, or DataFrame
            By position: (features,) for one row, (rows, features), or (rows, steps, features), of any real datatype;
            float32 in C order is not copied. By name: one dict for one row, a list of them, or a table with one line a
            row; the order does not matter, and a model that changes its order is followed.
        model : str, optional
            Instead of the client's own.
        version : str, optional
            Pins one version, where the server allows it.
        request_id : str, optional
            At most 64 bytes; drawn where absent. Answers and errors carry it.
        routing_key : str, optional
            At most 64 bytes; equal keys get equal versions. Absent means the request id.
        entities : str or sequence of str, optional
            What each row is about, such as the symbol.
        event_time : datetime or int, optional
            When the features were true: with a time zone, or nanoseconds since 1970 UTC.
        timeout_s : float, optional
            Instead of the client's own, in seconds.
        steps : int, optional
            For sequence models fed with two dimensions or by name: how many following lines are one row.

        Raises
        ------
        InvalidInputError
            For what cannot be sent, or the server refuses; `field` names the place.
        PredictionError
            For every other refusal, by its reason: HaltedError, OverloadedError, StaleInputError and so on.
        UnreachableError, DeadlineError, StatusError
            Where no answer came. `executed` is False only where the model certainly did not run.
        """
        head = make_head(self._name(model), version, request_id, routing_key, entities, event_time)
        end = self._end(timeout_s)
        try:
            given = parse_features(features)
            if isinstance(given, NamedLines):
                return self._predict_lines(head, given, steps, end)
            return self._predict_array(head, given, steps, end)
        except TickserveError as error:
            error.request_id = head.request_id
            raise

    def get_model(
        self, model: str | None = None, version: str | None = None, *, timeout_s: float | None = None
    ) -> ModelInfo:
        """Describes a model: names and order of its features, outputs and limits; of one version, or the stable one.

        Asks the server each time. Raises NotFoundError, LoadingError, and what `predict` raises where no answer came.
        """
        return self._describe(self._name(model), version or "", self._end(timeout_s))

    def wait_ready(self, timeout_s: float) -> None:
        """Returns once the server is ready for requests.

        Raises UnreachableError or DeadlineError where it is not within `timeout_s`, StatusError where it offers no
        health service.
        """
        request = health_pb2.HealthCheckRequest().SerializeToString()
        end = self._end(timeout_s)
        late: TickserveError = DeadlineError(f"{self._address} was not ready within {timeout_s} s")
        while (left_s := end - time.monotonic()) > 0:
            try:
                answer = self._call(HEALTH_CHECK, request, min(end, time.monotonic() + _PROBE_TIMEOUT_S))
                status = decode(health_pb2.HealthCheckResponse, answer).status
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
                late = DeadlineError(f"{self._address} answers, but was not ready within {timeout_s} s")
            except UnreachableError as error:
                late = error
            except DeadlineError:
                pass
            time.sleep(min(_POLL_S, left_s))
        raise late

    def close(self) -> None:
        """Ends the connection; calls under way fail."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _predict_array(self, head: Head, values: FloatArray, steps: int | None, end: float) -> Prediction:
        key = (head.model, head.version)
        info = None
        if self._check_features:
            info = self._known.first(key) or self._describe(*key, end)
        try:
            return self._send(head, encode_array(head, values, info, steps), end)
        except FeaturesChangedError as error:
            error.message += "; this client goes by the order it saw first, so make a new one when your arrays follow"
            error.args = (error.message,)
            raise

    def _predict_lines(self, head: Head, lines: NamedLines, steps: int | None, end: float) -> Prediction:
        key = (head.model, head.version)
        info = self._known.latest(key) or self._describe(*key, end)
        try:
            return self._send(head, encode_lines(head, lines, info, steps), end)
        except (NamesDifferError, FeaturesChangedError) as error:
            if error.executed:
                raise
            # Perhaps only this client's description is old.
            info = self._describe(*key, end)
        return self._send(head, encode_lines(head, lines, info, steps), end)

    def _send(self, head: Head, data: bytes, end: float) -> Prediction:
        key = (head.model, head.version)
        answer = self._call(PREDICT, data, end)
        prediction = decode_prediction(answer, self._known.latest(key))
        self._known.compare(key, prediction)
        return prediction

    def _describe(self, model: str, version: str, end: float) -> ModelInfo:
        request = pb.GetModelRequest(model=model, version=version)
        try:
            info = decode_model_info(self._call(GET_MODEL, request.SerializeToString(), end))
        except TickserveError as error:
            # Describing runs no model, whatever became of the call.
            error.executed = False
            raise
        self._known.learn((model, version), info)
        return info

    def _call(self, method: str, request: bytes, end: float) -> bytes:
        left_s = end - time.monotonic()
        if left_s <= 0:
            raise DeadlineError("the deadline passed before the request was sent")
        try:
            return self._transport.call(method, request, left_s)
        except CallError as failed:
            raise prediction_error(failed, address=self._address) from None

    def _name(self, model: str | None) -> str:
        name = model or self._model
        if not name:
            raise InvalidInputError("no model is named; give `model` here or to the client", field="model")
        return name

    def _end(self, timeout_s: float | None) -> float:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        if not _is_duration(timeout_s):
            raise InvalidInputError(f"timeout_s is {timeout_s!r}; expected seconds above 0", field="timeout_s")
        return time.monotonic() + timeout_s


def _is_duration(seconds: float) -> bool:
    return isinstance(seconds, int | float) and 0 < seconds < math.inf
