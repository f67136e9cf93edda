"""The asyncio transport over the Rust extension: the event loop waits for the socket, and no thread is handed to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from tickserve.client.native_channel import Failed, call_error, connect
from tickserve.client.native_link import DrivenLink, Outcome
from tickserve.client.transport import AioByteStream, CallError, Tls, is_closed
from tickserve.errors import Code

# What a unary call cannot come to.
_NOTHING: Failed = (int(Code.INTERNAL), "the call ended without an answer", [], True)
# An attempt to connect ends by itself long before.
_FOR_EVER_S = 1e9


class NativeAioTransport:
    """See AioTransport. It belongs to the loop of its first call."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self._channel = connect(address, tls)
        self._methods: dict[str, Any] = {}
        self._links: set[DrivenLink] = set()
        self._driven: DrivenLink | None = None
        self._connecting: asyncio.Future[Any] | None = None
        self._is_closed = False

    async def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """See AioTransport."""
        end = time.monotonic() + timeout_s
        bound = self.method(method)
        is_second = False
        while True:
            driven = self._driven
            if driven is None or not driven.is_usable:
                driven = await self._connect(end - time.monotonic())
            answer = await driven.call(bound, request, max(0.0, end - time.monotonic()))
            if isinstance(answer, bytes):
                return answer
            failed = call_error(answer or _NOTHING)
            if is_second or not failed.never_left or driven.is_usable or self._is_closed:
                raise failed
            # The connection had ended unnoticed, and nothing was sent.
            is_second = True

    def stream(self, method: str) -> AioByteStream:
        """See AioTransport."""
        if self._is_closed:
            raise is_closed()
        return _NativeAioStream(self, self.method(method))

    async def close(self) -> None:
        """See AioTransport."""
        self._is_closed = True
        self._channel.close()
        for driven in tuple(self._links):
            driven.turn()

    def method(self, name: str) -> Any:
        """The extension's object for a method."""
        bound = self._methods.get(name)
        if bound is None:
            bound = self._methods[name] = self._channel.method(name)
        return bound

    async def link(self) -> DrivenLink:
        """The connection to use, once there is one."""
        driven = self._driven
        return driven if driven is not None and driven.is_usable else await self._connect(None)

    async def _connect(self, timeout_s: float | None) -> DrivenLink:
        if self._is_closed:
            raise is_closed()
        if self._connecting is None:
            self._connecting = self._dial()
        connecting = self._connecting
        # Whoever gives up leaves the attempt to the others.
        done, _ = await asyncio.wait((connecting,), timeout=timeout_s)
        if not done:
            raise CallError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded", never_left=True)
        if self._connecting is connecting:
            self._connecting = None
        found = connecting.result()
        if type(found) is tuple:
            raise call_error(found)
        if self._is_closed:
            raise is_closed()
        driven = self._driven
        if driven is None or driven.link is not found:
            driven = self._driven = DrivenLink(found, self._links)
        return driven

    def _dial(self) -> asyncio.Future[Any]:
        """Connects on a thread of its own: names are looked up and TLS is agreed on by waiting."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def dial() -> None:
            found = self._channel.connect(_FOR_EVER_S)
            # The loop may have been closed meanwhile, with all that waited.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_set, future, found)

        threading.Thread(target=dial, name="tickserve-connect", daemon=True).start()
        return future


class _NativeAioStream:
    """The call is begun by the task that reads, which may have to wait for a connection; what is sent before waits.

    Invariant: `_driven` is None and messages wait, or none waits.
    """

    def __init__(self, transport: NativeAioTransport, method: Any) -> None:
        self._transport = transport
        self._method = method
        self._driven: DrivenLink | None = None
        self._number = 0
        self._waiting: list[bytes] = []
        self._is_finished = False
        self._cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._came: deque[Outcome] = deque()
        self._has_come = asyncio.Event()

    def send(self, message: bytes) -> None:
        if self._driven is None:
            self._waiting.append(message)
        else:
            self._driven.send(self._number, message)

    def finish(self) -> None:
        self._is_finished = True
        if self._driven is not None:
            self._driven.finish(self._number)

    def cancel(self) -> None:
        _set(self._cancelled, None)
        if self._driven is not None:
            self._driven.cancel(self._number)
            self._take((int(Code.CANCELLED), "the client cancelled the call", [], True))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await self._begin()
        try:
            while True:
                while self._came:
                    outcome = self._came.popleft()
                    if outcome is None:
                        return
                    if not isinstance(outcome, bytes):
                        raise call_error(outcome)
                    yield outcome
                self._has_come.clear()
                await self._has_come.wait()
        finally:
            if self._driven is not None:
                self._driven.cancel(self._number)

    async def _begin(self) -> None:
        connecting = asyncio.ensure_future(self._transport.link())
        try:
            await asyncio.wait((connecting, self._cancelled), return_when=asyncio.FIRST_COMPLETED)
            if self._cancelled.done():
                raise CallError(Code.CANCELLED, "the client cancelled the call", never_left=True)
            driven = connecting.result()
        finally:
            connecting.cancel()
        self._number = driven.stream(self._method, self._take)
        self._driven = driven
        for message in self._waiting:
            driven.send(self._number, message)
        self._waiting.clear()
        if self._is_finished:
            driven.finish(self._number)

    def _take(self, outcome: Outcome) -> None:
        self._came.append(outcome)
        self._has_come.set()


def _set(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)
