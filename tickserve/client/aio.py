"""The asyncio client of the Prediction service."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Self, TypeVar, Unpack

from tickserve.client.aio_stream import Stream
from tickserve.client.choice import TransportName, codec, connect_aio
from tickserve.client.core import PREDICT, Core, Job, Outcome, Pause, Step
from tickserve.client.exchange import DEFAULT_WINDOW
from tickserve.client.failover import make_hedge
from tickserve.client.failover_aio import FailoverAioTransport
from tickserve.client.features import Features
from tickserve.client.options import Request, RequestOptions
from tickserve.client.transport import AioConnect, CallError, Tls
from tickserve.errors import TickserveError
from tickserve.prediction import ModelInfo, Prediction

_T = TypeVar("_T")


class Client:
    """Asks a server, or one of several, from an event loop; one client serves any number of tasks of that loop.

    The same as `tickserve.Client`, parameters, rules and errors included, but that what waits is awaited. It belongs
    to the loop of its first call. Cancelling a task cancels its call, and nothing else.

    Examples
    --------
    >>> async with tickserve.aio.Client("127.0.0.1:8500", model="sp500-logistic") as client:  # doctest: +SKIP
    ...     (await client.predict({"return_1d": 0.002, "rsi_14d": 55.0})).signal
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
        connect: AioConnect | None = None,
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
        connecting = connect or partial(connect_aio, transport=transport)
        self._transport = (
            connecting(addresses[0], tls)
            if len(addresses) == 1
            else FailoverAioTransport(addresses, tls, connecting, hedge)
        )

    async def predict(self, features: Features, **options: Unpack[RequestOptions]) -> Prediction:
        """The model's answer for one or more rows; see `tickserve.Client.predict`."""
        quick = self._core.quick(features, options)
        if quick is None:
            return await self._do(self._core.predict(Request(features, **options)))
        try:
            answer = await self._transport.call(PREDICT, quick.data, quick.timeout_s)
        except CallError as failed:
            raise self._core.refused(quick, failed) from None
        return self._core.answered(quick, answer)

    def stream(
        self, *, model: str | None = None, timeout_s: float | None = None, window: int = DEFAULT_WINDOW
    ) -> Stream:
        """Begins a stream, to be used in an `async with` statement; see `tickserve.Client.stream`."""
        return Stream(self._core.with_defaults(model, timeout_s), self._transport, self._perform, window)

    async def predict_many(
        self,
        requests: Iterable[Features | Request] | AsyncIterable[Features | Request],
        *,
        model: str | None = None,
        timeout_s: float | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> AsyncGenerator[Prediction | TickserveError, None]:
        """Answers requests over one stream of their own; see `stream` and `Stream.predict_many`.

        Whoever leaves the loop early ends the stream at once with `contextlib.aclosing`, and some time later without.
        """
        async with (
            self.stream(model=model, timeout_s=timeout_s, window=window) as stream,
            aclosing(stream.predict_many(requests)) as results,
        ):
            async for result in results:
                yield result

    async def get_model(
        self, model: str | None = None, version: str | None = None, *, timeout_s: float | None = None
    ) -> ModelInfo:
        """Describes a model; see `tickserve.Client.get_model`."""
        return await self._do(self._core.get_model(model, version, timeout_s))

    async def wait_ready(self, timeout_s: float) -> None:
        """Returns once the server is ready for requests; see `tickserve.Client.wait_ready`."""
        await self._do(self._core.wait_ready(timeout_s))

    async def close(self) -> None:
        """Ends the connection; calls and streams under way fail."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _do(self, job: Job[_T]) -> _T:
        while job.step is not None:
            job.advance(await self._perform(job.step))
        return job.result

    async def _perform(self, step: Step) -> Outcome:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._transport.call(step.method, step.request, step.left_s)
        except CallError as failed:
            return failed
