"""One connection of the Rust extension that an event loop drives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from tickserve.client.native_channel import Failed

#: A message, how a call failed, or None at the end of a stream.
Outcome: TypeAlias = "bytes | Failed | None"


class DrivenLink:
    """One connection on the running loop.

    Invariants: the loop reads the socket as long as the connection lives, and it is among `links` as long; a number is
    waited for until its call has ended or is taken back.
    """

    def __init__(self, link: Any, links: set[DrivenLink]) -> None:
        self.link = link
        self._loop = asyncio.get_running_loop()
        self._links = links
        self._fd: int = link.fileno()
        self._is_writing = False
        self._calls: dict[int, asyncio.Future[Outcome]] = {}
        self._streams: dict[int, Callable[[Outcome], None]] = {}
        #: Deadlines of the calls, on the loop's clock; `_timer` is due no later than the first of them.
        self._ends: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        links.add(self)
        self._loop.add_reader(self._fd, self.turn)
        self.turn()

    @property
    def is_usable(self) -> bool:
        """Whether new calls may begin here."""
        return bool(self.link.is_usable)

    async def call(self, method: Any, request: bytes, timeout_s: float) -> Outcome:
        """What a unary call comes to."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        number, events = self.link.call(method, request, timeout_s)
        self._calls[number] = future
        self._settle(events)
        if future.done():
            return future.result()
        self._expect(number, timeout_s)
        try:
            return await future
        finally:
            self._ends.pop(number, None)
            if self._calls.pop(number, None) is not None:
                self.link.cancel(number)
                self._settle(())

    def stream(self, method: Any, take: Callable[[Outcome], None]) -> int:
        """Begins a stream, whose messages and end go to `take`; returns its number."""
        number, events = self.link.stream(method)
        self._streams[number] = take
        self._settle(events)
        return int(number)

    def send(self, number: int, message: bytes) -> None:
        """Sends a message of a stream."""
        self.link.send(number, message)
        self._settle(())

    def finish(self, number: int) -> None:
        """Says that no more will be sent."""
        self.link.finish(number)
        self._settle(())

    def cancel(self, number: int) -> None:
        """Takes a stream back."""
        if self._streams.pop(number, None) is not None:
            self.link.cancel(number)
            self._settle(())

    def turn(self) -> None:
        """Reads and writes what there is."""
        self._settle(self.link.turn())

    def _settle(self, events: Any) -> None:
        """Hands over what calls have come to, and has the loop wait for what the connection needs next."""
        for number, outcome in events:
            future = self._calls.pop(number, None)
            if future is not None:
                # Its task may have been cancelled just now.
                if not future.done():
                    future.set_result(outcome)
            elif (take := self._streams.get(number)) is not None:
                if type(outcome) is not bytes:
                    del self._streams[number]
                take(outcome)
        if self.link.is_over:
            if self in self._links:
                self._links.remove(self)
                self._loop.remove_reader(self._fd)
                self._write(False)
        elif self.link.wants_write != self._is_writing:
            self._write(not self._is_writing)

    def _write(self, is_writing: bool) -> None:
        if is_writing:
            self._loop.add_writer(self._fd, self.turn)
        elif self._is_writing:
            self._loop.remove_writer(self._fd)
        self._is_writing = is_writing

    def _expect(self, number: int, timeout_s: float) -> None:
        """Minds the deadline of a call. One timer for all: most calls are answered long before."""
        end = self._ends[number] = self._loop.time() + timeout_s
        if self._timer is not None:
            if self._timer.when() <= end:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(end, self._expire)

    def _expire(self) -> None:
        """Ends the calls whose deadlines have passed, and waits for the next deadline."""
        # A loop may call a little early, by its clock's resolution.
        now = self._loop.time() + 1e-6
        for number in [number for number, end in self._ends.items() if end <= now]:
            del self._ends[number]
            future = self._calls.pop(number, None)
            if future is not None and not future.done():
                future.set_result(self.link.expire(number))
        self._timer = self._loop.call_at(min(self._ends.values()), self._expire) if self._ends else None
        self._settle(())
