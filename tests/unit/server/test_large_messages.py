"""Large messages: the event loop answers others meanwhile, and what cannot be served is found before it costs."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from mlops.package import Bounds, ColumnMapping, InputRules, Limits, OutputRule, TensorSpec
from server.engine.python.rules import MAX_FINDINGS, BoundsCheck, Findings
from server.engine.python.runtime import prepare, row_value, row_values
from server.engine.python.session import Session
from tests.support.models import _model, echo_model, version_plan
from tests.unit.server.engines import BOUND_S, INFER, PREDICT, PREDICT_STREAM, connection, refused, running
from tickserve.errors import InvalidInputError
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

ROWS = 300_000
MANY_ROWS = Limits(max_rows=1_000_000)
SMALL = pb.PredictRequest(model="echo", features=[1, 2, 3]).SerializeToString()


def predict_message(rows: int, value: float = 0.5) -> bytes:
    features = np.full(rows * 3, value, np.float32)
    return pb.PredictRequest(model="echo", rows=rows, features=features).SerializeToString()


def infer_message(rows: int, *, typed: bool) -> bytes:
    request = oip.ModelInferRequest(model_name="echo")
    tensor = request.inputs.add(name="features", datatype="FP32", shape=[rows, 3])
    if typed:
        tensor.contents.fp32_contents.extend(np.full(rows * 3, 0.5, np.float32))
    else:
        request.raw_input_contents.append(bytes(rows * 12))
    return request.SerializeToString()


class Gate:
    """Holds the work on a large request at one stage until the small one is answered, or for a bounded time."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.was_opened = False

    def around(self, stage: Callable[..., Any], is_large: Callable[..., bool]) -> Callable[..., Any]:
        def gated(*arguments: Any) -> Any:
            if is_large(*arguments):
                self.reached.set()
                self.was_opened = self.opened.wait(BOUND_S)
            return stage(*arguments)

        return gated


STAGES = {
    "read predict": ("server.engine.python.prediction._many", lambda _, count: count > 3),
    "read typed": ("server.engine.python.tensors._from_typed", lambda *given: given[2] > 3),
    "check inputs": ("server.engine.python.runtime.Runtime.check_inputs", lambda _, call, *__: call.rows > 1),
    "run": ("server.engine.python.session.Session.run", lambda _, arrays: len(arrays[0]) > 1),
    "check outputs": ("server.engine.python.runtime.Runtime.check_outputs", lambda _, call, *__: call.rows > 1),
    "encode predict": ("server.engine.python.prediction._float32", lambda array, *_: array.size > 3),
    "encode infer": ("server.engine.python.oip._raw", lambda array: array.size > 3),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_small_call_is_answered_while_four_megabytes_are_at_work(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, is_large = STAGES[stage]
    is_infer = "infer" in stage or "typed" in stage
    data = infer_message(ROWS, typed=True) if is_infer else predict_message(ROWS)
    assert len(data) > 3 << 20
    gate = Gate()
    # The answer to so many rows is as large as the message.
    with (
        running(version_plan(tmp_path, echo_model(), limits=MANY_ROWS), max_message_bytes=8 << 20) as (_, address),
        connection(address, max_receive_message_length=8 << 20) as first,
        connection(address) as second,
        monkeypatch.context() as patched,
    ):
        module, _, name = place.rpartition(".")
        patched.setattr(place, gate.around(_resolve(module, name), is_large))
        large = first.unary_unary(INFER if is_infer else PREDICT).future(data, timeout=2 * BOUND_S)
        assert gate.reached.wait(BOUND_S)
        small = pb.PredictResponse.FromString(second.unary_unary(PREDICT)(SMALL, timeout=2 * BOUND_S))
        assert not large.done()
        gate.opened.set()
        assert list(small.values) == [1, 2, 3]
        large.result()
    assert gate.was_opened


def _resolve(owner: str, name: str) -> Any:
    module, _, last = owner.rpartition(".")
    # A class in a module, or a module.
    found = __import__(module if last[0].isupper() else owner, fromlist=["*"])
    return getattr(getattr(found, last) if last[0].isupper() else found, name)


@pytest.fixture
def never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading contents is a fault."""

    def fail(*_: Any) -> None:
        raise AssertionError("contents were read")

    for name in ("_from_typed", "_from_raw_strings", "_strings"):
        monkeypatch.setattr(f"server.engine.python.tensors.{name}", fail)
    monkeypatch.setattr("server.engine.python.prediction._many", fail)


@pytest.mark.usefixtures("never_read")
@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_rows_are_bounded_before_any_contents_are_read(tmp_path: Path, datatype: str, typed: bool) -> None:
    if datatype == "FP32":
        plan = version_plan(tmp_path, echo_model(), limits=Limits(max_rows=4))
    else:
        plan = version_plan(tmp_path, text_model(), limits=Limits(max_rows=4), **TEXT_SCHEMA)
    request = oip.ModelInferRequest(model_name="echo")
    tensor = request.inputs.add(name="features", datatype=datatype, shape=[1000, 3])
    if not typed:
        request.raw_input_contents.append(bytes(12000))
    elif datatype == "FP32":
        tensor.contents.fp32_contents.extend([0.0] * 3000)
    else:
        tensor.contents.bytes_contents.extend([b"x"] * 3000)
    with running(plan) as (_, address), connection(address) as channel:
        expected = "the request has 1000 rows, model 'echo' takes at most 4"
        assert refused(channel, INFER, request.SerializeToString())[3] == expected
        if datatype == "FP32":
            assert refused(channel, PREDICT, predict_message(1000))[3] == expected


def test_a_shape_of_many_dimensions_is_refused_with_a_short_text(tmp_path: Path) -> None:
    request = oip.ModelInferRequest(model_name="echo")
    request.inputs.add(name="features", datatype="FP32", shape=[1] * 100_000)
    with running(version_plan(tmp_path, echo_model())) as (_, address), connection(address) as channel:
        text = refused(channel, INFER, request.SerializeToString())[3]
    assert text == f"input 'features' has shape {[1] * 16}, expected rank 2: [-1, 3]"


def test_many_parameters_are_refused_unread(tmp_path: Path) -> None:
    request = oip.ModelInferRequest(model_name="echo")
    for number in range(300):
        request.parameters[f"p{number}"].bool_param = True
    with running(version_plan(tmp_path, echo_model())) as (_, address), connection(address) as channel:
        answer = refused(channel, INFER, request.SerializeToString())
    assert answer == (
        "INVALID_ARGUMENT", "INVALID_INPUT", "0", "300 parameters are given, at most 256 are accepted"
    )  # fmt: skip


FLAGGED = InputRules(
    bounds={
        "momentum": Bounds(maximum=0, policy="flag"),
        "rsi": Bounds(maximum=0, policy="clip"),
    }
)
FLAGGED_OUTPUT = (OutputRule(name="low", output="values", kind="range", maximum=0, policy="flag"),)


def test_findings_of_an_answer_are_bounded_and_the_rest_is_counted(tmp_path: Path) -> None:
    plan = version_plan(tmp_path, echo_model(), limits=MANY_ROWS, input_rules=FLAGGED, output_rules=FLAGGED_OUTPUT)
    rows = 100_000
    with running(plan) as (engine, address), connection(address) as channel:
        answer = pb.PredictResponse.FromString(channel.unary_unary(PREDICT)(predict_message(rows), timeout=BOUND_S))
        (counted,) = engine.counters().versions
    assert (len(answer.findings), answer.findings_left_out) == (MAX_FINDINGS, 3 * rows - MAX_FINDINGS)
    assert [(f.kind, f.row, f.column, f.rule) for f in answer.findings[:3]] == [
        (pb.FINDING_KIND_FLAGGED, 0, 0, "bounds:momentum"),
        (pb.FINDING_KIND_CLIPPED, 0, 1, "bounds:rsi"),
        (pb.FINDING_KIND_FLAGGED, 1, 0, "bounds:momentum"),
    ]
    np.testing.assert_array_equal(np.reshape(answer.values, (rows, 3)), np.tile(np.float32([0.5, 0, 0.5]), (rows, 1)))
    assert counted.rule_violations == {
        ("bounds:momentum", "flag"): rows,
        ("bounds:rsi", "clip"): rows,
        ("low", "flag"): rows,
    }


def test_findings_left_out_travel_as_a_parameter_too(tmp_path: Path) -> None:
    plan = version_plan(tmp_path, echo_model(), input_rules=FLAGGED)
    request = oip.ModelInferRequest(model_name="echo")
    request.inputs.add(name="features", datatype="FP32", shape=[100, 3])
    request.raw_input_contents.append(np.ones((100, 3), "<f4").tobytes())
    with running(plan) as (_, address), connection(address) as channel:
        data = channel.unary_unary(INFER)(request.SerializeToString(), timeout=BOUND_S)
    parameters = oip.ModelInferResponse.FromString(data).parameters
    assert len(json.loads(parameters["tickserve_findings"].string_param)) == MAX_FINDINGS
    assert parameters["tickserve_findings_left_out"].int64_param == 100


def test_the_estimate_grows_with_rows_steps_and_width(tmp_path: Path) -> None:
    runtime, prepared = prepare(version_plan(tmp_path, echo_model()))
    handling_ns = 6 * 50
    assert runtime.ns_per_value == (prepared.run_time_ns + handling_ns) / 3


@pytest.mark.parametrize(
    ("rows", "steps", "thread"), [(1, 1, "data"), (1, 99, "data"), (1, 101, "run"), (101, 1, "run")]
)
def test_rows_and_steps_alike_decide_where_a_request_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, steps: int, thread: str
) -> None:
    shape = (-1, -1, 2)
    plan = version_plan(
        tmp_path,
        sequence_model(),
        inputs=(TensorSpec(name="features", datatype="FP32", shape=shape),),
        outputs=(TensorSpec(name="values", datatype="FP32", shape=shape),),
        feature_names=(),
        feature_digest=b"",
    )
    ran_on: list[str] = []
    # 200 us are reached with 200 values, which are 100 rows or steps.
    monkeypatch.setattr("server.engine.python.runtime._ns_per_value", lambda *_: 1000.0)
    with running(plan) as (_, address), connection(address) as channel:
        run = Session.run

        def noted(session: Session, arrays: Any) -> Any:
            ran_on.append(threading.current_thread().name.partition("_")[0])
            return run(session, arrays)

        monkeypatch.setattr(Session, "run", noted)
        request = pb.PredictRequest(model="echo", rows=rows, steps=steps, features=[0.5] * (rows * steps * 2))
        channel.unary_unary(PREDICT)(request.SerializeToString(), timeout=BOUND_S)
    assert ran_on == [thread]


def test_an_answer_over_the_bound_is_refused_by_us_and_a_stream_goes_on(tmp_path: Path) -> None:
    # Three numbers in, five hundred out.
    plan = version_plan(
        tmp_path, wide_model(500), outputs=(TensorSpec(name="values", datatype="FP32", shape=(-1, 500)),)
    )
    fits, too_many = predict_message(500), predict_message(600)
    with running(plan, max_message_bytes=1 << 20) as (engine, address), connection(address) as channel:
        assert channel.unary_unary(PREDICT)(fits, timeout=BOUND_S)
        status, reason, executed, text = refused(channel, PREDICT, too_many)
        assert (status, reason, executed) == ("INTERNAL", "INTERNAL", "1")
        assert text.startswith("the answer has 12000")
        assert text.endswith("ask for fewer rows or outputs")
        messages = [
            pb.PredictStreamRequest(sequence=n, predict=pb.PredictRequest.FromString(data)).SerializeToString()
            for n, data in enumerate((too_many, fits))
        ]
        replies = channel.stream_stream(PREDICT_STREAM)(iter(messages), timeout=BOUND_S)
        over, within = (pb.PredictStreamResponse.FromString(reply) for reply in replies)
        assert (over.error.reason, over.error.executed) == (pb.REASON_INTERNAL, True)
        # The answer tells how long it took, in as many bytes as that needs.
        assert over.error.message.startswith("the answer has 12000")
        assert len(within.answer.values) == 500 * 500
        (counted,) = engine.counters().versions
        assert (counted.answered, counted.errors) == (2, {"INTERNAL": 2})
        assert engine.take_faults() == []


def test_figures_are_the_same_for_one_row_and_for_many() -> None:
    values = np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32)
    values[3, 2] = np.nan
    for column in (None, 4):
        mapping = ColumnMapping(output="values", column=column, scale=0.1, offset=-0.3)
        many = row_values(mapping, values, 50)
        one = [row_value(mapping, row.reshape(1, 7)) for row in values]
        np.testing.assert_array_equal(many, one)
        expected = [0.1 * (max(row.tolist()) if column is None else float(row[4])) - 0.3 for row in values[4:]]
        assert many[4:].tolist() == expected


@pytest.mark.parametrize("rows", [1, 170, 171, 2000])
def test_features_are_read_exactly_however_many_they_are(tmp_path: Path, rows: int) -> None:
    features = np.random.default_rng(2).normal(size=rows * 3).astype(np.float32)
    request = pb.PredictRequest(
        model="echo", rows=rows, features=features, request_id="r", routing_key="k", timeout_us=10**9,
        event_time_unix_ns=-1,
    )  # fmt: skip
    # A field that is not known here stands behind all others.
    data = request.SerializeToString() + b"\xfa\x7f\x04abcd"
    with running(version_plan(tmp_path, echo_model())) as (_, address), connection(address) as channel:
        answer = pb.PredictResponse.FromString(channel.unary_unary(PREDICT)(data, timeout=BOUND_S))
    np.testing.assert_array_equal(np.array(answer.values, np.float32), features)


def test_first_value_out_of_bounds_is_named() -> None:
    check = BoundsCheck(("a", "b"), InputRules(bounds={"a": Bounds(maximum=0), "b": Bounds(maximum=0)}), "FP32")
    findings = Findings()
    with pytest.raises(InvalidInputError, match=r"feature 'b', row 1 is 7\.0"):
        check(np.float32([[0, 0], [0, 7], [9, 0]]), findings)
    assert findings.violations == {("bounds:b", "reject"): 1}


TEXT_SCHEMA: dict[str, Any] = {
    "inputs": (TensorSpec(name="features", datatype="BYTES", shape=(-1, 3)),),
    "outputs": (TensorSpec(name="values", datatype="BYTES", shape=(-1, 3)),),
    "feature_names": (),
    "feature_digest": b"",
}


def text_model() -> bytes:
    shape = ["rows", 3]
    return _model(
        [helper.make_node("Identity", ["features"], ["values"])],
        [helper.make_tensor_value_info("features", TensorProto.STRING, shape)],
        [helper.make_tensor_value_info("values", TensorProto.STRING, shape)],
    )


def sequence_model() -> bytes:
    shape = ["rows", "steps", 2]
    return _model(
        [helper.make_node("Identity", ["features"], ["values"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, shape)],
    )


def wide_model(width: int) -> bytes:
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [3, width], [0.0] * (3 * width))
    return _model(
        [helper.make_node("MatMul", ["features", "weights"], ["values"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", width])],
        [weights],
    )
