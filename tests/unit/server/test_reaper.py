"""Retired sessions are freed on the reaper's thread, never by one that answers requests."""

import threading
import time
import weakref
from pathlib import Path

import pytest

from server.engine.python import PythonEngine
from server.engine.python.reaper import Reaper
from server.engine.python.runtime import Runtime, prepare
from server.models import DirectorySource, LocalState, Reconciler
from tests.support.models import echo_model, version_plan
from tests.support.packages import add_constant


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return prepare(version_plan(tmp_path, echo_model()))[0]


def wait_until(condition: object, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    done = threading.Event()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        done.wait(0.02)


def test_idle_runtime_is_freed_by_the_reaper(tmp_path: Path) -> None:
    freed_on: list[str] = []
    runtime = prepare(version_plan(tmp_path, echo_model()))[0]
    weakref.finalize(runtime, lambda: freed_on.append(threading.current_thread().name))
    reaper = Reaper()
    reaper.start()
    retired = [runtime]
    del runtime
    reaper.retire(retired)
    retired.clear()
    wait_until(lambda: freed_on)
    reaper.stop()
    assert freed_on == ["reaper"]


def test_runtime_in_use_is_kept_until_its_last_request(runtime: Runtime) -> None:
    seen = weakref.ref(runtime)
    runtime.take()
    reaper = Reaper()
    reaper.start()
    reaper.retire([runtime])
    idle = prepare(version_plan(runtime.version.path / "other", echo_model()))[0]
    idle_seen = weakref.ref(idle)
    reaper.retire([idle])
    del idle
    wait_until(lambda: idle_seen() is None)
    assert seen() is not None
    assert runtime in [kept for kept, _ in reaper._retired]
    runtime.release()
    wait_until(lambda: reaper._retired == [])
    reaper.stop()


def test_engine_hands_what_a_new_plan_leaves_out_to_the_reaper(tmp_path: Path) -> None:
    engine = PythonEngine(
        ["127.0.0.1:0"], pool_threads=1, max_in_flight=8, max_in_flight_per_client=8, max_message_bytes=1 << 20
    )
    engine.start()
    models = tmp_path / "models"
    models.mkdir()
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(tmp_path))
    add_constant(models, 1.0)
    reconciler.reconcile()
    freed_on: list[str] = []
    (first,) = engine._installed.values()
    weakref.finalize(first.session, lambda: freed_on.append(threading.current_thread().name))
    del first
    for value in (2.0, 3.0):
        # The version before the one that answers stays warm.
        assert freed_on == []
        add_constant(models, value)
        reconciler.reconcile()
    wait_until(lambda: freed_on)
    engine.stop(1.0)
    assert freed_on == ["reaper"]
