"""The blocking client of the Prediction service."""

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar, Unpack

from tickserve.client.choice import TransportName, codec
from tickserve.client.choice import connect as connect_by_name
from tickserve.client.core import PREDICT, Core, Job, Outcome, Pause, Step
from tickserve.client.exchange import DEFAULT_WINDOW
from tickserve.client.failover import make_hedge
from tickserve.client.failover_sync import FailoverTransport
from tickserve.client.features import Features
from tickserve.client.options import Request, RequestOptions
from tickserve.client.stream import Stream
from tickserve.client.transport import CallError, Connect, Tls
from tickserve.errors import TickserveError
from tickserve.prediction import ModelInfo, Prediction

_T = TypeVar("_T")


class Client:
    """Asks a server, or one of several, for predictions; one client serves any number of threads.

    Parameters
    ----------
    address : str or sequence of str
        The server's data listener: `host:port`, or `unix:/path`. Connected to at the first call. Of several servers,
        all of which serve the same models, the first one that is healthy is asked; another one only where a request
        certainly was not executed.
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
    hedge_after_s : float, optional
        With several servers: asks a second one where the first has not answered after this time, and takes the first
        answer. Both may execute the request, so `may_execute_twice=True` must be given, too.
    transport : {"auto", "grpcio", "native"}
        What carries the calls. `auto` is the native one where tickserve-native is installed, else grpcio.
    connect : callable, optional
        Makes the transport to one server instead.

    Examples
    --------
    >>> with tickserve.Client("127.0.0.1:8500", model="sp500-logistic") as client:  # doctest: +SKIP
    ...     client.predict({"return_1d": 0.002, "rsi_14d": 55.0}).signal
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        model: str | None = None,
        timeout_s: float = 1.0,
        tls: Tls | None = None,
        check_features: bool = True,
        hedge_after_s: float | None = None,
        may_execute_twice: bool = False,
        transport: TransportName = "auto",
        connect: Connect | None = None,
    ) -> None:
        self._core = Core(
            address,
            model=model,
            timeout_s=timeout_s,
            check_features=check_features,
            codec=codec(transport) if connect is None else None,
        )
        addresses = self._core.addresses
        hedge = make_hedge(hedge_after_s, may_execute_twice=may_execute_twice, servers=len(addresses))
        connecting = connect or partial(connect_by_name, transport=transport)
        self._transport = (
            connecting(addresses[0], tls)
            if len(addresses) == 1
            else FailoverTransport(addresses, tls, connecting, hedge)
        )

    def predict(self, features: Features, **options: Unpack[RequestOptions]) -> Prediction:
        """The model's answer for one or more rows.

        Parameters
        ----------
        features : array, dict, list of dicts, or DataFrame
            By position in the model's order, or by name in any order; see Request.
        options
            The other fields of Request: model, version, request_id, routing_key, entities, event_time, timeout_s and
            steps.

        Raises
        ------
        InvalidInputError
            For what cannot be sent, or the server refuses; `field` names the place.
        PredictionError
            For every other refusal, by its reason: HaltedError, OverloadedError, StaleInputError and so on.
        UnreachableError, DeadlineError, StatusError
            Where no answer came. `executed` is False only where the model certainly did not run.
        """
        quick = self._core.quick(features, options)
        if quick is None:
            return self._do(self._core.predict(Request(features, **options)))
        try:
            answer = self._transport.call(PREDICT, quick.data, quick.timeout_s)
        except CallError as failed:
            raise self._core.refused(quick, failed) from None
        return self._core.answered(quick, answer)

    def stream(
        self, *, model: str | None = None, timeout_s: float | None = None, window: int = DEFAULT_WINDOW
    ) -> Stream:
        """Begins a stream, to be used in a `with` statement.

        Parameters
        ----------
        model, timeout_s
            Instead of the client's own, for the requests of this stream that bring none.
        window : int
            Most requests that may be under way at once; another one waits for its turn.
        """
        return Stream(self._core.with_defaults(model, timeout_s), self._transport, self._perform, window)

    def predict_many(
        self,
        requests: Iterable[Features | Request],
        *,
        model: str | None = None,
        timeout_s: float | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> Iterator[Prediction | TickserveError]:
        """Answers requests over one stream of their own; see `stream` and `Stream.predict_many`."""
        with self.stream(model=model, timeout_s=timeout_s, window=window) as stream:
            yield from stream.predict_many(requests)

    def get_model(
        self, model: str | None = None, version: str | None = None, *, timeout_s: float | None = None
    ) -> ModelInfo:
        """Describes a model: names and order of its features, outputs and limits; of one version, or the stable one.

        Asks the server each time. Raises NotFoundError, LoadingError, and what `predict` raises where no answer came.
        """
        return self._do(self._core.get_model(model, version, timeout_s))

    def wait_ready(self, timeout_s: float) -> None:
        """Returns once the server is ready for requests.

        Raises UnreachableError or DeadlineError where it is not within `timeout_s`, StatusError where it offers no
        health service.
        """
        self._do(self._core.wait_ready(timeout_s))

    def close(self) -> None:
        """Ends the connection; calls and streams under way fail."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, job: Job[_T]) -> _T:
        while job.step is not None:
            job.advance(self._perform(job.step))
        return job.result

    def _perform(self, step: Step) -> Outcome:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._transport.call(step.method, step.request, step.left_s)
        except CallError as failed:
            return failed
