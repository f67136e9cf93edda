"""Engines that run: one with what a case finds installed, and a stream that is held open."""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from server.engine import Engine
from tests.conformance.case import TIMEOUT_S
from tests.conformance.served import Served

#: Channels of one process share their connections otherwise.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


class Server:
    """An engine that serves what a case wants, and a connection to it."""

    def __init__(self, engine: Engine, served: Served, folder: Path) -> None:
        self.engine, self.served = engine, served
        (address,) = engine.start()
        plan = served.written(folder)
        for model in plan.models.values():
            for version in model.versions.values():
                engine.prepare(version)
        engine.install(plan)
        engine.set_ready(is_ready=served.is_ready)
        self.channel = grpc.insecure_channel(address, options=OWN_CONNECTION)

    def stop(self) -> None:
        """Ends both; no fault may be left that nobody asked for."""
        self.channel.close()
        self.engine.stop(1.0)
        assert self.engine.take_faults() == []


class Stream:
    """One open stream: send, receive, close, over raw bytes."""

    def __init__(self, channel: grpc.Channel, method: str) -> None:
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.call: Any = channel.stream_stream(method)(self._requests(), timeout=TIMEOUT_S)

    def send(self, data: bytes) -> None:
        self._outgoing.put(data)

    def receive(self) -> bytes:
        return bytes(next(self.call))

    def close(self) -> None:
        self._outgoing.put(None)

    def ends_with(self) -> tuple[str, str]:
        """Reads to the end; the status and the reason in the trailers."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError:
            pass
        return self.call.code().name, dict(self.call.trailing_metadata()).get("tickserve-reason", "")

    def _requests(self) -> Iterator[bytes]:
        while (data := self._outgoing.get()) is not None:
            yield data
