"""Client processes of a soak: requests at fixed times whatever comes back, every answer held against an offline run."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np

#: Distinct rows that are sent in turn.
ROWS = 16
_TIMEOUT_S, _START_S = 10.0, 60.0
_Joined = TypeVar("_Joined")


@dataclass(frozen=True)
class Answers:
    """One entry a request, arrays of shape (requests,): version 0 where it failed; latency from when it was due."""

    sent_ns: np.ndarray
    received_ns: np.ndarray
    latency_us: np.ndarray
    version: np.ndarray
    is_right: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All of them."""
        names = cls.__dataclass_fields__
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@contextmanager
def processes(
    target: Callable[..., None], arguments: Sequence[tuple[Any, ...]], joined: Callable[[list[Any]], _Joined]
) -> Iterator[Callable[[], _Joined]]:
    """A process for each of the arguments, which go on until what is yielded ends them and joins what they give.

    `target` takes, after its arguments, an event that ends it, a barrier to wait at before it begins, and a queue.
    """
    context = multiprocessing.get_context("spawn")
    stopping, results, ready = context.Event(), context.Queue(), context.Barrier(len(arguments) + 1)
    started = [
        context.Process(target=target, args=(*each, stopping, ready, results), daemon=True) for each in arguments
    ]
    for process in started:
        process.start()
    ready.wait(_START_S)

    def stop() -> _Joined:
        stopping.set()
        return joined([results.get(timeout=60) for _ in started])

    try:
        yield stop
    finally:
        stopping.set()
        for process in started:
            process.join(5)
            process.kill()


def run_client(kind: str, address: str, rate: float, expected: Any, stopping: Any, ready: Any, results: Any) -> None:
    """Sends until told to stop, then hands over what came back; `kind` is unary or stream."""
    from benchmarks.soak.versions import MODEL
    from tickserve.client import Client

    entries: list[tuple[int, int, float, int, bool]] = []
    interval_ns = int(1e9 / rate)
    with Client(address, model=MODEL, timeout_s=_TIMEOUT_S) as client:
        # The stream ends with the client.
        send = client.predict if kind == "unary" else client.stream().predict
        send(expected.rows[0])
        ready.wait(60)
        due = time.monotonic_ns()
        count = 0
        while not stopping.is_set():
            due += interval_ns
            pause_ns = due - time.monotonic_ns()
            if pause_ns > 0:
                time.sleep(pause_ns / 1e9)
            row = count % ROWS
            count += 1
            try:
                answer = send(expected.rows[row])
            except Exception:  # noqa: BLE001 - whatever it is, it was lost
                now = time.monotonic_ns()
                entries.append((due, now, (now - due) / 1e3, 0, False))
                continue
            now = time.monotonic_ns()
            version = int(answer.version)
            is_right = np.array(answer.values, np.float32).tobytes() == expected.answers[version][row]
            entries.append((due, now, (now - due) / 1e3, version, is_right))
    columns = list(zip(*entries, strict=True))
    results.put(
        Answers(
            np.array(columns[0], np.int64),
            np.array(columns[1], np.int64),
            np.array(columns[2], np.float64),
            np.array(columns[3], np.int64),
            np.array(columns[4], bool),
        )
    )
