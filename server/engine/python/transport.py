"""The data listener of the python engine: a grpc.aio server over bytes, from opening to the end of its last answer."""

from __future__ import annotations

import asyncio
import contextlib
import time

import grpc

from server.engine.python.pipeline import Pipeline
from server.engine.python.services import Services
from tickserve.listening.listeners import Listeners

_LAG_PERIOD_S = 0.01
#: How long clients have to take what was answered, once nothing is in flight.
_LAST_WRITES_S = 1.0


class Transport:
    """Serves on the event loop that `start` is awaited on. Its other methods run on that loop too."""

    def __init__(self, listeners: Listeners, pipeline: Pipeline, *, max_message_bytes: int) -> None:
        self._listeners = listeners
        self._pipeline = pipeline
        self._max_message_bytes = max_message_bytes
        self._server: grpc.aio.Server | None = None
        self._lag_task: asyncio.Task[None] | None = None
        self._services: Services | None = None

    async def start(self) -> list[str]:
        """Opens the listeners and returns their addresses. Raises ConfigurationError where one cannot be bound."""
        options = [
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", self._max_message_bytes),
            *self._listeners.options(),
        ]
        self._services = Services(self._pipeline)
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(self._services.handlers())
        addresses = self._listeners.open(self._server)
        await self._server.start()
        self._lag_task = asyncio.create_task(self._sample_lag())
        return addresses

    def set_ready(self, is_ready: bool) -> None:
        """What readiness and health say, to those who watch at once."""
        if self._services is not None:
            self._services.set_ready(is_ready)

    async def stop(self, grace_s: float) -> None:
        """Refuses new requests, waits for those in flight, closes."""
        end = time.monotonic() + grace_s
        if self._services is not None:
            self._services.refuse()
            # Before the server itself stops: from then on calls on open connections get a bare CANCELLED.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._services.drained(), grace_s)
        if self._server is not None:
            # What is left are answers on their way, and clients that do not take theirs.
            await self._server.stop(min(max(0.0, end - time.monotonic()), _LAST_WRITES_S))
        if self._lag_task is not None:
            self._lag_task.cancel()

    async def _sample_lag(self) -> None:
        """Keeps the pipeline's `lag_ns`: how long one pass of the loop takes, which a request that arrives waits.

        The pass is timed from a callback to the next pass's; a timer's own lateness is mostly rounding.
        """
        while True:
            await asyncio.sleep(_LAG_PERIOD_S)
            start = time.perf_counter_ns()
            await asyncio.sleep(0)
            self._pipeline.lag_ns = time.perf_counter_ns() - start
