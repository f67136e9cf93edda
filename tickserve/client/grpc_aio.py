"""The asyncio transport over one grpcio channel."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import grpc

from tickserve.client.grpc_channel import call_error, credentials, no_answer, options, target
from tickserve.client.transport import AioByteStream, CallError, Tls, is_closed
from tickserve.errors import Code

# What grpc makes of a write that failed; how long the server's own status may take then, and how often to look.
_WRITE_FAILED = "Internal error from Core"
_STATUS_S, _LOOK_S = 10.0, 0.001
# Of a call that was under way: what grpc says to threads whose channel is closed, and of a stream taken back.
_CLOSED, _CANCELLED = "Channel closed!", "the client cancelled the call"


class GrpcAioTransport:
    """See AioTransport. It may be made where no loop runs: grpc's channel is made at the first call."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self._target = target(address)
        self._credentials = None if tls is None else credentials(tls)
        self._options = options(tls)
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}
        self._is_closed = False

    async def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """See AioTransport."""
        channel = self._open()
        bound = self._methods.get(method)
        if bound is None:
            bound = self._methods[method] = channel.unary_unary(method, bytes, bytes)
        try:
            answer: object = await bound(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _call_error(error) from None
        except asyncio.CancelledError:
            raise _unless_cancelled(_CLOSED if self._is_closed else _CANCELLED) from None
        # What grpc makes of a call that ended well without a message, or inside one.
        if not isinstance(answer, bytes):
            raise no_answer()
        return answer

    def stream(self, method: str) -> AioByteStream:
        """See AioTransport."""
        return GrpcAioStream(self._open().stream_stream(method, bytes, bytes))

    async def close(self) -> None:
        """See AioTransport."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close(None)

    def _open(self) -> grpc.aio.Channel:
        if self._is_closed:
            raise is_closed()
        if self._channel is None:
            self._channel = (
                grpc.aio.insecure_channel(self._target, options=self._options)
                if self._credentials is None
                else grpc.aio.secure_channel(self._target, self._credentials, options=self._options)
            )
        return self._channel


class GrpcAioStream:
    """See AioByteStream. `method` makes the call from the messages to send."""

    def __init__(self, method: Any) -> None:
        self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.send = self._outgoing.put_nowait
        self._first: CallError | None = None
        self._call = method(self._messages())
        self._call.add_done_callback(self._keep_first)

    def finish(self) -> None:
        self._outgoing.put_nowait(None)

    def cancel(self) -> None:
        self._call.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for message in self._call:
                yield message
        except grpc.aio.AioRpcError as error:
            failed = await self._failure(error)
            if failed.code is not Code.OK:
                raise failed from None
        except asyncio.CancelledError:
            raise _unless_cancelled(_CANCELLED) from None
        finally:
            self.finish()

    async def _messages(self) -> AsyncIterator[bytes]:
        while (message := await self._outgoing.get()) is not None:
            yield message

    def _keep_first(self, call: Any) -> None:
        if self._first is None:
            self._first = call_error(*map(_at_once, _parts(call)))

    async def _failure(self, error: grpc.aio.AioRpcError) -> CallError:
        """The server's own status.

        A message that is written just as the server ends the stream fails, and grpc puts an INTERNAL of its own
        before or over the server's status (grpc issue 36066). Over it: the first status is the server's. Before it:
        the server's is there when the answers end or soon after, and grpc tells nobody.
        """
        if self._first is not None and self._first.message != _WRITE_FAILED:
            return self._first
        failed = _call_error(error)
        end = time.monotonic() + _STATUS_S
        while failed.message == _WRITE_FAILED and time.monotonic() < end:
            await asyncio.sleep(_LOOK_S)
            failed = call_error(*[await part for part in _parts(self._call)])
        return failed


def _parts(call: Any) -> tuple[Coroutine[Any, Any, Any], ...]:
    return call.code(), call.details(), call.trailing_metadata()


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("the status of a call that is done had to be waited for")


def _call_error(error: grpc.aio.AioRpcError) -> CallError:
    return call_error(error.code(), error.details(), error.trailing_metadata())


def _unless_cancelled(why: str) -> BaseException:
    """What to raise for a CancelledError: grpc raises it both where a call was cancelled and where its task was."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    return CallError(Code.CANCELLED, why)
