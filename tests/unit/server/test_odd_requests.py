"""Requests and models at the edges: every one gets a status of ours, with its text."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from onnx import TensorProto, helper

from mlops.package import EventTimeRule, InputRules, TensorSpec
from server.api.admin import AdminServer
from server.api.control import ControlService, ProcessFacts
from server.api.repository import RepositoryService
from server.engine.python.runtime import prepare
from server.models import DirectorySource, LocalState, Memory, Operations, Reconciler
from tests.support.models import _model, echo_model, version_plan
from tests.unit.server.engines import (
    BOUND_S,
    GET_MODEL,
    INFER,
    PREDICT,
    connection,
    refused,
    running,
)
from tickserve.errors import PackageError
from tickserve.v1 import control_pb2
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

INFER_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def infer(request_id: str) -> bytes:
    request = oip.ModelInferRequest(model_name="echo", id=request_id)
    request.inputs.add(name="features", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
    return request.SerializeToString()


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[grpc.Channel]:
    with running(version_plan(tmp_path, echo_model())) as (engine, address), connection(address) as channel:
        yield channel
        assert engine.take_faults() == []


def test_id_of_an_infer_request_is_bounded_in_bytes(echo: grpc.Channel) -> None:
    for fits in ("x" * 64, "\u20ac" * 21):
        assert oip.ModelInferResponse.FromString(echo.unary_unary(INFER)(infer(fits), timeout=BOUND_S)).id == fits
    answer = refused(echo, INFER, infer("\u20ac" * 22))
    assert answer == ("INVALID_ARGUMENT", "INVALID_INPUT", "0", "id has 66 bytes, at most 64 are accepted")


def test_refusal_echoes_no_more_of_an_id_than_is_accepted(echo: grpc.Channel) -> None:
    replies = echo.stream_stream(INFER_STREAM)(iter([infer("x" * 3_000_000), infer("good")]), timeout=BOUND_S)
    long, good = (oip.ModelStreamInferResponse.FromString(reply) for reply in replies)
    assert (long.error_message, len(long.infer_response.id)) == ("id has 3000000 bytes, at most 64 are accepted", 64)
    assert good.infer_response.id == "good"


@pytest.mark.parametrize("seconds", [1e11, 1e300])
def test_event_time_bounds_beyond_64_bits_are_described(tmp_path: Path, seconds: float) -> None:
    rule = EventTimeRule(max_age_s=seconds, max_future_s=seconds)
    plan = version_plan(tmp_path, echo_model(), input_rules=InputRules(event_time=rule))
    request = pb.GetModelRequest(model="echo").SerializeToString()
    with running(plan) as (_, address), connection(address) as channel:
        info = pb.ModelInfo.FromString(channel.unary_unary(GET_MODEL)(request, timeout=BOUND_S))
        assert channel.unary_unary(INFER)(infer(""), timeout=BOUND_S)
    assert (info.max_age_ns, info.max_future_ns) == (2**64 - 1, 2**64 - 1)


def test_a_fault_in_a_description_is_internal_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("server.engine.python.prediction.describe", fail)
    monkeypatch.setattr("server.engine.python.reflection.Reflection.answer", fail)
    expected = ("INTERNAL", "INTERNAL", "0", "internal error; the server's log has the details")
    with running(version_plan(tmp_path, echo_model())) as (engine, address), connection(address) as channel:
        assert refused(channel, GET_MODEL, b"") == expected
        reflect = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        with pytest.raises(grpc.RpcError) as caught:
            next(channel.stream_stream(reflect)(iter([b""]), timeout=BOUND_S))
        assert (caught.value.code().name, caught.value.details()) == (expected[0], expected[3])
        faults = engine.take_faults()
    assert ["ZeroDivisionError: secret" in fault for fault in faults] == [True, True]


def test_bytes_that_are_no_control_message_are_the_callers_fault(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with running() as (engine, _):
        reconciler = Reconciler(DirectorySource(tmp_path / "models"), engine, LocalState(tmp_path))
        facts = ProcessFacts("serving", (), "")
        operations = Operations(reconciler)
        control = ControlService(reconciler, operations, engine, Memory(), process=lambda: facts, drain=lambda: None)
        admin = AdminServer("127.0.0.1:0", control, RepositoryService(reconciler, operations))
        admin.start()
        with connection(admin.address) as channel:
            for method in ("Status", "Halt", "Resume", "Counters", "Drain", "SetDesired", "Rollback", "Follow"):
                status, _, _, text = refused(channel, f"/tickserve.v1.Control/{method}", b"\x0a\xff")
                assert status == "INVALID_ARGUMENT"
                assert text == f"the message is not a valid {method}Request: its bytes do not decode"
            halt = control_pb2.HaltRequest(actor="kim").SerializeToString()
            status, _, _, text = refused(channel, "/tickserve.v1.Control/Halt", halt)
            assert (status, text) == (
                "INVALID_ARGUMENT",
                "reason is empty; every change says who asked for it and why",
            )
        admin.stop()


def filter_model(above: float) -> bytes:
    """Gives only the rows whose first feature is above a bound: how many depends on the values."""
    constants = [
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
        helper.make_tensor("above", TensorProto.FLOAT, [], [above]),
    ]
    return _model(
        [
            helper.make_node("Gather", ["features", "first"], ["column"], axis=1),
            helper.make_node("Greater", ["column", "above"], ["kept"]),
            helper.make_node("Compress", ["features", "kept"], ["values"], axis=0),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["some", 3])],
        constants,
    )


def test_model_whose_row_count_depends_on_the_values_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(PackageError) as caught:
        prepare(version_plan(tmp_path, filter_model(above=0.0)))
    assert caught.value.message == (
        "output 'values' has shape [0, 3] for one row, declared is [-1, 3]; an output gives one row for each row asked "
        "for, whatever the values are"
    )


def test_model_that_gives_rows_where_it_declares_a_single_value_is_not_loaded(tmp_path: Path) -> None:
    model = _model(
        [helper.make_node("ReduceSum", ["features", "axes"], ["values"], keepdims=0)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, [])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    plan = version_plan(tmp_path, model, outputs=(TensorSpec(name="values", datatype="FP32", shape=()),))
    with pytest.raises(PackageError, match=r"has shape \[1\] for one row, declared is \[\]"):
        prepare(plan)


def test_answer_of_another_shape_is_withheld_for_one_row_as_for_many(tmp_path: Path) -> None:
    # Zeros pass, so that only a request can tell.
    text = "output rule 'shape:values' of version 1 of model 'echo' is broken; the value is withheld"
    with (
        running(version_plan(tmp_path, filter_model(above=-1.0))) as (engine, address),
        connection(address) as channel,
    ):
        for rows in (1, 2):
            fine = pb.PredictRequest(model="echo", rows=rows, features=[1, 2, 3] * rows).SerializeToString()
            bad = pb.PredictRequest(model="echo", rows=rows, features=[-2, 2, 3] * rows).SerializeToString()
            assert refused(channel, PREDICT, bad) == ("INTERNAL", "OUTPUT_RULE", "1", text)
            answer = pb.PredictResponse.FromString(channel.unary_unary(PREDICT)(fine, timeout=BOUND_S))
            assert list(answer.values) == [1, 2, 3] * rows
        assert engine.take_faults() == []


def test_outputs_with_open_dimensions_beside_their_rows_are_served(tmp_path: Path) -> None:
    outputs = (TensorSpec(name="values", datatype="FP32", shape=(-1, -1)),)
    plan = version_plan(tmp_path, echo_model(), outputs=outputs)
    request = pb.PredictRequest(model="echo", features=[1, 2, 3]).SerializeToString()
    with running(plan) as (_, address), connection(address) as channel:
        answer = pb.PredictResponse.FromString(channel.unary_unary(PREDICT)(request, timeout=BOUND_S))
    assert list(answer.values) == [1, 2, 3]
