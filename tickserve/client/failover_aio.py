"""One transport out of several, for an event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from tickserve.client.core import PREDICT
from tickserve.client.failover import (
    FIRST_PAUSE_S,
    HEALTH_REQUEST,
    HEALTH_WATCH,
    LAST_PAUSE_S,
    STREAM_S,
    Ask,
    Endpoints,
    Health,
    Hedge,
    attempts,
    health_after,
    less_certain,
    read_health,
)
from tickserve.client.transport import AioByteStream, AioConnect, AioTransport, CallError, Tls, is_closed


class FailoverAioTransport:
    """See AioTransport. A task for each server watches its health, from the first call on."""

    def __init__(self, addresses: Sequence[str], tls: Tls | None, connect: AioConnect, hedge: Hedge | None) -> None:
        self._endpoints = Endpoints(addresses)
        self._transports: list[AioTransport] = [connect(address, tls) for address in addresses]
        self._hedge = hedge
        self._changed = asyncio.Condition()
        self._watchers: list[asyncio.Task[None]] = []
        self._is_closed = False

    async def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """See AioTransport."""
        self._start()
        if self._hedge is not None and method == PREDICT:
            return await self._call_hedged(self._hedge, request, timeout_s)
        return await self._call(method, request, timeout_s, set())

    def stream(self, method: str) -> AioByteStream:
        """See AioTransport. The stream stays with the server that it begins at."""
        self._start()
        return _ChosenStream(self, method)

    async def close(self) -> None:
        """See AioTransport."""
        self._is_closed = True
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        async with self._changed:
            self._changed.notify_all()
        for transport in self._transports:
            await transport.close()

    async def open_stream(self, method: str) -> AioByteStream:
        """A stream at the server to ask now."""
        end = time.monotonic() + STREAM_S
        while (wait_s := self._endpoints.wait_s(set(), end - time.monotonic())) > 0:
            await self._await_word(wait_s)
        return self._transports[self._endpoints.first()].stream(method)

    async def _call(self, method: str, request: bytes, timeout_s: float, tried: set[int]) -> bytes:
        steps = attempts(self._endpoints, method, timeout_s, tried)
        outcome: bytes | CallError | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as stop:
                answer: bytes = stop.value
                return answer
            if isinstance(step, Ask):
                try:
                    outcome = await self._transports[step.index].call(method, request, step.left_s)
                except CallError as failed:
                    outcome = failed
            else:
                await self._await_word(step.left_s)
                outcome = None

    async def _call_hedged(self, hedge: Hedge, request: bytes, timeout_s: float) -> bytes:
        tried: set[int] = set()
        calls = {asyncio.create_task(self._call(PREDICT, request, timeout_s, tried))}
        try:
            done, _ = await asyncio.wait(calls, timeout=hedge.after_s)
            left_s = timeout_s - hedge.after_s
            if not done and left_s > 0 and self._endpoints.next(tried) is not None:
                calls.add(asyncio.create_task(self._call(PREDICT, request, left_s, tried)))
            under_way, failures = calls, list[CallError]()
            while under_way:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    error = each.exception()
                    if error is None:
                        return each.result()
                    if not isinstance(error, CallError):
                        raise error
                    failures.append(error)
            raise failures[0] if len(failures) == 1 else less_certain(*failures)
        finally:
            for call in calls:
                call.cancel()

    async def _await_word(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait()
        except TimeoutError:
            pass
        if self._is_closed:
            raise is_closed()

    def _start(self) -> None:
        if not self._watchers and not self._is_closed:
            self._watchers = [asyncio.create_task(self._watch(index)) for index in range(len(self._transports))]

    async def _watch(self, index: int) -> None:
        pause_s = FIRST_PAUSE_S
        # grpc loses a cancellation that comes just as its call fails, so that is not what ends the loop.
        while not self._is_closed:
            why: CallError | None = None
            try:
                watch = self._transports[index].stream(HEALTH_WATCH)
                try:
                    watch.send(HEALTH_REQUEST)
                    watch.finish()
                    async for message in watch:
                        pause_s = FIRST_PAUSE_S
                        await self._heard(index, read_health(message))
                finally:
                    watch.cancel()
            except CallError as failed:
                why = failed
            health = health_after(why)
            await self._heard(index, health)
            if health is Health.UNWATCHED or self._is_closed:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _heard(self, index: int, health: Health) -> None:
        async with self._changed:
            self._endpoints.heard(index, health)
            self._changed.notify_all()


class _ChosenStream:
    """A stream whose server is chosen when it is first read; what is sent before waits."""

    def __init__(self, transport: FailoverAioTransport, method: str) -> None:
        self._transport = transport
        self._method = method
        self._inner: AioByteStream | None = None
        self._waiting: list[bytes] = []
        self._is_finished = False
        self._is_cancelled = False

    def send(self, message: bytes) -> None:
        if self._inner is None:
            self._waiting.append(message)
        else:
            self._inner.send(message)

    def finish(self) -> None:
        self._is_finished = True
        if self._inner is not None:
            self._inner.finish()

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._inner is not None:
            self._inner.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._is_cancelled:
            return
        inner = self._inner = await self._transport.open_stream(self._method)
        for message in self._waiting:
            inner.send(message)
        if self._is_finished:
            inner.finish()
        if self._is_cancelled:
            inner.cancel()
        async for message in inner:
            yield message
