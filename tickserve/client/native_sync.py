"""The blocking transport over the Rust extension: the calling thread drives the connection itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from tickserve.client.native_channel import call_error, connect
from tickserve.client.transport import ByteStream, Tls, is_closed


class NativeTransport:
    """See Transport."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self._channel = connect(address, tls)
        self._methods: dict[str, Any] = {}
        self._is_closed = False

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """See Transport."""
        # A forked child has a channel of its own, which nobody has closed.
        if self._is_closed:
            raise is_closed()
        bound = self._methods.get(method)
        if bound is None:
            bound = self._methods[method] = self._channel.method(method)
        answer = self._channel.call(bound, request, timeout_s)
        if type(answer) is bytes:
            return answer
        raise call_error(answer)

    def stream(self, method: str) -> ByteStream:
        """See Transport."""
        if self._is_closed:
            raise is_closed()
        return _NativeStream(self._channel, self._channel.method(method))

    def close(self) -> None:
        """See Transport."""
        self._is_closed = True
        self._channel.close()


class _NativeStream:
    """The call is begun by the thread that reads, which may have to wait for a connection; what is sent before waits.

    Invariant: under the lock, `_call` is None and messages wait, or none waits.
    """

    def __init__(self, channel: Any, method: Any) -> None:
        self._channel = channel
        self._method = method
        self._lock = threading.Lock()
        self._call: Any = None
        self._waiting: list[bytes] = []
        self._is_finished = False
        self._is_cancelled = False

    def send(self, message: bytes) -> None:
        with self._lock:
            if self._call is None:
                self._waiting.append(message)
            else:
                self._call.send(message)

    def finish(self) -> None:
        with self._lock:
            self._is_finished = True
            if self._call is not None:
                self._call.finish()

    def cancel(self) -> None:
        with self._lock:
            self._is_cancelled = True
            if self._call is not None:
                self._call.cancel()

    def __iter__(self) -> Iterator[bytes]:
        begun = self._channel.stream(self._method)
        if type(begun) is tuple:
            raise call_error(begun)
        with self._lock:
            self._call = begun
            for message in self._waiting:
                begun.send(message)
            self._waiting.clear()
            if self._is_finished:
                begun.finish()
            if self._is_cancelled:
                begun.cancel()
        while (message := begun.read()) is not None:
            if type(message) is not bytes:
                raise call_error(message)
            yield message
