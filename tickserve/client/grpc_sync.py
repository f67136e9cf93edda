"""The blocking transport over one grpcio channel."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, cast

import grpc

from tickserve.client.grpc_channel import call_error, credentials, no_answer, options, target
from tickserve.client.transport import ByteStream, CallError, Tls, is_closed


class GrpcTransport:
    """See Transport."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self._channel = (
            grpc.insecure_channel(target(address), options=options(tls))
            if tls is None
            else grpc.secure_channel(target(address), credentials(tls), options=options(tls))
        )
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """See Transport."""
        try:
            bound = self._methods.get(method)
            if bound is None:
                bound = self._methods[method] = self._channel.unary_unary(method, bytes, bytes)
            answer = bound(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise _call_error(error) from None
        except ValueError:
            # The only one that grpc raises here is of a closed channel, which it cannot be asked about.
            raise is_closed() from None
        # What grpc makes of a call that ended well without a message, or inside one.
        if answer is None:
            raise no_answer()
        return answer

    def stream(self, method: str) -> ByteStream:
        """See Transport."""
        try:
            return _GrpcStream(self._channel.stream_stream(method, bytes, bytes))
        except ValueError:
            raise is_closed() from None

    def close(self) -> None:
        """See Transport."""
        self._channel.close()


class _GrpcStream:
    def __init__(self, method: grpc.StreamStreamMultiCallable[bytes, bytes]) -> None:
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self.send = self._outgoing.put
        # grpc takes from the queue on a thread of its own, which ends with the None.
        self._call: Any = method(iter(self._outgoing.get, None))

    def finish(self) -> None:
        self._outgoing.put(None)

    def cancel(self) -> None:
        self._call.cancel()

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._call
        except grpc.RpcError as error:
            raise _call_error(error) from None
        finally:
            self.finish()


def _call_error(error: grpc.RpcError) -> CallError:
    # What grpc raises is the call itself.
    call = cast(grpc.Call, error)
    return call_error(call.code(), call.details(), call.trailing_metadata())
