"""The thread of shadows: what it holds, what it gives up, and how it ends."""

import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import grpc
import pytest

from mlops.package import EventTimeRule, InputRules
from mlops.routing import MAX_HASH
from server.engine.python import PythonEngine, prediction, shadows
from server.engine.python.call import Asked
from server.engine.python.runtime import Runtime, Tally, prepare
from server.engine.python.serving import Installed, Serving, build
from server.engine.python.shadows import Copy, Shadows
from server.plan import DEFAULT_SHADOW_BOUNDS, ModelPlan, Plan, Role, Segment, Shadow, Split
from tests.conformance.requests import PREDICT, predict
from tests.support.models import echo_model, failing_model, version_plan
from tests.support.waiting import until
from tickserve.v1 import prediction_pb2 as pb

BOUND_S = 60.0


@pytest.fixture
def thread() -> Iterator[Shadows]:
    """Started by the test."""
    made = Shadows(DEFAULT_SHADOW_BOUNDS, 1 << 20)
    yield made
    made.stop()


def installed(folder: Path, model: bytes, rules: InputRules) -> tuple[Installed, dict[tuple[str, Role], Tally]]:
    """Two equal versions, the second of them the shadow of the first."""
    plans = {number: version_plan(folder, model, version=number, input_rules=rules) for number in "12"}
    runtimes = {number: prepare(plan)[0] for number, plan in plans.items()}
    tallies: dict[tuple[str, Role], Tally] = {}
    split = Split(b"", (Segment(MAX_HASH, "1", Role.STABLE),))
    made = build(
        Plan(1, {"echo": ModelPlan("echo", plans, split, shadow=Shadow("2", 10_000, b""))}),
        lambda version: runtimes[version.version],
        lambda _, version, role: tallies.setdefault((version, role), Tally()),
    )
    return made, tallies


def copy_of(live: Serving, *, checked_at_unix_ns: int = 0, event_time_unix_ns: int = 0, at: int | None = None) -> Copy:
    request = pb.PredictRequest(features=[0.5, 2, 3], event_time_unix_ns=event_time_unix_ns)
    assert live.shadow is not None
    live.shadow.runtime.take()
    return Copy(
        shadow=live.shadow,
        codec=prediction.CODEC,
        pending=(request, "id"),
        asked=Asked("id", "", False, ()),
        drawn_id="drawn",
        size_bytes=100,
        compared=None,
        live=(),
        checked_at_unix_ns=checked_at_unix_ns,
        at=time.perf_counter_ns() if at is None else at,
    )


def test_event_times_are_held_against_the_clock_of_the_live_request(thread: Shadows, tmp_path: Path) -> None:
    """Else what waited for its turn would be stale for the shadow alone."""
    rules = InputRules(event_time=EventTimeRule(required=True, max_age_s=1.0))
    found, tallies = installed(tmp_path, echo_model(), rules)
    live = found.models["echo"].segments[0][1]
    hour_ago = time.time_ns() - 3600 * 10**9
    thread.start()
    thread.offer(copy_of(live, checked_at_unix_ns=hour_ago + 10**6, event_time_unix_ns=hour_ago))
    thread.offer(copy_of(live, checked_at_unix_ns=hour_ago + 10**10, event_time_unix_ns=hour_ago))
    tally = tallies["2", Role.SHADOW]
    until(lambda: tally.answered + sum(tally.errors.values()), lambda done: done == 2)
    assert (tally.answered, tally.errors) == (1, {"STALE_INPUT": 1})


def test_a_copy_that_waited_too_long_is_dropped_and_counted(thread: Shadows, tmp_path: Path) -> None:
    """The block that it would be counted in may be another version's by then."""
    found, tallies = installed(tmp_path, echo_model(), InputRules())
    live = found.models["echo"].segments[0][1]
    now = time.perf_counter_ns()
    thread.offer(copy_of(live, at=now - shadows.MAX_WAIT_NS - 1))
    thread.offer(copy_of(live, at=now))
    assert thread.queued == 2
    thread.start()
    tally = tallies["2", Role.SHADOW]
    until(lambda: tally.answered)
    assert (tally.expired, tally.dropped, tally.answered, thread.queued) == (1, 0, 1, 0)
    assert until(lambda: live.shadow and live.shadow.runtime.in_flight == 0)


def test_after_a_failure_the_next_copy_has_its_turn(
    thread: Shadows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, tallies = installed(tmp_path, failing_model(), InputRules())
    live = found.models["echo"].segments[0][1]
    original = Shadows._repeat
    calls = []

    def broken(self: Shadows, copy: Copy, started: int) -> None:
        calls.append(copy)
        if len(calls) == 1:
            raise RuntimeError("of the thread itself")
        original(self, copy, started)

    monkeypatch.setattr(Shadows, "_repeat", broken)
    thread.start()
    for _ in range(2):
        thread.offer(copy_of(live))
    until(lambda: tallies["2", Role.SHADOW].answered)
    assert ["of the thread itself" in fault for fault in thread.faults] == [True]
    assert until(lambda: live.shadow and live.shadow.runtime.in_flight == 0)


def test_what_waits_at_the_end_is_dropped(thread: Shadows, tmp_path: Path) -> None:
    found, tallies = installed(tmp_path, echo_model(), InputRules())
    live = found.models["echo"].segments[0][1]
    for _ in range(3):
        thread.offer(copy_of(live))
    thread._is_stopping = True
    thread.start()
    tally = tallies["2", Role.SHADOW]
    until(lambda: tally.expired == 3)
    thread.offer(copy_of(live))
    assert (tally.answered, tally.dropped) == (0, 1)


def test_a_version_that_left_is_freed_though_its_copy_was_the_last(tmp_path: Path) -> None:
    engine = PythonEngine(
        ["127.0.0.1:0"], pool_threads=1, max_in_flight=8, max_in_flight_per_client=8, max_message_bytes=1 << 20
    )
    (address,) = engine.start()
    try:
        plans = {number: version_plan(tmp_path, echo_model(), version=number) for number in "12"}
        for plan in plans.values():
            engine.prepare(plan)
        split = Split(b"", (Segment(MAX_HASH, "1", Role.STABLE),))
        model = ModelPlan("echo", plans, split, shadow=Shadow("2", 10_000, b""))
        engine.install(Plan(1, MappingProxyType({"echo": model})))
        with grpc.insecure_channel(address) as channel:
            channel.unary_unary(PREDICT)(predict([1, 2, 3]), timeout=BOUND_S)
        until(lambda: [each.answered for each in engine.counters().versions if each.role is Role.SHADOW] == [1])
        seen = [weakref.ref(runtime) for pair in engine._apart.values() for runtime in pair]
        assert len(seen) == 2
        engine.install(Plan(2, MappingProxyType({"echo": ModelPlan("echo", {"1": plans["1"]}, split)})))
        until(lambda: [each() for each in seen] == [None, None])
    finally:
        engine.stop(0.0)


def test_a_runtime_apart_has_buffers_of_its_own(tmp_path: Path) -> None:
    runtime, _ = prepare(version_plan(tmp_path, echo_model()))
    other: Runtime = runtime.apart()
    ours, theirs = runtime.session.bound_outputs, other.session.bound_outputs
    assert ours is not None
    assert theirs is not None
    assert ours[0].ctypes.data != theirs[0].ctypes.data
    assert other.ns_per_value == runtime.ns_per_value


def test_a_process_that_forgets_to_stop_it_ends_all_the_same() -> None:
    code = (
        "from server.engine.python.shadows import Shadows\n"
        "from server.plan import DEFAULT_SHADOW_BOUNDS\n"
        "Shadows(DEFAULT_SHADOW_BOUNDS, 1024).start()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=BOUND_S, check=False).returncode == 0


def test_a_copy_that_waits_holds_no_live_runtime(thread: Shadows, tmp_path: Path) -> None:
    """Else the thread of shadows might be the one that frees it, which takes long and holds the interpreter's lock."""
    found, _ = installed(tmp_path, echo_model(), InputRules())
    live = found.models["echo"].segments[0][1]
    seen = weakref.ref(live)
    thread.offer(copy_of(live))
    del live, found
    assert seen() is None
    assert thread.queued == 1
