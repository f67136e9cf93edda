"""A shadow gets copies of what was answered: the sample that its hash says, counted in pairs, and at nobody's cost."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.package import Bounds, InputRules, Limits, OutputRule, TensorSpec
from mlops.routing import MAX_HASH, is_sampled, key_bucket, routing_hash
from mlops.tap import BrokenRule, Finding, Flag, PageReader, Record, Why
from mlops.tap.layout import COMPARED_ROLE, SHADOW_ROLE
from server.plan import ModelPlan, Role, Segment, Shadow, ShadowBounds, Split, VersionPlan
from tests.conformance.requests import INFER, INFER_STREAM, PREDICT_STREAM, infer, predict, raw
from tests.conformance.running import Stream
from tests.conformance.tapped import SHADOW_BOUND_S, Observed, observed
from tests.support.models import constant_model, echo_model, failing_model, scaled_model, slow_model, version_plan
from tests.support.waiting import until
from tickserve.errors import Code
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

SALT, SHADOW_SALT = b"salt", b"shadow"
ALL = Shadow("2", 10_000, SHADOW_SALT)
ANSWERED = Flag.EXECUTED | Flag.READ | Flag.RAN
ONE_VALUE = (TensorSpec(name="values", datatype="FP32", shape=(-1, 1)),)
Make = Callable[..., Observed]
pytestmark = pytest.mark.timeout(2 * SHADOW_BOUND_S)


@pytest.fixture
def make(engine_name: str) -> Iterator[Make]:
    """Starts engines; who lets them fail looks at their faults."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(observed(engine_name, **settings))


@pytest.fixture
def engine(make: Make) -> Iterator[Observed]:
    found = make()
    yield found
    assert found.engine.take_faults() == []


def stable(folder: Path, **changes: Any) -> VersionPlan:
    """Gives the features back."""
    return version_plan(folder, echo_model(), **changes)


def quarter(folder: Path, **changes: Any) -> VersionPlan:
    """Gives a quarter of them: exact in float32."""
    return version_plan(folder, scaled_model(0.25), **({"version": "2"} | changes))


def serve(engine: Observed, *versions: VersionPlan, shadow: Shadow | None = ALL, **changes: Any) -> ModelPlan:
    """Installs the first with all of the split, any as a pin, and the second as the shadow of all requests."""
    model = ModelPlan(
        name="echo",
        versions={version.version: version for version in versions},
        split=Split(SALT, (Segment(MAX_HASH, versions[0].version, Role.STABLE),)),
        pins=frozenset(version.version for version in versions),
        shadow=shadow,
    )
    model = replace(model, **changes)
    engine.install(model, *versions)
    return model


def halves(first: str, second: str) -> Split:
    """Half of the keys to each."""
    return Split(SALT, (Segment(MAX_HASH // 2, second, Role.CANARY), Segment(MAX_HASH, first, Role.STABLE)))


def values(record: Record) -> list[float]:
    found: list[float] = np.frombuffer(record.outputs[0].data, "<f4").tolist()
    return found


def counted(engine: Observed, version: str, role: int, requests: int) -> list[int]:
    """The counts of a version in a role, once it has so many requests."""
    return until(lambda: engine.page().get((version, role), [0] * 8), lambda row: row[0] >= requests, SHADOW_BOUND_S)


def dropped(engine: Observed) -> int:
    return sum(engine.engine.counters().shadow_dropped.values())


def test_a_copy_is_recorded_as_what_it_is(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path))
    asked = {"request_id": "id", "routing_key": "k", "entities": ["E"], "event_time_unix_ns": 77}
    answer = engine.predict(1, 2, 3, **asked).message
    assert (answer.version, answer.role, list(answer.values)) == ("1", pb.ROLE_STABLE, [1, 2, 3])
    (copy,) = engine.until_records(Role.SHADOW, 1)
    (live,) = engine.records(Role.STABLE)
    assert (copy.role, copy.why, copy.status, copy.flags) == (Role.SHADOW, Why.SHADOW, 0, ANSWERED)
    assert (live.role, live.why, live.status, live.flags) == (Role.STABLE, Why.SPLIT, 0, ANSWERED)
    assert (copy.version, live.version) == (1, 0)
    assert (values(live), values(copy)) == ([1, 2, 3], [0.25, 0.5, 0.75])
    same = ("request_id", "routing_key", "entities", "event_time_unix_ns", "key_bucket", "inputs", "rows")
    for name in (*same, "plan_generation", "split_generation"):
        assert getattr(copy, name) == getattr(live, name), name
    assert copy.key_bucket == key_bucket(SALT, b"k")
    assert min(copy.durations_ns) >= 0
    assert copy.durations_ns[3] > 0
    assert copy.time_unix_ns >= live.time_unix_ns


def test_a_drawn_id_is_that_of_both_records(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path))
    engine.predict(1, 2, 3)
    (copy,) = engine.until_records(Role.SHADOW, 1)
    (live,) = engine.records(Role.STABLE)
    assert copy.flags & live.flags & Flag.DRAWN
    assert (copy.request_id, copy.key_bucket) == (live.request_id, live.key_bucket)


def test_answers_are_bit_for_bit_those_without_a_shadow(engine: Observed, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    asked = [draw.normal(0, 40, 3).astype(np.float32).tolist() for _ in range(50)]
    rules = {
        "input_rules": InputRules(bounds={"momentum": Bounds(maximum=10, policy="clip"), "rsi": Bounds(maximum=50)}),
        "output_rules": (OutputRule(name="low", output="values", kind="range", maximum=30, policy="flag"),),
    }

    def answers() -> list[Any]:
        found = []
        for number, features in enumerate(asked):
            outcome = engine.predict(*features, request_id=f"id-{number}")
            if outcome.message is not None:
                outcome.message.plan_generation = outcome.message.server_duration_ns = 0
                outcome.message = outcome.message.SerializeToString(deterministic=True)
            found.append(outcome)
        return found

    versions = stable(tmp_path, **rules), quarter(tmp_path)
    model = serve(engine, *versions, shadow=None)
    without = answers()
    engine.install(replace(model, shadow=ALL))
    assert answers() == without
    assert len({outcome.status for outcome in without}) == 2
    executed = sum(outcome.status == "OK" for outcome in without)
    assert counted(engine, "2", SHADOW_ROLE, executed)[0] == executed


def test_pairs_are_counted_together(engine: Observed, tmp_path: Path) -> None:
    """The live version flags above 50 and refuses above 100; the shadow refuses above 5, which are 20 sent."""
    low = OutputRule(name="low", output="values", kind="range", maximum=50, policy="flag")
    sane = OutputRule(name="sane", output="values", kind="range", maximum=100)
    strict = OutputRule(name="strict", output="values", kind="range", maximum=5)
    clips = InputRules(bounds={"rsi": Bounds(maximum=0, policy="clip")})
    budget = Limits(latency_budget_us=1)
    serve(
        engine,
        stable(tmp_path, output_rules=(low, sane), limits=budget),
        quarter(tmp_path, output_rules=(strict,), input_rules=clips, limits=budget),
        latency_edge_ns=1,
    )
    sent = [(1, 0, 1), (60, 0, 1), (16, 0, 1), (200, 0, 1), (1, 9, 1)]
    statuses = [engine.predict(*features, routing_key="k").status for features in sent]
    assert statuses == ["OK", "OK", "OK", "INTERNAL", "OK"]
    # What the client got wrong is copied to nobody.
    assert engine.predict(1, float("nan"), 1, routing_key="k").status == "INVALID_ARGUMENT"
    assert engine.predict(1, routing_key="k").status == "INVALID_ARGUMENT"
    shadow = counted(engine, "2", SHADOW_ROLE, 5)
    compared = counted(engine, "1", COMPARED_ROLE, 5)
    # Requests, errors, failures, violations, output violations, no wall times, runs over the edge of 1 ns.
    assert compared == [5, 1, 1, 2, 2, 0, 0, 5]
    assert shadow == [5, 2, 2, 3, 2, 0, 0, 5]
    assert engine.page()["1", Role.STABLE] == [7, 3, 1, 3, 2, 4, 4, 0]
    bucket = key_bucket(SALT, b"k")
    for block in PageReader(engine.tap.counters).snapshot():
        assert block.counts[bucket].sum() == block.counts.sum()
    tally = engine.counted("2", Role.SHADOW)
    assert (tally.answered, tally.rows, tally.slow, dict(tally.errors)) == (3, 3, 0, {"OUTPUT_RULE": 2})
    assert dict(tally.rule_violations) == {("strict", "reject"): 2, ("bounds:rsi", "clip"): 1}
    assert sum(tally.stages["run"].counts) == 3


def test_without_an_edge_no_run_is_over_it(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path))
    for _ in range(3):
        engine.predict(1, 2, 3)
    assert counted(engine, "2", SHADOW_ROLE, 3) == [3, 0, 0, 0, 0, 0, 0, 0]
    assert counted(engine, "1", COMPARED_ROLE, 3) == [3, 0, 0, 0, 0, 0, 0, 0]


def test_runs_are_held_against_the_edge_by_cpu_time(engine: Observed, tmp_path: Path) -> None:
    """An edge that only the slow shadow takes longer than."""
    slow = version_plan(tmp_path, slow_model(40), version="2", outputs=ONE_VALUE)
    fast = version_plan(tmp_path, constant_model(1), outputs=ONE_VALUE)
    serve(engine, fast, slow, latency_edge_ns=2_000_000)
    for _ in range(3):
        engine.predict(1, 2, 3)
    assert counted(engine, "2", SHADOW_ROLE, 3)[7] == 3
    assert counted(engine, "1", COMPARED_ROLE, 3)[7] == 0


def test_the_sample_is_that_of_the_hash(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path), shadow=Shadow("2", 2_500, SHADOW_SALT))
    ids = [f"id-{number}" for number in range(120)]
    for request_id in ids:
        # One key for all: who is routed where has nothing to do with it.
        engine.predict(1, 2, 3, request_id=request_id, routing_key="k")
    expected = [each.encode() for each in ids if is_sampled(SHADOW_SALT, each.encode(), 2_500)]
    assert 0 < len(expected) < len(ids)
    assert [record.request_id for record in engine.until_records(Role.SHADOW, len(expected))] == expected
    assert counted(engine, "2", SHADOW_ROLE, len(expected))[0] == len(expected)


def test_pins_are_copied_to_nobody(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path))
    for version in ("1", "2"):
        assert engine.predict(1, 2, 3, version=version).message.version == version
    engine.predict(1, 2, 3, request_id="last")
    (copy,) = engine.until_records(Role.SHADOW, 1)
    assert copy.request_id == b"last"
    assert counted(engine, "1", COMPARED_ROLE, 1)[0] == 1


def test_a_shadow_in_the_split_gets_no_copies_of_its_own_requests(engine: Observed, tmp_path: Path) -> None:
    keys = [f"key-{number}" for number in range(20)]
    first = [key for key in keys if routing_hash(SALT, key.encode()) > MAX_HASH // 2]
    serve(engine, stable(tmp_path), quarter(tmp_path), split=halves("1", "2"))
    for key in keys:
        engine.predict(1, 2, 3, request_id=key, routing_key=key)
    copies = engine.until_records(Role.SHADOW, len(first))
    assert [record.routing_key.decode() for record in copies] == first
    assert 0 < len(first) < len(keys)
    assert set(engine.page()) == {("1", 1), ("2", 2), ("1", COMPARED_ROLE), ("2", SHADOW_ROLE)}


def test_a_shadow_of_one_version_gets_copies_of_that_alone(engine: Observed, tmp_path: Path) -> None:
    """Stable as the shadow of the canary, which is how outputs of a canary are compared."""
    keys = [f"key-{number}" for number in range(20)]
    second = [key for key in keys if routing_hash(SALT, key.encode()) <= MAX_HASH // 2]
    versions = stable(tmp_path), quarter(tmp_path), stable(tmp_path, version="3")
    serve(engine, *versions, split=halves("1", "2"), shadow=Shadow("1", 10_000, SHADOW_SALT, of="2"))
    for key in keys:
        engine.predict(1, 2, 3, request_id=key, routing_key=key)
    copies = engine.until_records(Role.SHADOW, len(second))
    assert [record.routing_key.decode() for record in copies] == second
    assert {tuple(values(record)) for record in copies} == {(1, 2, 3)}
    assert counted(engine, "2", COMPARED_ROLE, len(second))[0] == len(second)
    assert counted(engine, "1", SHADOW_ROLE, len(second))[0] == len(second)
    assert ("1", COMPARED_ROLE) not in engine.page()


def test_a_request_that_fell_back_is_copied_once(engine: Observed, tmp_path: Path) -> None:
    sane = OutputRule(name="sane", output="values", kind="range", maximum=100, policy="fallback")
    third = version_plan(tmp_path, scaled_model(0.5), version="3")
    serve(engine, stable(tmp_path, output_rules=(sane,)), quarter(tmp_path), third, fallback="3")
    assert engine.predict(1, 200, 3).message.version == "3"
    assert engine.predict(1, 2, 3).message.version == "1"
    assert counted(engine, "2", SHADOW_ROLE, 2)[:3] == [2, 0, 0]
    # The live one's outcome is that of the version which broke the rule.
    assert counted(engine, "1", COMPARED_ROLE, 2)[:5] == [2, 1, 1, 1, 1]
    assert len(engine.until_records(Role.SHADOW, 2)) == 2


def test_the_shadow_holds_the_inputs_against_rules_of_its_own(engine: Observed, tmp_path: Path) -> None:
    """And gets them as they were sent: what the live version made of them is not its."""
    clips = InputRules(bounds={"momentum": Bounds(maximum=10, policy="clip")})
    rejects = InputRules(
        bounds={"momentum": Bounds(maximum=15, policy="reject"), "rsi": Bounds(maximum=1, policy="flag")}
    )
    serve(engine, stable(tmp_path, input_rules=clips), quarter(tmp_path, input_rules=rejects))
    assert list(engine.predict(12, 2, 3).message.values) == [10, 2, 3]
    assert list(engine.predict(20, 2, 3).message.values) == [10, 2, 3]
    first, second = engine.until_records(Role.SHADOW, 2)
    assert values(first) == [3, 0.5, 0.75]
    assert first.findings == (Finding(2, 0, 1, "bounds:rsi"),)
    assert (second.status, second.reason, second.outputs) == (Code.INVALID_ARGUMENT, 10, ())
    assert second.broken_rules == (BrokenRule("bounds:momentum", 1, 1),)
    # An error of the shadow, and no failure: the same inputs are the client's fault wherever they go.
    assert counted(engine, "2", SHADOW_ROLE, 2)[:5] == [2, 1, 0, 2, 0]


def test_a_shadow_that_takes_fewer_rows_is_refused_the_copy(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path, limits=Limits(max_rows=1)))
    assert engine.predict(1, 2, 3, 4, 5, 6, rows=2).status == "OK"
    (copy,) = engine.until_records(Role.SHADOW, 1)
    assert (copy.status, copy.rows, copy.inputs) == (Code.INVALID_ARGUMENT, 0, ())


def test_a_shadow_whose_run_fails_costs_no_answer(make: Make, tmp_path: Path) -> None:
    engine = make()
    serve(engine, stable(tmp_path), version_plan(tmp_path, failing_model(), version="2"))
    for momentum in (0.5, 7, 0.25):
        assert engine.predict(momentum, 2, 3).status == "OK"
    assert counted(engine, "2", SHADOW_ROLE, 3)[:3] == [3, 1, 1]
    assert counted(engine, "1", COMPARED_ROLE, 3)[:3] == [3, 0, 0]
    first, second, third = engine.until_records(Role.SHADOW, 3)
    assert [first.status, second.status, third.status] == [0, Code.INTERNAL, 0]
    assert (second.reason, second.flags & Flag.RAN) == (13, 0)
    assert dict(engine.counted("2", Role.SHADOW).errors) == {"INTERNAL": 1}
    # The log has the reason; it is no fault of an answer.
    assert len(until(engine.engine.take_faults)) == 1
    assert engine.engine.counters().faults == 0


def test_a_failure_of_the_live_version_is_copied_too(make: Make, tmp_path: Path) -> None:
    engine = make()
    serve(engine, version_plan(tmp_path, failing_model()), quarter(tmp_path))
    assert engine.predict(7, 2, 3).reason == "INTERNAL"
    assert counted(engine, "2", SHADOW_ROLE, 1)[:3] == [1, 0, 0]
    assert counted(engine, "1", COMPARED_ROLE, 1)[:3] == [1, 1, 1]
    assert len(engine.engine.take_faults()) == 1


def test_what_came_too_late_is_copied_to_nobody(engine: Observed, tmp_path: Path) -> None:
    """A shadow has no deadline to be late for, so equal versions would differ."""
    slow = version_plan(tmp_path, slow_model(200), outputs=ONE_VALUE)
    serve(engine, slow, version_plan(tmp_path, constant_model(1), version="2", outputs=ONE_VALUE))
    assert engine.predict(1, 2, 3, timeout_us=100_000).reason == "DEADLINE"
    assert engine.predict(1, 2, 3, request_id="last").status == "OK"
    assert [copy.request_id for copy in engine.until_records(Role.SHADOW, 1)] == [b"last"]
    assert counted(engine, "1", COMPARED_ROLE, 1)[0] == 1


def test_a_copy_has_no_deadline(engine: Observed, tmp_path: Path) -> None:
    slow = version_plan(tmp_path, slow_model(60), version="2", outputs=ONE_VALUE, limits=Limits(default_deadline_us=1))
    serve(engine, version_plan(tmp_path, constant_model(1), outputs=ONE_VALUE), slow)
    assert engine.predict(1, 2, 3, timeout_us=30_000_000).status == "OK"
    (copy,) = engine.until_records(Role.SHADOW, 1)
    assert (copy.status, values(copy)) == (0, [6])


def test_what_finds_no_room_is_dropped_and_counted(make: Make, tmp_path: Path) -> None:
    engine = make(shadows=ShadowBounds(requests=2))
    slow = version_plan(tmp_path, slow_model(60), version="2", outputs=ONE_VALUE)
    serve(engine, version_plan(tmp_path, constant_model(1), outputs=ONE_VALUE), slow)
    for _ in range(40):
        assert engine.predict(1, 2, 3).status == "OK"
    assert engine.engine.counters().shadow_queued <= 2

    def passed() -> tuple[int, int]:
        return engine.page().get(("2", SHADOW_ROLE), [0])[0], dropped(engine)

    kept, lost = until(passed, lambda found: sum(found) == 40, SHADOW_BOUND_S)
    assert lost > 0
    assert kept > 0
    # Roles 3 and 6 are of the same requests whatever was dropped; the live counts lost nothing.
    assert counted(engine, "1", COMPARED_ROLE, kept)[0] == kept
    assert engine.page()["1", Role.STABLE][0] == 40
    assert until(lambda: engine.engine.counters().shadow_queued, lambda queued: queued == 0, SHADOW_BOUND_S) == 0
    assert dict(engine.engine.counters().shadow_dropped) == {("echo", "2"): lost}


def test_what_is_larger_than_the_queue_is_dropped(make: Make, tmp_path: Path) -> None:
    engine = make(shadows=ShadowBounds(size_bytes=2048))
    serve(engine, stable(tmp_path), quarter(tmp_path))
    assert engine.predict(*[1.0] * 3000, rows=1000).status == "OK"
    assert engine.predict(1, 2, 3, request_id="small").status == "OK"
    assert [copy.request_id for copy in engine.until_records(Role.SHADOW, 1)] == [b"small"]
    assert dropped(engine) == 1


def test_what_ran_on_the_pool_is_copied(engine: Observed, tmp_path: Path) -> None:
    limits = Limits(max_rows=10_000)
    serve(engine, stable(tmp_path, limits=limits), quarter(tmp_path, limits=limits), latency_edge_ns=1)
    assert engine.predict(*[8.0] * 18_000, rows=6_000).status == "OK"
    (copy,) = engine.until_records(Role.SHADOW, 1)
    assert (copy.status, copy.rows) == (0, 6_000)
    assert counted(engine, "1", COMPARED_ROLE, 1)[7] == 1


def test_streams_and_model_infer_are_copied(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path))
    stream = Stream(engine.channel, PREDICT_STREAM)
    request = pb.PredictRequest.FromString(predict([1, 2, 3], request_id="stream"))
    stream.send(pb.PredictStreamRequest(sequence=1, predict=request).SerializeToString())
    assert pb.PredictStreamResponse.FromString(stream.receive()).answer.version == "1"
    stream.close()
    engine.call(INFER, infer(raw([[1, 2, 3], [4, 5, 6]]), request_id="infer"))
    inferring = Stream(engine.channel, INFER_STREAM)
    inferring.send(infer(raw([[1, 2, 3]]), request_id="infers", outputs=["values"]))
    assert oip.ModelStreamInferResponse.FromString(inferring.receive()).infer_response.model_version == "1"
    inferring.close()
    copies = engine.until_records(Role.SHADOW, 3)
    assert [(copy.request_id, copy.rows) for copy in copies] == [(b"stream", 1), (b"infer", 2), (b"infers", 1)]
    assert values(copies[1]) == [0.25, 0.5, 0.75, 1, 1.25, 1.5]


def test_a_swap_under_way_loses_no_copy(engine: Observed, tmp_path: Path) -> None:
    slow = version_plan(tmp_path, slow_model(20), version="2", outputs=ONE_VALUE)
    live = version_plan(tmp_path, constant_model(1), outputs=ONE_VALUE)
    third = version_plan(tmp_path, constant_model(3), version="3", outputs=ONE_VALUE)
    model = serve(engine, live, slow)
    for _ in range(10):
        engine.predict(1, 2, 3)
    # Version 2 leaves the plan while its copies wait, and another one is the shadow.
    engine.install(
        replace(model, versions={"1": live, "3": third}, shadow=Shadow("3", 10_000, SHADOW_SALT), pins=frozenset()),
        third,
    )
    for _ in range(10):
        engine.predict(1, 2, 3)
    assert counted(engine, "3", SHADOW_ROLE, 10)[0] == 10
    # Those that waited were run or dropped, and either is counted.
    lost = dropped(engine)
    done = counted(engine, "2", SHADOW_ROLE, 10 - lost)[0]
    assert done == 10 - lost
    assert counted(engine, "1", COMPARED_ROLE, 10 + done)[0] == 10 + done
    copies = engine.until_records(Role.SHADOW, 10 + done)
    assert [values(copy) for copy in copies] == [[6]] * done + [[3]] * 10
    # And back, with what was prepared anew.
    engine.install(model, slow)
    engine.predict(1, 2, 3)
    assert counted(engine, "2", SHADOW_ROLE, done + 1)[0] == done + 1


def test_a_plan_without_the_shadow_ends_it(engine: Observed, tmp_path: Path) -> None:
    model = serve(engine, stable(tmp_path), quarter(tmp_path))
    engine.predict(1, 2, 3)
    counted(engine, "2", SHADOW_ROLE, 1)
    engine.install(replace(model, shadow=None))
    engine.predict(1, 2, 3)
    engine.install(model)
    engine.predict(1, 2, 3, request_id="last")
    assert engine.until_records(Role.SHADOW, 2)[-1].request_id == b"last"
    assert len(engine.records(Role.SHADOW)) == 2


def test_a_shadow_that_is_all_that_answers_gets_nothing(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), shadow=Shadow("1", 10_000, b""))
    assert engine.predict(1, 2, 3).status == "OK"
    assert engine.records(Role.SHADOW) == []
    assert set(engine.page()) == {("1", Role.STABLE)}


def test_breakers_do_not_look_at_shadows(engine: Observed, tmp_path: Path) -> None:
    strict = OutputRule(name="strict", output="values", kind="range", maximum=0)
    serve(engine, stable(tmp_path), quarter(tmp_path, output_rules=(strict,)))
    engine.predict(1, 2, 3)
    counted(engine, "2", SHADOW_ROLE, 1)
    runs = engine.engine.runs([("echo", "2")])
    assert ("echo", "2") not in runs or (runs["echo", "2"].answered, dict(runs["echo", "2"].errors)) == (0, {})


def test_a_stop_does_not_wait_for_what_is_queued(make: Make, tmp_path: Path) -> None:
    """The queue holds minutes of work; the end takes one run at the most."""
    engine = make()
    slow = version_plan(tmp_path, slow_model(400), version="2", outputs=ONE_VALUE)
    serve(engine, version_plan(tmp_path, constant_model(1), outputs=ONE_VALUE), slow)
    for _ in range(200):
        assert engine.predict(1, 2, 3).status == "OK"
    assert engine.engine.counters().shadow_queued > 100
    engine.engine.stop(1.0)
    done = engine.page().get(("2", SHADOW_ROLE), [0])[0]
    assert done < 100
    assert engine.page().get(("1", COMPARED_ROLE), [0])[0] - done in (0, 1)
    assert engine.engine.take_faults() == []


def test_without_a_tap_shadows_run_all_the_same(bench: Any) -> None:
    versions = [stable(bench.folder), quarter(bench.folder)]
    for version in versions:
        bench.engine.prepare(version)
    bench.models["echo"] = ModelPlan(
        "echo",
        {version.version: version for version in versions},
        Split(SALT, (Segment(MAX_HASH, "1", Role.STABLE),)),
        shadow=ALL,
    )
    bench.install()
    assert bench.predict().status == "OK"

    def answered() -> int:
        return sum(each.answered for each in bench.engine.counters().versions if each.role is Role.SHADOW)

    assert until(answered, lambda count: count == 1, SHADOW_BOUND_S) == 1
