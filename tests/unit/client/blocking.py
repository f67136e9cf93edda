"""The asyncio client behind the face of the blocking one, so that one suite holds for both."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any, Protocol, Self, TypeVar

from tickserve import Client, aio

_T = TypeVar("_T")


class Connect(Protocol):
    """Makes a client; takes what `tickserve.Client` takes."""

    def __call__(self, address: str, **options: Any) -> Client: ...


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """What the coroutine comes to."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)
        except CancelledError:
            raise AssertionError("a cancellation that no one asked for") from None

    def tasks(self) -> int:
        """How many tasks there are, but for the one that counts."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return self.run(count())

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class BlockingClient:
    """tickserve.aio.Client, waited for."""

    def __init__(self, loop: Loop, address: str, **options: Any) -> None:
        self._loop = loop
        self._client = aio.Client(address, **options)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        return self._loop.run(self._client.predict(*arguments, **options))

    def get_model(self, *arguments: Any, **options: Any) -> Any:
        return self._loop.run(self._client.get_model(*arguments, **options))

    def wait_ready(self, timeout_s: float) -> None:
        self._loop.run(self._client.wait_ready(timeout_s))

    def stream(self, **options: Any) -> "BlockingStream":
        async def begin() -> aio.Stream:
            return self._client.stream(**options)

        return BlockingStream(self._loop, self._loop.run(begin()))

    def predict_many(self, requests: Iterable[Any], **options: Any) -> Iterator[Any]:
        yield from _results(self._loop, self._client.predict_many(requests, **options))

    def close(self) -> None:
        self._loop.run(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlockingStream:
    """tickserve.aio.Stream, waited for."""

    def __init__(self, loop: Loop, stream: aio.Stream) -> None:
        self._loop = loop
        self._stream = stream

    def predict(self, *arguments: Any, **options: Any) -> Any:
        return self._loop.run(self._stream.predict(*arguments, **options))

    def predict_many(self, requests: Iterable[Any]) -> Iterator[Any]:
        yield from _results(self._loop, self._stream.predict_many(requests))

    def close(self) -> None:
        self._loop.run(self._stream.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _results(loop: Loop, results: Any) -> Iterator[Any]:
    async def following() -> Any:
        return await anext(results, results)

    try:
        while (result := loop.run(following())) is not results:
            yield result
    finally:
        loop.run(results.aclose())
