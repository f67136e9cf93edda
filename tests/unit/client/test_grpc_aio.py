"""The status of a stream whose last message was written just as the server ended it, over asyncio."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Self

import grpc
import pytest

from tickserve.client.grpc_aio import GrpcAioStream
from tickserve.client.transport import CallError
from tickserve.errors import Code

SERVER = (grpc.StatusCode.UNAVAILABLE, "the server is draining", grpc.aio.Metadata(("tickserve-executed", "0")))
WRITE = (grpc.StatusCode.INTERNAL, "Internal error from Core", grpc.aio.Metadata())


class EndingCall:
    """A call of grpc whose answers end once its statuses are there; the last of `later` comes while one waits.

    Real calls end in each of these orders, and which one it is hangs on threads of grpc: see test_clients of e2e.
    """

    def __init__(self, statuses: list[tuple[object, ...]], later: list[tuple[object, ...]]) -> None:
        self._statuses = statuses
        self._later = later
        self._status = WRITE
        self._callbacks: list[Callable[[Self], None]] = []

    def add_done_callback(self, callback: Callable[[Self], None]) -> None:
        self._callbacks.append(callback)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"answer"
        for number, status in enumerate(self._statuses):
            self._status = status
            for callback in self._callbacks if number == 0 else ():
                callback(self)
        code, details, trailers = self._status
        for status in self._later:
            asyncio.get_running_loop().call_later(0.02, setattr, self, "_status", status)
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details)

    async def code(self) -> object:
        return self._status[0]

    async def details(self) -> object:
        return self._status[1]

    async def trailing_metadata(self) -> object:
        return self._status[2]


@pytest.mark.parametrize(
    ("statuses", "later"),
    [([SERVER], []), ([SERVER, WRITE], []), ([WRITE, SERVER], []), ([WRITE], [SERVER])],
    ids=["no write fails", "a write fails after it", "a write failed before it", "it comes after the answers' end"],
)
async def test_the_servers_status_counts_whenever_a_write_fails(
    statuses: list[tuple[object, ...]], later: list[tuple[object, ...]]
) -> None:
    stream = aiter(GrpcAioStream(lambda _messages: EndingCall(statuses, later)))
    assert await anext(stream) == b"answer"
    with pytest.raises(CallError) as failed:
        await anext(stream)
    assert (failed.value.code, failed.value.message) == (Code.UNAVAILABLE, "the server is draining")
    assert failed.value.trailers == {"tickserve-executed": "0"}
