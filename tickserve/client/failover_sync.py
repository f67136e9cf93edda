"""One transport out of several, for threads."""

import os
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

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
from tickserve.client.transport import ByteStream, CallError, Connect, Tls, Transport, is_closed

# How long closing waits for the threads that watch.
_CLOSE_S = 1.0
_GLANCE_S = 0.01
_HEDGING_THREADS = 32


class FailoverTransport:
    """See Transport. A thread for each server watches its health, from the first call on."""

    def __init__(self, addresses: Sequence[str], tls: Tls | None, connect: Connect, hedge: Hedge | None) -> None:
        self._addresses = tuple(addresses)
        self._transports: list[Transport] = []
        try:
            for address in addresses:
                self._transports.append(connect(address, tls))
        except BaseException:
            self._close_transports()
            raise
        self._hedge = hedge
        self._closed = threading.Event()
        self.begin_anew()
        _OPEN.add(self)

    def begin_anew(self) -> None:
        """Knows nothing of the servers. A forked child has no threads, and perhaps locks that threads held."""
        is_closed_already = self._closed.is_set()
        self._endpoints = Endpoints(self._addresses)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = threading.Event()
        if is_closed_already:
            self._closed.set()
        self._watchers: list[threading.Thread] = []
        self._watches: dict[int, ByteStream] = {}
        self._hedging: ThreadPoolExecutor | None = None

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """See Transport."""
        self._start()
        if self._hedge is not None and method == PREDICT:
            return self._call_hedged(self._hedge, request, timeout_s)
        return self._call(method, request, timeout_s, set(), nullcontext())

    def stream(self, method: str) -> ByteStream:
        """See Transport. The stream stays with the server that it began at."""
        self._start()
        end = time.monotonic() + STREAM_S
        while (wait_s := self._endpoints.wait_s(set(), end - time.monotonic())) > 0:
            self._await_word(wait_s)
        return self._transports[self._endpoints.first()].stream(method)

    def close(self) -> None:
        """See Transport."""
        with self._lock:
            self._closed.set()
            watches, hedging = list(self._watches.values()), self._hedging
            self._changed.notify_all()
        for watch in watches:
            watch.cancel()
        self._close_transports()
        for watcher in self._watchers:
            watcher.join(_CLOSE_S)
        if hedging is not None:
            hedging.shutdown(wait=False)

    def _call(
        self, method: str, request: bytes, timeout_s: float, tried: set[int], choosing: AbstractContextManager[Any]
    ) -> bytes:
        """`choosing` is held while a server is chosen and added to `tried`, which another thread may do too."""
        steps = attempts(self._endpoints, method, timeout_s, tried)
        outcome: bytes | CallError | None = None
        while True:
            try:
                with choosing:
                    step = steps.send(outcome)
            except StopIteration as stop:
                answer: bytes = stop.value
                return answer
            if isinstance(step, Ask):
                outcome = self._ask(step, method, request)
            else:
                self._await_word(step.left_s)
                outcome = None

    def _ask(self, step: Ask, method: str, request: bytes) -> bytes | CallError:
        try:
            return self._transports[step.index].call(method, request, step.left_s)
        except CallError as failed:
            return failed

    def _call_hedged(self, hedge: Hedge, request: bytes, timeout_s: float) -> bytes:
        pool, tried, end = self._pool(), set[int](), time.monotonic() + timeout_s
        choosing = threading.Lock()

        def call() -> bytes:
            # Where more hedge than there are threads it has waited for one.
            return self._call(PREDICT, request, end - time.monotonic(), tried, choosing)

        try:
            calls: set[Future[bytes]] = {pool.submit(call)}
        except RuntimeError as why:
            if not self._closed.is_set():
                raise
            # By another thread, since the pool was asked for.
            raise is_closed() from why
        if not wait(calls, min(hedge.after_s, timeout_s)).done and time.monotonic() < end:
            with choosing:
                is_one_left = self._endpoints.next(tried) is not None
            if is_one_left:
                # Where it was closed meanwhile, what becomes of the first call is what is told.
                with suppress(RuntimeError):
                    calls.add(pool.submit(call))
        failures: list[CallError] = []
        while calls:
            done, calls = wait(calls, return_when=FIRST_COMPLETED)
            for each in done:
                error = each.exception()
                if error is None:
                    return each.result()
                if not isinstance(error, CallError):
                    raise error
                failures.append(error)
        raise failures[0] if len(failures) == 1 else less_certain(*failures)

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed.is_set():
                raise is_closed()
            if self._hedging is None:
                self._hedging = ThreadPoolExecutor(_HEDGING_THREADS, thread_name_prefix="tickserve-hedge")
            return self._hedging

    def _await_word(self, timeout_s: float) -> None:
        """Until something is heard; what came between asking and waiting is missed, so the wait is cut into pieces."""
        with self._changed:
            self._changed.wait(min(timeout_s, _GLANCE_S))
        if self._closed.is_set():
            raise is_closed()

    def _start(self) -> None:
        if self._watchers:
            return
        with self._lock:
            if self._watchers or self._closed.is_set():
                return
            self._watchers = [
                threading.Thread(target=self._watch, args=(index,), name="tickserve-health", daemon=True)
                for index in range(len(self._transports))
            ]
            for watcher in self._watchers:
                watcher.start()

    def _watch(self, index: int) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closed.is_set():
            why: CallError | None = None
            try:
                watch = self._transports[index].stream(HEALTH_WATCH)
                with self._lock:
                    self._watches[index] = watch
                if self._closed.is_set():
                    watch.cancel()
                watch.send(HEALTH_REQUEST)
                watch.finish()
                for message in watch:
                    pause_s = FIRST_PAUSE_S
                    self._heard(index, read_health(message))
            except CallError as failed:
                why = failed
            health = health_after(why)
            self._heard(index, health)
            if health is Health.UNWATCHED or self._closed.wait(pause_s):
                return
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    def _heard(self, index: int, health: Health) -> None:
        with self._changed:
            self._endpoints.heard(index, health)
            self._changed.notify_all()

    def _close_transports(self) -> None:
        for transport in self._transports:
            transport.close()


_OPEN: weakref.WeakSet[FailoverTransport] = weakref.WeakSet()


def _begin_anew() -> None:
    for transport in list(_OPEN):
        transport.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
