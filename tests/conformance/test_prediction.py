"""Predict and GetModel: what is answered, and how every wrong request is refused while the server goes on."""

import math
import time
from typing import Any

import grpc
import numpy as np
import pytest

from mlops.package import (
    Bounds,
    ColumnMapping,
    EventTimeRule,
    InputRules,
    Limits,
    OutputRule,
    TensorSpec,
    feature_digest,
)
from mlops.routing import MAX_HASH, routing_hash
from server.plan import Halt, ModelPlan, Role, Segment, Split
from tests.conformance.conftest import Bench
from tests.support.models import (
    FEATURES,
    constant_model,
    echo_model,
    first_row_model,
    slow_model,
    square_model,
    version_plan,
)
from tickserve.v1 import prediction_pb2 as pb

ONE_VALUE = (TensorSpec(name="values", datatype="FP32", shape=(-1, 1)),)


@pytest.fixture
def echo(bench: Bench) -> Bench:
    bench.install(version_plan(bench.folder, echo_model(), limits=Limits(max_rows=4)))
    return bench


def test_answer_names_exactly_what_answered(echo: Bench) -> None:
    answer = echo.predict(features=[1, 2, 3], request_id="r-1").message
    assert list(answer.values) == [1, 2, 3]
    assert (answer.request_id, answer.model, answer.version, answer.rows) == ("r-1", "echo", "1", 1)
    assert answer.digest == echo.models["echo"].versions["1"].digest
    assert (answer.role, answer.plan_generation) == (pb.ROLE_STABLE, echo.generation)
    assert answer.position_scale == 1.0
    assert list(answer.findings) == []
    assert answer.server_duration_ns > 0


def test_request_id_is_drawn_when_empty_and_never_twice(echo: Bench) -> None:
    drawn = {echo.predict(features=[1, 2, 3]).message.request_id for _ in range(20)}
    assert len(drawn) == 20
    assert all(0 < len(request_id) <= 64 for request_id in drawn)


def test_rows_are_answered_row_major(echo: Bench) -> None:
    values = [float(number) for number in range(12)]
    answer = echo.predict(features=values, rows=4, entities=["A", "B", "C", "D"]).message
    assert list(answer.values) == values
    assert answer.rows == 4


def test_named_features_are_put_in_the_models_order(echo: Bench) -> None:
    named = [pb.NamedValue(name=name, value=value) for name, value in (("volume", 3), ("momentum", 1), ("rsi", 2))]
    assert list(echo.predict(named=named).message.values) == [1, 2, 3]


def test_missing_named_feature_takes_the_declared_default_with_a_finding(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, echo_model(), input_rules=InputRules(defaults={"rsi": 50.0})))
    named = [pb.NamedValue(name=name, value=1) for name in ("volume", "momentum")]
    answer = bench.predict(named=named).message
    assert list(answer.values) == [1, 50, 1]
    (finding,) = answer.findings
    assert (finding.kind, finding.column, finding.rule) == (pb.FINDING_KIND_DEFAULTED, 1, "default:rsi")


def test_signal_and_confidence_follow_the_packages_mapping(bench: Bench) -> None:
    bench.install(
        version_plan(
            bench.folder,
            echo_model(),
            signal=ColumnMapping(output="values", column=1, scale=2.0, offset=-1.0),
            confidence=ColumnMapping(output="values"),
        )
    )
    answer = bench.predict(features=[0.25, 0.75, 0.5, 0.5, 0.25, 0.125], rows=2).message
    assert list(answer.signal) == [0.5, -0.5]
    assert list(answer.confidence) == [0.75, 0.5]


@pytest.mark.parametrize(
    ("change", "text", "field"),
    [
        ({"features": [1, 2]}, "features has 2 values, expected 3 for 1 rows, 1 steps and 3 features", "features"),
        ({"features": []}, "features has 0 values, expected 3 for 1 rows, 1 steps and 3 features", "features"),
        ({"rows": 2}, "features has 3 values, expected 6 for 2 rows, 1 steps and 3 features", "features"),
        ({"rows": 5}, "the request has 5 rows, model 'echo' takes at most 4", "rows"),
        ({"rows": 4_000_000_000}, "the request has 4000000000 rows, model 'echo' takes at most 4", "rows"),
        ({"steps": 2}, "steps is 2, model 'echo' takes 1", "steps"),
        ({"features": [1, math.nan, 3]},
         "input 'features', row 0, column 1 (rsi) is nan; only finite values are accepted", "rsi"),
        ({"features": [1, 2, math.inf]},
         "input 'features', row 0, column 2 (volume) is inf; only finite values are accepted", "volume"),
        ({"named": [pb.NamedValue(name="rsi", value=1)]},
         "features and named are both set; send one of them", "named"),
        ({"features": [], "named": [pb.NamedValue(name=name) for name in ("momentum", "rsi")]},
         "feature 'volume' is missing and has no default", "volume"),
        ({"features": [], "named": [pb.NamedValue(name="beta")]},
         "unknown feature 'beta'; expected momentum, rsi, volume", "beta"),
        ({"features": [], "named": [pb.NamedValue(name="rsi"), pb.NamedValue(name="rsi")]},
         "feature 'rsi' appears twice", "rsi"),
        ({"features": [], "rows": 2, "named": [pb.NamedValue(name="rsi")]},
         "named features are one row and one step; rows is 2, steps is 1", "named"),
        ({"feature_digest": b"123"}, "feature_digest has 3 bytes, expected 32", "feature_digest"),
        ({"entities": ["A", "B"]}, "entities has 2 entries, expected one for each of 1 rows, or none", "entities"),
        ({"request_id": "x" * 65}, "request_id has 65 bytes, at most 64 are accepted", "request_id"),
        ({"routing_key": "€" * 22}, "routing_key has 66 bytes, at most 64 are accepted", "routing_key"),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_by_name_and_the_next_one_is_answered(
    echo: Bench, change: dict[str, Any], text: str, field: str
) -> None:
    outcome = echo.predict(**({"features": [1, 2, 3]} | change))
    assert (outcome.status, outcome.reason, outcome.executed) == ("INVALID_ARGUMENT", "INVALID_INPUT", "0")
    assert (outcome.text, outcome.field) == (text, field)
    assert echo.predict(features=[1, 2, 3]).status == "OK"


def test_malformed_protobuf_is_invalid_argument(echo: Bench) -> None:
    outcome = echo.call("/tickserve.v1.Prediction/Predict", b"\x0a\xff")
    assert (outcome.status, outcome.reason) == ("INVALID_ARGUMENT", "INVALID_INPUT")


def test_unknown_model_and_version_are_not_found(echo: Bench) -> None:
    outcome = echo.predict(model="nope", features=[1, 2, 3])
    assert (outcome.status, outcome.reason, outcome.field) == ("NOT_FOUND", "NOT_FOUND", "model")
    outcome = echo.predict(version="2", features=[1, 2, 3])
    assert (outcome.status, outcome.text) == ("NOT_FOUND", "version '2' of model 'echo' is not loaded; loaded: 1")


def test_feature_digest_of_another_order_is_refused(echo: Bench) -> None:
    assert echo.predict(features=[1, 2, 3], feature_digest=feature_digest(FEATURES)).status == "OK"
    outcome = echo.predict(features=[1, 2, 3], feature_digest=feature_digest(FEATURES[::-1]))
    assert (outcome.status, outcome.reason) == ("FAILED_PRECONDITION", "FEATURES_CHANGED")


def test_event_time_must_be_there_fresh_and_not_in_the_future(bench: Bench) -> None:
    rule = EventTimeRule(required=True, max_age_s=60, max_future_s=1)
    bench.install(version_plan(bench.folder, echo_model(), input_rules=InputRules(event_time=rule)))
    now = time.time_ns()
    assert bench.predict(features=[1, 2, 3], event_time_unix_ns=now).status == "OK"
    for event_time, text in (
        (0, "model 'echo' needs event_time_unix_ns"),
        (now - 120 * 10**9, "at most 60.0 s are accepted"),
        (now + 120 * 10**9, "in the future, at most 1.0 s are accepted"),
    ):
        outcome = bench.predict(features=[1, 2, 3], event_time_unix_ns=event_time)
        assert (outcome.status, outcome.reason, outcome.executed) == ("FAILED_PRECONDITION", "STALE_INPUT", "0")
        assert outcome.text.endswith(text)
        assert outcome.field == "event_time_unix_ns"
    assert bench.counted("echo").rule_violations == {
        ("event_time", "reject"): 1,
        ("max_age", "reject"): 1,
        ("max_future", "reject"): 1,
    }


def test_stale_event_time_may_be_answered_with_a_finding(bench: Bench) -> None:
    rule = EventTimeRule(max_age_s=60, policy="flag")
    bench.install(version_plan(bench.folder, echo_model(), input_rules=InputRules(event_time=rule)))
    assert list(bench.predict(features=[1, 2, 3]).message.findings) == []
    answer = bench.predict(features=[1, 2, 3], event_time_unix_ns=1).message
    assert [(finding.kind, finding.rule) for finding in answer.findings] == [(pb.FINDING_KIND_STALE, "max_age")]


def test_bounds_reject_clip_and_flag_by_feature(bench: Bench) -> None:
    rules = InputRules(
        bounds={
            "momentum": Bounds(minimum=-1, maximum=1, policy="clip"),
            "rsi": Bounds(minimum=0, maximum=100, policy="reject"),
            "volume": Bounds(maximum=10.1, policy="flag"),
        }
    )
    bench.install(version_plan(bench.folder, echo_model(), input_rules=rules))
    # 10.1 itself is inside although float32 cannot hold it exactly.
    answer = bench.predict(features=[1, 100, 10.1]).message
    assert list(answer.findings) == []
    answer = bench.predict(features=[-3, 50, 11, 0, 50, 0], rows=2).message
    assert list(answer.values) == [-1, 50, 11, 0, 50, 0]
    assert [(f.kind, f.row, f.column, f.rule) for f in answer.findings] == [
        (pb.FINDING_KIND_CLIPPED, 0, 0, "bounds:momentum"),
        (pb.FINDING_KIND_FLAGGED, 0, 2, "bounds:volume"),
    ]
    outcome = bench.predict(features=[0, 50, 0, 0, 100.5, 0], rows=2)
    assert outcome.text == "feature 'rsi', row 1 is 100.5, outside its bounds 0.0 to 100.0"
    assert (outcome.reason, outcome.field) == ("INVALID_INPUT", "rsi")


def test_row_sums_are_checked_in_every_row(bench: Bench) -> None:
    rule = OutputRule(name="sum", output="values", kind="row_sum", minimum=0.999, maximum=1.001)
    bench.install(version_plan(bench.folder, echo_model(), output_rules=(rule,)))
    assert bench.predict(features=[0.2, 0.3, 0.5, 1, 0, 0], rows=2).status == "OK"
    outcome = bench.predict(features=[0.2, 0.3, 0.5, 1, 0.1, 0], rows=2)
    assert (outcome.status, outcome.reason, outcome.executed) == ("INTERNAL", "OUTPUT_RULE", "1")


def test_many_rows_are_checked_as_few_are(bench: Bench) -> None:
    rule = OutputRule(name="range", output="values", kind="range", minimum=0, maximum=1)
    bench.install(version_plan(bench.folder, echo_model(), output_rules=(rule,)))
    values = np.full((1000, 3), 0.5, dtype=np.float32)
    assert bench.predict(features=values.ravel(), rows=1000).status == "OK"
    values[999, 2] = 2.0
    assert bench.predict(features=values.ravel(), rows=1000).reason == "OUTPUT_RULE"
    values[999, 2] = np.nan
    assert bench.predict(features=values.ravel(), rows=1000).field == "volume"


def test_deadline_that_passed_means_not_run(echo: Bench) -> None:
    outcome = echo.predict(features=[1, 2, 3], timeout_us=1)
    assert (outcome.status, outcome.reason, outcome.executed) == ("DEADLINE_EXCEEDED", "DEADLINE", "0")


def test_deadline_that_passes_while_the_model_runs_says_that_it_ran(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, slow_model(), outputs=ONE_VALUE))
    outcome = bench.predict(features=[1, 2, 3], timeout_us=5_000)
    assert (outcome.status, outcome.reason, outcome.executed) == ("DEADLINE_EXCEEDED", "DEADLINE", "1")
    assert list(bench.predict(features=[1, 2, 3]).message.values) == [6]


def test_requests_over_the_in_flight_bound_are_refused_at_once(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, slow_model(), outputs=ONE_VALUE))
    data = pb.PredictRequest(model="echo", features=[1, 2, 3]).SerializeToString()
    call = bench.channel.unary_unary("/tickserve.v1.Prediction/Predict")
    futures = [call.future(data, timeout=20) for _ in range(40)]
    codes = [future.code() for future in futures]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    refused = next(future for future in futures if future.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert dict(refused.trailing_metadata())["tickserve-reason"] == "OVERLOADED"
    assert bench.engine.counters().in_flight == 0
    assert bench.predict(features=[1, 2, 3]).status == "OK"


def test_cancelled_requests_leave_nothing_in_flight(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, slow_model(), outputs=ONE_VALUE))
    data = pb.PredictRequest(model="echo", features=[1, 2, 3]).SerializeToString()
    call = bench.channel.unary_unary("/tickserve.v1.Prediction/Predict")
    for future in [call.future(data, timeout=20) for _ in range(4)]:
        future.cancel()
    assert bench.predict(features=[1, 2, 3]).status == "OK"
    deadline = time.monotonic() + 10
    while bench.engine.counters().in_flight and time.monotonic() < deadline:
        bench.predict(features=[1, 2, 3])
    assert bench.engine.counters().in_flight == 0


def test_halted_model_refuses_while_another_answers(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, constant_model(1.0), name="other", outputs=ONE_VALUE))
    bench.install(version_plan(bench.folder, echo_model()), halt=Halt("bad fills", "kim", 1))
    outcome = bench.predict(features=[1, 2, 3])
    assert (outcome.status, outcome.reason) == ("FAILED_PRECONDITION", "HALTED")
    assert outcome.text == "model 'echo' was halted by kim: bad fills"
    assert bench.predict(model="other", features=[1, 2, 3]).status == "OK"


def test_model_that_is_still_loading_is_unavailable(bench: Bench) -> None:
    bench.install_models({"echo": ""})
    outcome = bench.predict(features=[1, 2, 3])
    assert (outcome.status, outcome.reason) == ("UNAVAILABLE", "LOADING")


def test_installing_another_version_changes_whole_answers(bench: Bench) -> None:
    first = version_plan(bench.folder, constant_model(1.0), outputs=ONE_VALUE)
    second = version_plan(bench.folder, constant_model(2.0), version="2", outputs=ONE_VALUE)
    for version, value in ((first, 1.0), (second, 2.0), (first, 1.0)):
        bench.models.clear()
        bench.install(version)
        answer = bench.predict(features=[1, 2, 3]).message
        assert (answer.version, list(answer.values)) == (version.version, [value])
        assert answer.plan_generation == bench.generation


def test_get_model_describes_names_order_and_limits(bench: Bench) -> None:
    rule = EventTimeRule(required=True, max_age_s=1.5)
    bench.install(
        version_plan(
            bench.folder,
            echo_model(),
            input_rules=InputRules(event_time=rule),
            limits=Limits(max_rows=7, latency_budget_us=250),
            confidence=ColumnMapping(output="values", column=0),
        )
    )
    data = pb.GetModelRequest(model="echo").SerializeToString()
    info = bench.call("/tickserve.v1.Prediction/GetModel", data, pb.ModelInfo).message
    assert tuple(info.feature_names) == FEATURES
    assert info.feature_digest == feature_digest(FEATURES)
    assert list(info.value_names) == ["values[0]", "values[1]", "values[2]"]
    assert (info.limits.max_rows, info.limits.latency_budget_us) == (7, 250)
    assert (info.has_signal, info.has_confidence, info.requires_event_time) == (False, True, True)
    assert info.max_age_ns == 1_500_000_000
    assert not info.HasField("max_future_ns")
    outcome = bench.call("/tickserve.v1.Prediction/GetModel", pb.GetModelRequest(model="x").SerializeToString())
    assert (outcome.status, outcome.reason) == ("NOT_FOUND", "NOT_FOUND")


def test_get_model_tells_a_bound_of_zero_from_none(bench: Bench) -> None:
    rule = EventTimeRule(max_future_s=0)
    bench.install(version_plan(bench.folder, echo_model(), input_rules=InputRules(event_time=rule)))
    data = pb.GetModelRequest(model="echo").SerializeToString()
    info = bench.call("/tickserve.v1.Prediction/GetModel", data, pb.ModelInfo).message
    assert (info.HasField("max_future_ns"), info.max_future_ns) == (True, 0)
    assert not info.HasField("max_age_ns")


def test_every_stage_is_counted_once_an_answer(echo: Bench) -> None:
    for _ in range(5):
        echo.predict(features=[1, 2, 3] * 2, rows=2)
    echo.predict(features=[1])
    counted = echo.counted("echo")
    assert {name: sum(stage.counts) for name, stage in counted.stages.items()} == dict.fromkeys(counted.stages, 5)
    assert (counted.answered, counted.rows, counted.errors) == (5, 10, {"INVALID_INPUT": 1})
    total = counted.stages["total"].sum_ns
    parts = [stage.sum_ns for name, stage in counted.stages.items() if name not in ("total", "wait")]
    assert sum(parts) == total


def test_slow_answers_are_counted_against_the_packages_budget(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, slow_model(), outputs=ONE_VALUE, limits=Limits(latency_budget_us=100)))
    bench.predict(features=[1, 2, 3])
    assert bench.counted("echo").slow == 1


def test_flagged_answer_names_every_broken_row(bench: Bench) -> None:
    rule = OutputRule(name="positive", output="values", kind="range", minimum=0, policy="flag")
    bench.install(version_plan(bench.folder, echo_model(), output_rules=(rule,)))
    answer = bench.predict(features=[1, 1, 1, 1, -1, -1, 1, 1, 1, -1, 1, 1], rows=4).message
    assert [(finding.row, finding.column) for finding in answer.findings] == [(1, 1), (3, 0)]


def test_figures_that_float32_cannot_hold_are_withheld(bench: Bench) -> None:
    signal = ColumnMapping(output="values", column=0, scale=1e30)
    bench.install(version_plan(bench.folder, echo_model(), signal=signal))
    assert bench.predict(features=[1, 2, 3]).status == "OK"
    outcome = bench.predict(features=[1e20, 2, 3])
    assert (outcome.status, outcome.reason, outcome.executed) == ("INTERNAL", "OUTPUT_RULE", "1")
    assert "'float32:signal'" in outcome.text
    double = (TensorSpec(name="values", datatype="FP64", shape=(-1, 3)),)
    bench.install(version_plan(bench.folder, square_model(), name="square", outputs=double))
    assert list(bench.predict(model="square", features=[3, 0, 0]).message.values) == [9, 0, 0]
    assert bench.predict(model="square", features=[1e30, 0, 0]).reason == "OUTPUT_RULE"


def test_refused_inputs_are_counted_by_rule(bench: Bench) -> None:
    rules = InputRules(bounds={"rsi": Bounds(maximum=100)}, event_time=EventTimeRule(required=True))
    bench.install(version_plan(bench.folder, echo_model(), input_rules=rules))
    now = time.time_ns()
    bench.predict(features=[1, 200, 3], event_time_unix_ns=now)
    bench.predict(features=[1, math.nan, 3], event_time_unix_ns=now)
    bench.predict(features=[1, 2, 3])
    assert bench.counted("echo").rule_violations == {
        ("bounds:rsi", "reject"): 1,
        ("finite:features", "reject"): 1,
        ("event_time", "reject"): 1,
    }


def test_refusals_stay_readable_however_long_the_names_are(bench: Bench) -> None:
    names = tuple(f"feature_{number:04}_of_a_wide_model" for number in range(1000))
    wide = (TensorSpec(name="features", datatype="FP32", shape=(-1, 3)),)
    bench.install(version_plan(bench.folder, echo_model(), inputs=wide, feature_names=names))
    for unknown in ("nope", "x" * 5000, "\u20ac" * 2000):
        outcome = bench.predict(named=[pb.NamedValue(name=unknown, value=1)])
        assert (outcome.status, outcome.reason, outcome.executed) == ("INVALID_ARGUMENT", "INVALID_INPUT", "0")
        assert outcome.text.startswith("unknown feature")
        assert len(outcome.text.encode()) <= 1000


def test_segments_decide_by_the_hash_of_the_routing_key(bench: Bench) -> None:
    plans = {
        number: version_plan(bench.folder, constant_model(float(number)), version=number, outputs=ONE_VALUE)
        for number in ("1", "2")
    }
    for plan in plans.values():
        bench.engine.prepare(plan)
    middle = MAX_HASH // 2
    segments = (Segment(middle, "1", Role.STABLE), Segment(MAX_HASH, "2", Role.CANARY))
    bench.models["echo"] = ModelPlan(
        "echo", plans, Split(b"salt", segments), pins=frozenset({"1"}), position_scale=0.25
    )
    bench.install_models()
    seen = set()
    for number in range(40):
        key = f"key-{number}"
        expected = "1" if routing_hash(b"salt", key.encode()) <= middle else "2"
        answer = bench.predict(features=[1, 2, 3], routing_key=key).message
        assert (answer.version, answer.position_scale) == (expected, 0.25)
        assert bench.predict(features=[1, 2, 3], request_id=key).message.version == expected
        seen.add((answer.version, answer.role))
    assert seen == {("1", pb.ROLE_STABLE), ("2", pb.ROLE_CANARY)}
    assert bench.predict(features=[1, 2, 3], version="1").message.version == "1"
    outcome = bench.predict(features=[1, 2, 3], version="2")
    assert (outcome.status, outcome.reason) == ("FAILED_PRECONDITION", "PIN_REFUSED")


def test_packages_default_deadline_holds_where_the_call_brings_none(bench: Bench) -> None:
    limits = Limits(default_deadline_us=5_000)
    bench.install(version_plan(bench.folder, slow_model(), outputs=ONE_VALUE, limits=limits))
    outcome = bench.predict(features=[1, 2, 3])
    assert (outcome.status, outcome.reason, outcome.executed) == ("DEADLINE_EXCEEDED", "DEADLINE", "1")


def test_unexpected_faults_are_internal_and_tell_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.install(version_plan(bench.folder, echo_model()))

    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    with monkeypatch.context() as patched:
        patched.setattr("server.engine.python.runtime.Runtime.check_outputs", fail)
        outcome = bench.predict(features=[1, 2, 3])
    assert (outcome.status, outcome.reason, outcome.executed) == ("INTERNAL", "INTERNAL", "1")
    assert outcome.text == "internal error; the server's log has the details"
    (fault,) = bench.engine.take_faults()
    assert "ZeroDivisionError: secret" in fault
    assert bench.engine.counters().faults == 1


def test_answer_of_another_shape_than_declared_is_withheld(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, first_row_model()))
    assert list(bench.predict(features=[1, 2, 3]).message.values) == [1, 2, 3]
    outcome = bench.predict(features=[1, 2, 3, 4, 5, 6], rows=2)
    assert (outcome.status, outcome.reason, outcome.executed) == ("INTERNAL", "OUTPUT_RULE", "1")
    assert "'shape:values'" in outcome.text
