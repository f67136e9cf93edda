"""Engine over grpc.aio: one event loop on a thread of its own, a small pool for models that run long."""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from server.engine.base import Counters, Prepared, RunCounts
from server.engine.python.pipeline import FRAME_BYTES, Pipeline
from server.engine.python.reaper import Reaper
from server.engine.python.recorder import Recorder
from server.engine.python.runtime import Runtime, prepare
from server.engine.python.serving import Installed, build
from server.engine.python.shadows import Shadows
from server.engine.python.tallies import Identity, Tallies
from server.engine.python.transport import Transport
from server.plan import DEFAULT_SHADOW_BOUNDS, Plan, Role, ShadowBounds, VersionPlan
from server.tap import Tap
from tickserve.listening.connections import DEFAULT_BOUNDS, ConnectionBounds
from tickserve.listening.listeners import Listeners, Tls
from tickserve.listening.tls import Certificates

_T = TypeVar("_T")
_Key = tuple[str, str, bytes, str]


class PythonEngine:
    """Executes plans with grpc.aio and ONNX Runtime's Python API.

    Prepared runtimes wait in `_prepared` until a plan that names them is installed; installed ones that a new plan no
    longer names go to the reaper.
    """

    name = "python"

    def __init__(
        self,
        listeners: Sequence[str],
        *,
        pool_threads: int,
        max_in_flight: int,
        max_in_flight_per_client: int,
        max_message_bytes: int,
        connections: ConnectionBounds = DEFAULT_BOUNDS,
        shadows: ShadowBounds = DEFAULT_SHADOW_BOUNDS,
        socket_mode: int = 0o660,
        certificates: Certificates | None = None,
    ) -> None:
        self._pool = ThreadPoolExecutor(pool_threads, thread_name_prefix="run")
        self._shadows = Shadows(shadows, max_message_bytes - FRAME_BYTES)
        self._pipeline = Pipeline(
            self._pool,
            shadows=self._shadows,
            max_in_flight=max_in_flight,
            max_in_flight_per_client=max_in_flight_per_client,
            max_message_bytes=max_message_bytes,
        )
        tls = Tls(certificates, lambda identity: identity.client_ca) if certificates is not None else None
        self._transport = Transport(
            Listeners("listen", listeners, connections, socket_mode, tls),
            self._pipeline,
            max_message_bytes=max_message_bytes,
        )
        self._reaper = Reaper()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="data", daemon=True)
        self._lock = threading.Lock()
        self._is_serving = False
        # Of a clock that no thread has: nothing has run yet.
        self._clock = -1
        self._prepared: dict[_Key, Runtime] = {}
        self._installed: dict[_Key, Runtime] = {}
        #: Of shadows: what was installed, and what their thread runs.
        self._apart: dict[_Key, tuple[Runtime, Runtime]] = {}
        self._tallies = Tallies()
        self._tap: Tap | None = None
        self.producers = 2

    def open_tap(self, tap: Tap) -> None:
        """Records requests there."""
        self._tap = tap
        self._pipeline.recorder = Recorder(tap, 0)
        self._shadows.recorder = Recorder(tap, 1)

    def start(self) -> Sequence[str]:
        """Opens the listeners and returns their addresses. Raises ConfigurationError where one cannot be bound."""
        self._thread.start()
        self._is_serving = True
        self._clock = self._on_loop(lambda: time.pthread_getcpuclockid(threading.get_ident()))
        self._reaper.start()
        self._shadows.start()
        return asyncio.run_coroutine_threadsafe(self._transport.start(), self._loop).result()

    def prepare(self, version: VersionPlan) -> Prepared:
        """Loads, warms and checks a version on the calling thread. Raises PackageError."""
        runtime, prepared = prepare(version)
        with self._lock:
            self._prepared[version.key] = runtime
        return prepared

    def install(self, plan: Plan) -> None:
        """Makes `plan` the installed one; returns when requests read it."""
        with self._lock:
            keys = {version.key for model in plan.models.values() for version in model.versions.values()}
            runtimes = {key: self._prepared.get(key) or self._installed[key] for key in keys}
            placed = {} if self._tap is None else self._tap.place(plan)
            apart = self._shadowed(plan, runtimes)
            installed = build(
                plan,
                lambda version: runtimes[version.key],
                self._tallies.of,
                placed,
                lambda version: apart[version.key][1],
            )
            self._on_loop(lambda: self._swap(installed))
            self._tallies.keep(
                {
                    Identity(name, serving.version.version, serving.role): serving
                    for name, model in installed.models.items()
                    for serving in (*model.versions.values(), *model.helpers)
                }
            )
            if self._tap is not None:
                self._tap.keep(plan, placed)
            retired = [runtime for key, runtime in self._installed.items() if runtimes.get(key) is not runtime]
            self._prepared = {key: runtime for key, runtime in self._prepared.items() if key not in keys}
            self._installed = runtimes
            retired += [mine for key, (_, mine) in self._apart.items() if key not in apart or apart[key][1] is not mine]
            self._apart = apart
        self._reaper.retire(retired)

    def discard(self, version: VersionPlan) -> None:
        """Forgets a prepared version that is not installed."""
        with self._lock:
            runtime = self._prepared.pop(version.key, None)
        self._reaper.retire([] if runtime is None else [runtime])

    def counters(self) -> Counters:
        """A copy of all counters."""
        pipeline = self._pipeline
        with self._lock:
            tallies, folded = self._tallies.read()
        shadows = {each: tally for each, tally in tallies if each.role is Role.SHADOW}
        return Counters(
            versions=[tally.copy(*identity) for identity, tally in tallies],
            folded=folded,
            refused=pipeline.refused.copy(),
            in_flight=pipeline.in_flight,
            loop_lag_seconds=pipeline.lag_ns / 1e9,
            faults=pipeline.fault_count,
            worker_busy_ns=[self._busy_ns()],
            shadow_dropped={
                (each.model, each.version): tally.dropped + tally.expired for each, tally in shadows.items()
            },
            shadow_queued=self._shadows.queued,
        )

    def runs(self, versions: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], RunCounts]:
        """How some versions have done."""
        with self._lock:
            return self._tallies.runs(versions)

    def take_faults(self) -> Sequence[str]:
        """Tracebacks since the last call."""
        kept = (self._pipeline.faults, self._shadows.faults)
        return [faults.popleft() for faults in kept for _ in range(len(faults))]

    def is_alive(self, within_s: float) -> bool:
        """Whether the event loop makes a pass within `within_s` seconds."""
        passed = threading.Event()
        self._loop.call_soon_threadsafe(passed.set)
        return passed.wait(within_s)

    def has_died(self) -> bool:
        """Whether the event loop's thread has ended though nobody told it to."""
        return self._is_serving and not self._thread.is_alive()

    def set_ready(self, *, is_ready: bool) -> None:
        """What health checks and ServerReady say."""
        self._on_loop(lambda: self._transport.set_ready(is_ready))

    def stop(self, grace_s: float) -> None:
        """Refuses new requests, answers those in flight for up to `grace_s` seconds, and ends; once."""
        if not self._thread.is_alive():
            return
        self._is_serving = False
        asyncio.run_coroutine_threadsafe(self._transport.stop(grace_s), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._shadows.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._reaper.stop()

    def _shadowed(self, plan: Plan, runtimes: Mapping[_Key, Runtime]) -> dict[_Key, tuple[Runtime, Runtime]]:
        """The runtimes of the plan's shadows, each with the one that it was made of."""
        apart = {}
        for model in plan.models.values():
            if model.shadow is not None and model.shadow.version in model.versions:
                key = model.versions[model.shadow.version].key
                before = self._apart.get(key)
                loaded = runtimes[key]
                apart[key] = before if before is not None and before[0] is loaded else (loaded, loaded.apart())
        return apart

    def _busy_ns(self) -> int:
        """CPU time of the event loop's thread; 0 where it has ended."""
        try:
            return time.clock_gettime_ns(self._clock)
        except OSError:
            return 0

    def _swap(self, installed: Installed) -> None:
        self._pipeline.installed = installed

    def _on_loop(self, call: Callable[[], _T]) -> _T:
        """Runs `call` between two requests and returns its result."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
                future.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return future.result()
