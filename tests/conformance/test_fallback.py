"""Where a version breaks an output rule of policy fallback, another one answers: once, in time, and for all to see."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.package import Bounds, InputRules, Limits, OutputRule, TensorSpec
from mlops.routing import MAX_HASH
from mlops.tap import BrokenRule, Finding, Flag, Why
from server.engine import texts
from server.plan import ModelPlan, Role, Segment, Split, VersionPlan
from tests.conformance.conftest import Outcome
from tests.conformance.requests import INFER, INFER_STREAM, PREDICT_STREAM, infer, named, predict, raw
from tests.conformance.running import Stream
from tests.conformance.tapped import Observed, observed
from tests.support.models import constant_model, echo_model, failing_model, scaled_model, slow_model, version_plan
from tests.support.waiting import until
from tickserve.errors import Code
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

SANE = OutputRule(name="sane", output="values", kind="range", maximum=100, policy="fallback")
FALLBACK_KIND = pb.FindingKind.FINDING_KIND_FALLBACK
POLICY_FALLBACK = 4
ONE_VALUE = (TensorSpec(name="values", datatype="FP32", shape=(-1, 1)),)
SALT = b"salt"


@pytest.fixture
def engine(engine_name: str) -> Iterator[Observed]:
    with observed(engine_name) as found:
        yield found
        assert found.engine.take_faults() == []


def stable(folder: Path, **changes: Any) -> VersionPlan:
    """Gives the features back, and asks for the fallback above 100."""
    return version_plan(folder, echo_model(), **({"output_rules": (SANE,)} | changes))


def quarter(folder: Path, **changes: Any) -> VersionPlan:
    """Gives a quarter of them: exact in float32."""
    return version_plan(folder, scaled_model(0.25), version="2", **changes)


def serve(engine: Observed, *versions: VersionPlan, fallback: str = "2", **changes: Any) -> ModelPlan:
    """Installs the first as stable, and any as pins."""
    model = ModelPlan(
        name="echo",
        versions={version.version: version for version in versions},
        split=Split(SALT, (Segment(MAX_HASH, versions[0].version, Role.STABLE),)),
        pins=frozenset(version.version for version in versions),
        fallback=fallback,
    )
    model = replace(model, **changes)
    engine.install(model, *versions)
    return model


def withheld(version: str = "1", rule: str = "sane") -> Outcome:
    text = texts.OUTPUT_RULE.fill(rule=rule, version=version, model="echo")
    return Outcome("INTERNAL", text, "OUTPUT_RULE", "1")


def test_the_fallback_answers_and_says_so(engine: Observed, tmp_path: Path) -> None:
    first, second = stable(tmp_path), quarter(tmp_path)
    serve(engine, first, second)
    answer = engine.predict(1, 120, 140, request_id="id", routing_key="k", entities=["E"]).message
    assert (answer.version, answer.digest, answer.role) == ("2", second.digest, pb.ROLE_FALLBACK)
    assert list(answer.values) == [0.25, 30, 35]
    assert [(each.kind, each.row, each.column, each.rule) for each in answer.findings] == [
        (FALLBACK_KIND, 0, 1, "sane")
    ]
    usual = engine.predict(1, 2, 3).message
    assert (usual.version, usual.role, len(usual.findings)) == ("1", pb.ROLE_STABLE, 0)


def test_both_versions_leave_a_record_and_a_count(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path), latency_edge_ns=1)
    assert engine.predict(1, 120, 140, request_id="id", routing_key="k", entities=["E"]).status == "OK"
    (first,), (second,) = engine.records(Role.STABLE), engine.records(Role.FALLBACK)
    ran = Flag.EXECUTED | Flag.READ | Flag.RAN
    assert (first.status, first.reason, first.why, first.flags) == (Code.INTERNAL, 7, Why.SPLIT, ran)
    assert first.broken_rules == (BrokenRule("sane", POLICY_FALLBACK, 1),)
    assert (second.status, second.reason, second.why, second.flags) == (0, 0, Why.FALLBACK, ran)
    assert second.findings == (Finding(FALLBACK_KIND, 0, 1, "sane"),)
    assert list(second.broken_rules) == []
    values = [np.frombuffer(record.outputs[0].data, "<f4").tolist() for record in (first, second)]
    assert values == [[1, 120, 140], [0.25, 30, 35]]
    for name in ("request_id", "routing_key", "entities", "key_bucket", "inputs", "rows", "split_generation"):
        assert getattr(first, name) == getattr(second, name), name
    assert first.durations_ns == (0,) * 6
    assert sum(second.durations_ns) > 0

    counted, fell = engine.counted("1", Role.STABLE), engine.counted("2", Role.FALLBACK)
    assert (counted.answered, dict(counted.errors)) == (0, {"OUTPUT_RULE": 1})
    assert dict(counted.rule_violations) == {("sane", "fallback"): 1}
    assert (fell.answered, fell.rows, dict(fell.errors), dict(fell.rule_violations)) == (1, 1, {}, {})
    # One request: an error, a failure, and a broken output rule of the version that was asked.
    assert engine.page() == {("1", Role.STABLE): [1, 1, 1, 1, 1, 0, 0, 0]}


def test_a_fallback_that_breaks_a_rule_too_leaves_the_first_refusal(engine: Observed, tmp_path: Path) -> None:
    strict = OutputRule(name="strict", output="values", kind="range", maximum=25)
    serve(engine, stable(tmp_path), quarter(tmp_path, output_rules=(strict,)))
    assert engine.predict(1, 120, 3) == withheld()
    (first,), (second,) = engine.records(Role.STABLE), engine.records(Role.FALLBACK)
    assert (first.reason, second.reason, second.why) == (7, 7, Why.FALLBACK)
    assert second.broken_rules == (BrokenRule("strict", 1, 1),)
    assert dict(engine.counted("1", Role.STABLE).errors) == {"OUTPUT_RULE": 1}
    fell = engine.counted("2", Role.FALLBACK)
    assert (fell.answered, dict(fell.errors)) == (0, {"OUTPUT_RULE": 1})
    assert dict(fell.rule_violations) == {("strict", "reject"): 1}
    assert engine.predict(1, 60, 3).message.version == "1"


def test_a_fallback_that_does_not_take_the_inputs_leaves_the_first_refusal(engine: Observed, tmp_path: Path) -> None:
    rules = InputRules(bounds={"rsi": Bounds(maximum=50)})
    serve(engine, stable(tmp_path), quarter(tmp_path, input_rules=rules))
    assert engine.predict(1, 120, 3) == withheld()
    (second,) = engine.records(Role.FALLBACK)
    assert (second.status, second.flags & Flag.EXECUTED) == (Code.INVALID_ARGUMENT, 0)
    assert dict(engine.counted("2", Role.FALLBACK).errors) == {"INVALID_INPUT": 1}


def test_a_fallback_that_takes_fewer_rows_leaves_the_first_refusal(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path, limits=Limits(max_rows=1)))
    assert engine.predict(*[120.0] * 6, rows=2) == withheld()
    assert engine.predict(*[120.0] * 3).message.version == "2"
    refused, _ = engine.records(Role.FALLBACK)
    assert (refused.status, refused.rows) == (Code.INVALID_ARGUMENT, 0)


def test_a_fallback_whose_run_fails_leaves_the_first_refusal(engine_name: str, tmp_path: Path) -> None:
    with observed(engine_name) as engine:
        serve(engine, stable(tmp_path), version_plan(tmp_path, failing_model(), version="2"))
        assert engine.predict(0.5, 120, 3).message.version == "2"
        assert engine.predict(7, 120, 3) == withheld()
        assert dict(engine.counted("2", Role.FALLBACK).errors) == {"INTERNAL": 1}
        assert len(engine.engine.take_faults()) == 1


def test_the_fallback_itself_has_nothing_to_fall_back_to(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path, output_rules=(SANE,)))
    assert engine.predict(1, 800, 3, version="2") == withheld(version="2")
    assert engine.records(Role.FALLBACK) == []


def test_without_a_fallback_the_value_is_withheld(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), fallback="")
    assert engine.predict(1, 120, 3) == withheld()


@pytest.mark.parametrize("policy", ["reject", "flag"])
def test_rules_of_other_policies_ask_for_no_fallback(engine: Observed, tmp_path: Path, policy: Any) -> None:
    serve(engine, stable(tmp_path, output_rules=(SANE.model_copy(update={"policy": policy}),)), quarter(tmp_path))
    found = engine.predict(1, 120, 3)
    assert (found.status, engine.records(Role.FALLBACK)) == ("OK" if policy == "flag" else "INTERNAL", [])


def test_no_fallback_where_no_time_is_left_for_its_run(engine: Observed, tmp_path: Path) -> None:
    first = version_plan(tmp_path, constant_model(1000), output_rules=(SANE,), outputs=ONE_VALUE)
    serve(engine, first, version_plan(tmp_path, slow_model(200), version="2", outputs=ONE_VALUE))
    # On a busy machine the time may be over before the first run.
    late = until(lambda: engine.predict(1, 2, 3, timeout_us=100_000), lambda found: found.reason != "DEADLINE")
    assert late == withheld()
    assert engine.records(Role.FALLBACK) == []
    # In time where nobody is in a hurry.
    answer = engine.predict(1, 2, 3).message
    assert (answer.version, list(answer.values)) == ("2", [6])


def test_pins_fall_back_too(engine: Observed, tmp_path: Path) -> None:
    serve(engine, quarter(tmp_path), stable(tmp_path))
    assert engine.predict(1, 120, 3, version="1").message.role == pb.ROLE_FALLBACK
    (first,) = engine.records(Role.PREVIOUS)
    (second,) = engine.records(Role.FALLBACK)
    assert (first.why, second.why) == (Why.PIN, Why.FALLBACK)
    assert engine.page() == {}, "pins are not counted, nor is what answers for them"


def test_rows_are_all_answered_by_the_fallback(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path))
    answer = engine.predict(1, 2, 3, 4, 5, 600, 7, 800, 9, rows=3).message
    assert (answer.version, answer.rows) == ("2", 3)
    assert list(answer.values) == [0.25 * value for value in (1, 2, 3, 4, 5, 600, 7, 800, 9)]
    assert [(each.row, each.column) for each in answer.findings] == [(1, 2)]


def test_findings_of_the_fallback_stand_behind_that_it_answered(engine: Observed, tmp_path: Path) -> None:
    clips = InputRules(bounds={"rsi": Bounds(maximum=80, policy="clip")})
    flags = InputRules(bounds={"volume": Bounds(maximum=1, policy="flag")}, defaults={"momentum": 7.0})
    low = OutputRule(name="low", output="values", kind="range", maximum=10, policy="flag")
    serve(
        engine,
        stable(tmp_path, input_rules=clips.model_copy(update={"defaults": {"momentum": 101.0}})),
        quarter(tmp_path, input_rules=flags, output_rules=(low,)),
    )
    answer = engine.predict(named=named(rsi=120, volume=4)).message
    # The fallback's own default, and the input as it was sent: what the first version made of them is not its.
    assert list(answer.values) == [1.75, 30, 1]
    kinds = pb.FindingKind
    assert [(each.kind, each.row, each.column, each.rule) for each in answer.findings] == [
        (kinds.FINDING_KIND_FALLBACK, 0, 0, "sane"),
        (kinds.FINDING_KIND_DEFAULTED, 0, 0, "default:momentum"),
        (kinds.FINDING_KIND_FLAGGED, 0, 2, "bounds:volume"),
        (kinds.FINDING_KIND_FLAGGED, 0, 1, "low"),
    ]


def test_no_more_findings_than_an_answer_names(engine: Observed, tmp_path: Path) -> None:
    flags = InputRules(bounds={"rsi": Bounds(maximum=0, policy="flag")})
    serve(engine, stable(tmp_path), quarter(tmp_path, input_rules=flags))
    answer = engine.predict(*[1.0, 120.0, 3.0] * 100, rows=100).message
    assert (len(answer.findings), answer.findings_left_out) == (100, 1)
    assert answer.findings[0].kind == FALLBACK_KIND


def test_what_runs_on_the_pool_falls_back_too(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path, limits=Limits(max_rows=10_000)), quarter(tmp_path, limits=Limits(max_rows=10_000)))
    features = np.full(30_000, 8, np.float32)
    features[29_999] = 800
    answer = engine.predict(*features.tolist(), rows=10_000).message
    assert answer.version == "2"
    assert np.array_equal(np.array(answer.values, np.float32), features * np.float32(0.25))
    assert [(each.row, each.column) for each in answer.findings] == [(9_999, 2)]


def test_model_infer_falls_back_too(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path))
    for _ in range(2):
        answer = engine.call(INFER, infer(raw([[1, 120, 4]]), request_id="id"), oip.ModelInferResponse).message
        check_inferred(answer)


def check_inferred(answer: Any) -> None:
    assert (answer.model_version, answer.id) == ("2", "id")
    assert answer.parameters["tickserve_role"].string_param == "fallback"
    assert '"FALLBACK"' in answer.parameters["tickserve_findings"].string_param
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [0.25, 30, 1]


def test_streams_fall_back_message_by_message(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path))
    stream = Stream(engine.channel, PREDICT_STREAM)
    for number, value in enumerate([1, 120, 2]):
        request = pb.PredictRequest.FromString(predict(features=[value, 2, 3]))
        stream.send(pb.PredictStreamRequest(sequence=number, predict=request).SerializeToString())
        found = pb.PredictStreamResponse.FromString(stream.receive())
        assert (found.sequence, found.answer.version) == (number, "2" if value == 120 else "1")
    stream.close()
    assert stream.ends_with() == ("OK", "")
    stream = Stream(engine.channel, INFER_STREAM)
    stream.send(infer(raw([[1, 120, 4]]), request_id="id"))
    check_inferred(oip.ModelStreamInferResponse.FromString(stream.receive()).infer_response)
    stream.close()
    assert stream.ends_with() == ("OK", "")


def test_a_plan_without_the_fallback_ends_it(engine: Observed, tmp_path: Path) -> None:
    model = serve(engine, stable(tmp_path), quarter(tmp_path))
    assert engine.predict(1, 120, 3).message.version == "2"
    engine.install(replace(model, fallback=""))
    assert engine.predict(1, 120, 3) == withheld()
    engine.install(model)
    assert engine.predict(1, 120, 3).message.version == "2"
    assert engine.counted("2", Role.FALLBACK).answered == 2


def test_the_breaker_sees_the_version_that_broke_the_rule(engine: Observed, tmp_path: Path) -> None:
    serve(engine, stable(tmp_path), quarter(tmp_path))
    engine.predict(1, 120, 3)
    runs = engine.engine.runs([("echo", "1"), ("echo", "2")])
    assert (runs["echo", "1"].answered, dict(runs["echo", "1"].errors)) == (0, {"OUTPUT_RULE": 1})
    assert (runs["echo", "2"].answered, dict(runs["echo", "2"].errors)) == (1, {})
