"""A stream of predictions for the tasks of one event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar, Unpack

from tickserve.client.core import PREDICT, PREDICT_STREAM, Call, Core, Job, Outcome, Step
from tickserve.client.exchange import Exchange, closed, late, too_late_to_send
from tickserve.client.failure import prediction_error
from tickserve.client.features import Features
from tickserve.client.options import Request, RequestOptions, to_request
from tickserve.client.transport import AioTransport, CallError
from tickserve.errors import TickserveError
from tickserve.prediction import Prediction

# For the server's status, where nothing is under way any more.
_CLOSE_S = 1.0

_T = TypeVar("_T")


class Stream:
    """Predictions over one call, without the cost of a call each; made by `Client.stream`.

    Any number of tasks may use it at once: each gets its own answers. The same as the stream of `tickserve.Client`,
    but that what waits is awaited. Cancelling a task ends its waiting, not the stream.
    """

    def __init__(
        self, core: Core, transport: AioTransport, perform: Callable[[Step], Awaitable[Outcome]], window: int
    ) -> None:
        self._core = core
        self._perform_alone = perform
        self._window = window
        self._exchange: Exchange[asyncio.Future[Outcome]] = Exchange(window)
        self._loop = asyncio.get_running_loop()
        try:
            self._call = transport.stream(PREDICT_STREAM)
        except CallError as failed:
            raise prediction_error(failed, address=core.address) from None
        self._reader = self._loop.create_task(self._read(), name="tickserve-stream")

    async def predict(self, features: Features, **options: Unpack[RequestOptions]) -> Prediction:
        """Sends one request and waits for its answer; takes and raises what `Client.predict` does.

        A deadline that passes ends the waiting, not the stream.
        """
        return await self._finish(await self._begin(Request(features, **options)))

    async def predict_many(
        self, requests: Iterable[Features | Request] | AsyncIterable[Features | Request]
    ) -> AsyncGenerator[Prediction | TickserveError, None]:
        """Exactly one result for each request, in order: the prediction, or the error that `predict` would raise.

        Keeps up to `window` requests under way; each one's deadline counts from when it was sent. Results are handed
        over while the next request is fetched, so where requests come slowly and answers matter at once, `predict`
        is the better call. An exception of `requests` itself is raised to the caller.
        """
        under_way: deque[_UnderWay | TickserveError] = deque()
        async with aclosing(_asynchronous(requests)) as given:
            async for one in given:
                try:
                    under_way.append(await self._begin(to_request(one)))
                except TickserveError as error:
                    under_way.append(error)
                while under_way and (len(under_way) >= self._window or _is_done(under_way[0])):
                    yield await self._result(under_way.popleft())
        while under_way:
            yield await self._result(under_way.popleft())

    async def close(self) -> None:
        """Ends the stream; requests under way fail, and are marked as executed for all one knows."""
        is_idle = self._exchange.is_idle
        self._exchange.end(closed())
        try:
            if is_idle:
                self._call.finish()
                await asyncio.wait((self._reader,), timeout=_CLOSE_S)
        finally:
            self._call.cancel()
        await asyncio.wait((self._reader,))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _begin(self, request: Request) -> _UnderWay:
        job = self._core.predict(request)
        while job.step is not None:
            if isinstance(job.step, Call) and job.step.method == PREDICT:
                return _UnderWay(job, job.step, await self._ask(job.step))
            job.advance(await self._perform_alone(job.step))
        raise AssertionError("a prediction without a call of PREDICT")

    async def _finish(self, sent: _UnderWay) -> Prediction:
        job = sent.job
        job.advance(await self._after(sent.call, await _await(sent.call, sent.ticket)))
        while job.step is not None:
            job.advance(await self._perform(job.step))
        return job.result

    async def _result(self, sent: _UnderWay | TickserveError) -> Prediction | TickserveError:
        if isinstance(sent, TickserveError):
            return sent
        try:
            return await self._finish(sent)
        except TickserveError as error:
            return error

    async def _perform(self, step: Step) -> Outcome:
        if isinstance(step, Call) and step.method == PREDICT:
            return await self._after(step, await _await(step, await self._ask(step)))
        return await self._perform_alone(step)

    async def _after(self, call: Call, outcome: Outcome) -> Outcome:
        """Where the stream's server cannot answer and has not tried, a call of its own goes to another one."""
        return await self._perform_alone(call) if self._core.goes_elsewhere(outcome) else outcome

    async def _ask(self, call: Call) -> asyncio.Future[Outcome]:
        ticket: asyncio.Future[Outcome] = self._loop.create_future()
        while (in_the_way := self._exchange.in_the_way()) is not None:
            # A wait that ends early leaves the future alone, where awaiting it would cancel it.
            done, _ = await asyncio.wait((in_the_way,), timeout=call.left_s)
            if not done:
                ticket.set_result(too_late_to_send())
                return ticket
        message = self._exchange.ask(call, ticket)
        if message is not None:
            self._call.send(message)
        return ticket

    async def _read(self) -> None:
        why: CallError | None = None
        try:
            async for data in self._call:
                if not self._exchange.take(data):
                    self._call.cancel()
        except CallError as failed:
            why = failed
        finally:
            self._exchange.end(why)


@dataclass(frozen=True, slots=True)
class _UnderWay:
    job: Job[Prediction]
    call: Call
    ticket: asyncio.Future[Outcome]


async def _await(call: Call, ticket: asyncio.Future[Outcome]) -> Outcome:
    done, _ = await asyncio.wait((ticket,), timeout=call.left_s)
    return ticket.result() if done else late()


def _is_done(sent: _UnderWay | TickserveError) -> bool:
    return isinstance(sent, TickserveError) or sent.ticket.done()


async def _asynchronous(items: Iterable[_T] | AsyncIterable[_T]) -> AsyncGenerator[_T, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
