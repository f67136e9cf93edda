"""Copies of requests for shadows: made once the answer has left, and run on one thread that gives way to all others."""

import contextlib
import os
import queue
import threading
import time
import traceback
from collections import deque
from typing import Any, NamedTuple

from mlops.routing import is_sampled
from mlops.tap.layout import RUN_OVER_EDGE
from server.engine import texts
from server.engine.python.call import Asked
from server.engine.python.job import Codec, Job, Repeat
from server.engine.python.recorder import Recorder, outcome
from server.engine.python.serving import Serving
from server.plan import ShadowBounds
from tickserve.errors import PredictionError, TickserveError

#: A copy that is older is given up: what it is counted in may be somebody else's some minutes later.
MAX_WAIT_NS = 60_000_000_000
_NICENESS = 19
#: How often a thread without work looks whether the process ends.
_LOOK_S = 0.5
#: What the thread rests after each copy: as long as it took, within these bounds, so that for at least half of the time
#: the interpreter's lock is not its own.
_LEAST_REST_S, _MOST_REST_S = 50e-6, 1e-3


class Copy(NamedTuple):
    """A request that a live version has had, on its way to the shadow; `live` are the columns that it counts in."""

    shadow: Serving
    codec: Codec[Any, Any]
    pending: Any
    asked: Asked
    drawn_id: str
    size_bytes: int
    #: The version that answered it.
    by: Serving
    live: tuple[int, ...]
    checked_at_unix_ns: int
    #: When its answer had left, on the monotonic clock.
    at: int


def shadow_of(serving: Serving, asked: Asked, drawn_id: str) -> Serving | None:
    """The shadow that gets a copy of a request, if any: a sample, by its id, of what the split routed."""
    shadow = serving.shadow
    plan = serving.model.shadow
    if shadow is None or plan is None or asked.is_pinned:
        return None
    request_id = (asked.request_id or drawn_id).encode()
    return shadow if is_sampled(plan.salt, request_id, plan.fraction_bp) else None


def live_columns(serving: Serving, job: Job[Any, Any], refusal: TickserveError | None) -> tuple[int, ...]:
    """What the live version's outcome counts in beside that it was a request."""
    edge_ns = serving.model.latency_edge_ns
    return (*outcome(job, refusal), *_over_edge(job, edge_ns))


class Shadows:
    """The queue and the thread of shadows of one server.

    Invariants: `offer` runs on the engine's thread alone, so what it counts has one writer, and so has what the thread
    of shadows counts; what waits is the difference. The queue never blocks: what finds no room is dropped and counted.
    """

    def __init__(self, bounds: ShadowBounds, max_answer_bytes: int) -> None:
        self._bounds = bounds
        self._max_answer_bytes = max_answer_bytes
        self._queue: queue.SimpleQueue[Copy | None] = queue.SimpleQueue()
        self._offered = self._offered_bytes = 0
        self._taken = self._taken_bytes = 0
        self._is_stopping = False
        # No daemon: the interpreter must not end under a run of the model.
        self._thread = threading.Thread(target=self._run, name="shadows", daemon=False)
        self.recorder: Recorder | None = None
        #: Tracebacks for the log. They are no faults of answers, which is what those of the engine are.
        self.faults: deque[str] = deque(maxlen=32)

    @property
    def queued(self) -> int:
        """Copies that wait."""
        return self._offered - self._taken

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, wait_s: float = 1.0) -> None:
        """Ends the thread after the copy that it is at; what waits is dropped. Waits for it up to `wait_s` seconds."""
        self._is_stopping = True
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(wait_s)

    def offer(self, copy: Copy) -> None:
        """Takes a copy where there is room. On the engine's thread, once the answer has left."""
        bounds, waiting_bytes = self._bounds, self._offered_bytes - self._taken_bytes
        if self._is_stopping or self.queued >= bounds.requests or waiting_bytes + copy.size_bytes > bounds.size_bytes:
            copy.shadow.tally.dropped += 1
            copy.shadow.runtime.give_back()
            return
        self._offered += 1
        self._offered_bytes += copy.size_bytes
        self._queue.put(copy)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            # On Linux this is the priority of one thread.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while True:
            try:
                copy = self._queue.get(timeout=_LOOK_S)
            except queue.Empty:
                if threading.main_thread().is_alive():
                    continue
                return
            if copy is None:
                return
            started = time.perf_counter_ns()
            self._taken += 1
            self._taken_bytes += copy.size_bytes
            if self._is_stopping or started - copy.at > MAX_WAIT_NS:
                copy.shadow.tally.expired += 1
            else:
                try:
                    self._repeat(copy, started)
                except Exception:  # noqa: BLE001 - whatever it is, the next copy has its turn, and the log the traceback
                    self.faults.append(traceback.format_exc())
            runtime, spent_s = copy.shadow.runtime, (time.perf_counter_ns() - started) / 1e9
            # Before it is said that the runtime is free, so that this thread never holds the last of it.
            del copy
            runtime.release()
            del runtime
            time.sleep(min(max(_LEAST_REST_S, spent_s), _MOST_REST_S))

    def _repeat(self, copy: Copy, started: int) -> None:
        """Gives the shadow what the live version had; counts and records what it makes of it."""
        serving, codec, tally = copy.shadow, copy.codec, copy.shadow.tally
        job: Repeat[Any, Any] | None = None
        refusal: TickserveError | None = None
        wait = started - copy.at
        try:
            shape = codec.shape(serving, copy.pending)
            job = Repeat(codec, serving, copy.pending, shape, started)
            job.checked_at_unix_ns = copy.checked_at_unix_ns
            job.is_timed = serving.model.latency_edge_ns > 0
            answer = job.run()
            if len(answer) > self._max_answer_bytes:
                raise texts.ANSWER_TOO_LONG.error(size=len(answer), bound=self._max_answer_bytes)
            job.count(wait)
        except PredictionError as error:
            refusal = error
        except Exception:  # noqa: BLE001 - the shadow's own failure, like one of a version that answers
            self.faults.append(traceback.format_exc())
            refusal = texts.INTERNAL.error()
        if refusal is not None:
            tally.count_error(refusal.reason or "")
        if job is not None and job.call is not None and job.call.findings.violations:
            tally.count_violations(job.call.findings.violations)
        if self.recorder is not None:
            edge_ns = serving.model.latency_edge_ns
            columns = (*outcome(job, refusal), *_over_edge(job, edge_ns))
            self.recorder.record_copy(
                copy.by, copy.live, serving, columns, copy.asked, copy.drawn_id, job, wait, refusal
            )


def _over_edge(job: Job[Any, Any] | None, edge_ns: int) -> tuple[int, ...]:
    return (RUN_OVER_EDGE,) if job is not None and edge_ns and job.cpu_ns > edge_ns else ()
