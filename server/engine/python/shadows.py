"""Copies of requests for shadows: made once the answer has left, and run on one thread that gives way to all others.

Reading, checking and short runs hold the interpreter's lock for most of their time. A thread of low priority that is
put off the processor with the lock in its hands keeps all others waiting for as long; so such parts have the engine's
own priority and are kept short and apart by rests. Runs that take longer leave the interpreter: they have the lowest
priority there is, on a thread of their own, as a priority that was lowered cannot be raised again.
"""

import contextlib
import os
import queue
import threading
import time
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
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

#: Longer runs leave the interpreter at the lowest priority.
_SHORT_NS = 200_000
#: A copy that is older is given up: what it is counted in may be somebody else's some minutes later.
MAX_WAIT_NS = 60_000_000_000
_NICENESS = 19
#: How often a thread without work looks whether the process ends.
_LOOK_S = 0.5
#: What the thread rests after each copy: as long as it took, within these bounds, so that for at least half of the time
#: the interpreter's lock is not its own.
_LEAST_REST_S, _MOST_REST_S = 50e-6, 1e-3


class Copy(NamedTuple):
    """A request that a live version has had, on its way to the shadow.

    `compared` is the block of the counters page where what the live version made of it is counted, in the columns
    `live`. Nothing here holds that version's runtime: it may leave the plan meanwhile.
    """

    shadow: Serving
    codec: Codec[Any, Any]
    pending: Any
    asked: Asked
    drawn_id: str
    size_bytes: int
    compared: int | None
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


def compared_columns(serving: Serving, job: Job[Any, Any] | None, refusal: TickserveError | None) -> tuple[int, ...]:
    """What an outcome counts in beside that it was a request, where a live version and its shadow are compared."""
    edge_ns = serving.model.latency_edge_ns
    is_over = job is not None and 0 < edge_ns < job.cpu_ns
    return (*outcome(job, refusal), RUN_OVER_EDGE) if is_over else outcome(job, refusal)


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
        self._lowest = ThreadPoolExecutor(1, thread_name_prefix="shadow-run", initializer=_lower)
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
        # Its thread ends with this one, whichever way that ends.
        with self._lowest:
            while self._take_next():
                pass

    def _next(self) -> Copy | None:
        """The next copy, as soon as there is one; None where no more is to be run."""
        while True:
            try:
                return self._queue.get(timeout=_LOOK_S)
            except queue.Empty:
                if not threading.main_thread().is_alive():
                    return None

    def _take_next(self) -> bool:
        """Runs or drops the next copy, and rests; says whether there was one.

        Nothing of it is held while the thread waits for the one after: it may be the last that holds a runtime.
        """
        copy = self._next()
        if copy is None:
            return False
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
        spent_s = (time.perf_counter_ns() - started) / 1e9
        # The reaper waits a while yet, longer than this thread rests.
        copy.shadow.runtime.release()
        time.sleep(min(max(_LEAST_REST_S, spent_s), _MOST_REST_S))
        return True

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
            is_short = shape.values * serving.runtime.ns_per_value <= _SHORT_NS
            answer = job.run() if is_short else job.run_on(self._lowest)
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
            columns = compared_columns(serving, job, refusal)
            self.recorder.record_copy(
                copy.compared, copy.live, serving, columns, copy.asked, copy.drawn_id, job, wait, refusal
            )


def _lower() -> None:
    """Gives this thread the lowest priority where it may."""
    with contextlib.suppress(OSError):
        # On Linux this is the priority of one thread.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
