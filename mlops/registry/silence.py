"""Connections to PostgreSQL that give up where nothing comes back: frozen, or on a machine that is gone."""

import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.waiting import Ready
from sqlalchemy import Engine, event

#: How long a pooled connection may take to say that it is alive.
_ALIVE_S = 10.0


class AnsweringConnection(psycopg.Connection[Any]):
    """Ends itself where the server says nothing for `silence_s` seconds while something is asked; None is no bound.

    What threads wait for a network to tell them is minutes (TCP), or for ever (a process that was stopped).
    """

    silence_s: float | None = None

    def wait(self, gen: Any, *arguments: Any, **named: Any) -> Any:
        """Waits as every connection does. Raises OperationalError after the time, and the connection is closed."""
        return super().wait(gen if self.silence_s is None else self._answered(gen, self.silence_s), *arguments, **named)

    def _answered(self, gen: Generator[Any, Any, Any], silence_s: float) -> Generator[Any, Any, Any]:
        end = time.monotonic() + silence_s
        try:
            awaited = next(gen)
            while True:
                ready = yield awaited
                if ready != Ready.NONE:
                    end = time.monotonic() + silence_s
                elif time.monotonic() > end:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"it has not answered for {silence_s:g} s")
                awaited = gen.send(ready)
        except StopIteration as done:
            return done.value


def answer_or_end(engine: Engine) -> None:
    """Makes the connections of an engine such ones: bounded while they lie in the pool, and as told outside of it."""

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, named: Any) -> AnsweringConnection:
        return AnsweringConnection.connect(*arguments, **named)

    @event.listens_for(engine, "checkin")
    def kept(connection: AnsweringConnection | None, _record: Any) -> None:
        if connection is not None:
            connection.silence_s = _ALIVE_S

    @event.listens_for(engine, "checkout")
    def taken(connection: AnsweringConnection, _record: Any, _proxy: Any) -> None:
        connection.silence_s = None
