"""ModelInfer: what is answered, and how every wrong request is refused while the server goes on."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from mlops.package import EventTimeRule, InputRules, Limits, OutputRule, TensorSpec, feature_digest
from tests.conformance.conftest import Bench
from tests.support.models import FEATURES, bool_model, echo_model, mixed_model, version_plan
from tickserve.wire import grpc_service_pb2 as oip

Request = oip.ModelInferRequest


def request(values: np.ndarray | None = None, **changes: object) -> Request:
    """A valid request for the echo model, with one row unless `values` says otherwise."""
    array = np.array([[1.0, 2.0, 3.0]], dtype=np.float32) if values is None else values
    made = Request(model_name="echo", id="a-1")
    made.inputs.add(name="features", datatype="FP32", shape=array.shape)
    made.raw_input_contents.append(array.astype("<f4").tobytes())
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def echo(bench: Bench) -> Bench:
    bench.install(version_plan(bench.folder, echo_model(), limits=Limits(max_rows=4)))
    return bench


def values_of(message: oip.ModelInferResponse) -> list[float]:
    return np.frombuffer(message.raw_output_contents[0], dtype="<f4").tolist()


def test_answer_carries_values_id_version_digest_role_and_generation(echo: Bench) -> None:
    answer = echo.infer(request()).message
    assert values_of(answer) == [1.0, 2.0, 3.0]
    assert (answer.model_name, answer.model_version, answer.id) == ("echo", "1", "a-1")
    assert list(answer.outputs[0].shape) == [1, 3]
    assert answer.outputs[0].datatype == "FP32"
    assert answer.parameters["tickserve_digest"].string_param == echo.models["echo"].versions["1"].digest.hex()
    assert answer.parameters["tickserve_role"].string_param == "stable"
    assert answer.parameters["tickserve_plan_generation"].int64_param == echo.generation
    assert "tickserve_findings" not in answer.parameters


def test_one_and_several_rows_alternate_without_mixing(echo: Bench) -> None:
    for rows in (1, 4, 1, 2, 1):
        array = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) + rows
        answer = echo.infer(request(array)).message
        assert values_of(answer) == array.ravel().tolist()
        assert list(answer.outputs[0].shape) == [rows, 3]


def test_typed_contents_are_read_packed_and_unpacked(echo: Bench) -> None:
    made = request()
    del made.raw_input_contents[:]
    made.inputs[0].contents.fp32_contents.extend([4.0, 5.0, 6.0])
    assert values_of(echo.infer(made).message) == [4.0, 5.0, 6.0]
    # The same three floats, each with a tag of its own, as a proto2 writer sends them.
    contents = b"".join(b"\x35" + np.float32(value).tobytes() for value in (7.0, 8.0, 9.0))
    tensor = b"\x0a\x08features\x12\x04FP32\x1a\x02\x01\x03\x2a" + bytes([len(contents)]) + contents
    data = b"\x0a\x04echo\x2a" + bytes([len(tensor)]) + tensor
    outcome = echo.call("/inference.GRPCInferenceService/ModelInfer", data, oip.ModelInferResponse)
    assert values_of(outcome.message) == [7.0, 8.0, 9.0]


def test_inputs_come_in_any_order_and_outputs_as_requested(bench: Bench) -> None:
    bench.install(
        version_plan(
            bench.folder,
            mixed_model(),
            name="mixed",
            inputs=(
                TensorSpec(name="price", datatype="FP32", shape=(-1, 2)),
                TensorSpec(name="size", datatype="INT64", shape=(-1, 1)),
            ),
            outputs=(
                TensorSpec(name="sum", datatype="FP32", shape=(-1, 2)),
                TensorSpec(name="count", datatype="INT64", shape=(-1, 1)),
            ),
            feature_names=(),
            feature_digest=b"",
        )
    )
    made = Request(model_name="mixed")
    made.inputs.add(name="size", datatype="INT64", shape=[1, 1]).contents.int64_contents.append(10)
    made.inputs.add(name="price", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([0.5, 1.5])
    answer = bench.infer(made).message
    assert [output.name for output in answer.outputs] == ["sum", "count"]
    assert values_of(answer) == [10.5, 11.5]
    made.outputs.add(name="count")
    answer = bench.infer(made).message
    assert [output.name for output in answer.outputs] == ["count"]
    assert np.frombuffer(answer.raw_output_contents[0], dtype="<i8").tolist() == [10]
    made.inputs[0].shape[:] = [2, 1]
    made.inputs[0].contents.int64_contents.append(11)
    outcome = bench.infer(made)
    assert outcome.status == "INVALID_ARGUMENT"
    assert outcome.text == "input 'size' has 2 rows, the inputs before it have 1"


@dataclass(frozen=True)
class Refused:
    """A change to a valid request, and the refusal that it must meet."""

    name: str
    change: Callable[[Request], object]
    text: str
    status: str = "INVALID_ARGUMENT"
    reason: str = "INVALID_INPUT"
    field: str = "features"


def _replace_raw(data: bytes) -> Callable[[Request], object]:
    def change(made: Request) -> None:
        made.raw_input_contents[0] = data

    return change


def _shape(*shape: int) -> Callable[[Request], object]:
    def change(made: Request) -> None:
        made.inputs[0].shape[:] = shape
        count = abs(int(np.prod(shape)))
        made.raw_input_contents[0] = bytes(4 * count)

    return change


def _parameter(name: str, **value: object) -> Callable[[Request], object]:
    def change(made: Request) -> None:
        for kind, given in value.items():
            setattr(made.parameters[name], kind, given)

    return change


def _typed_too(made: Request) -> None:
    made.inputs[0].contents.fp32_contents.extend([1, 2, 3])


def _only_typed(**fields: list[object]) -> Callable[[Request], object]:
    def change(made: Request) -> None:
        del made.raw_input_contents[:]
        for name, elements in fields.items():
            getattr(made.inputs[0].contents, name).extend(elements)

    return change


def _second_input(name: str) -> Callable[[Request], object]:
    def change(made: Request) -> None:
        made.inputs.add(name=name, datatype="FP32", shape=[1, 3])
        made.raw_input_contents.append(bytes(12))

    return change


REFUSALS = [
    Refused("unknown model", lambda r: setattr(r, "model_name", "nope"), "unknown model 'nope'; models here: echo",
            "NOT_FOUND", "NOT_FOUND", "model"),
    Refused("unknown version", lambda r: setattr(r, "model_version", "7"),
            "version '7' of model 'echo' is not loaded; loaded: 1", "NOT_FOUND", "NOT_FOUND", "version"),
    Refused("datatype", lambda r: setattr(r.inputs[0], "datatype", "FP64"),
            "input 'features' has datatype 'FP64', expected FP32"),
    Refused("rank", _shape(3), "input 'features' has shape [3], expected rank 2: [-1, 3]"),
    Refused("dimension", _shape(1, 4), "input 'features' has shape [1, 4], expected [-1, 3]"),
    Refused("negative dimension", _shape(-1, 3), "input 'features' has shape [-1, 3], expected [-1, 3]"),
    Refused("no rows", _shape(0, 3), "input 'features' has shape [0, 3]: no rows; at least one is needed"),
    Refused("too many rows", _shape(5, 3), "the request has 5 rows, model 'echo' takes at most 4"),
    Refused("raw one short", _replace_raw(bytes(11)),
            "input 'features' has 11 raw bytes, expected 12 for FP32 [1, 3]"),
    Refused("raw one long", _replace_raw(bytes(13)),
            "input 'features' has 13 raw bytes, expected 12 for FP32 [1, 3]"),
    Refused("raw and typed", _typed_too,
            "input 'features' has typed contents although raw_input_contents is used; send one of them"),
    Refused("raw count", lambda r: r.raw_input_contents.append(b""),
            "raw_input_contents has 2 entries for 1 inputs; expected one an input", field="raw_input_contents"),
    Refused("no contents", _only_typed(),
            "input 'features' has 0 elements in fp32_contents, expected 3 for FP32 [1, 3]"),
    Refused("typed too few", _only_typed(fp32_contents=[1.0]),
            "input 'features' has 1 elements in fp32_contents, expected 3 for FP32 [1, 3]"),
    Refused("typed elsewhere", _only_typed(fp64_contents=[1.0, 2.0, 3.0]),
            "input 'features' of datatype FP32 has elements in fp64_contents, expected fp32_contents"),
    Refused("no inputs", lambda r: (r.inputs.pop(), r.raw_input_contents.pop()),
            "input 'features' is missing; expected features"),
    Refused("unknown input", _second_input("other"), "unknown input 'other'; expected features", field="other"),
    Refused("duplicate input", _second_input("features"), "input 'features' appears twice"),
    Refused("unknown output", lambda r: r.outputs.add(name="other"), "unknown output 'other'; the model gives values",
            field="other"),
    Refused("duplicate output", lambda r: (r.outputs.add(name="values"), r.outputs.add(name="values")),
            "output 'values' is requested twice", field="values"),
    Refused("NaN", _replace_raw(np.array([0, np.nan, 0], "<f4").tobytes()),
            "input 'features', row 0, column 1 (rsi) is nan; only finite values are accepted", field="rsi"),
    Refused("Inf", _replace_raw(np.array([0, 0, -np.inf], "<f4").tobytes()),
            "input 'features', row 0, column 2 (volume) is -inf; only finite values are accepted", field="volume"),
    Refused("shared memory", _parameter("shared_memory_region", string_param="x"),
            "parameter 'shared_memory_region' asks for shared memory, which is not offered",
            field="shared_memory_region"),
    Refused("sequence", _parameter("sequence_id", int64_param=1),
            "parameter 'sequence_id' asks for stateful sequences, which is not offered", field="sequence_id"),
    Refused("classification", lambda r: setattr(
        r.outputs.add(name="values").parameters["classification"], "int64_param", 1),
            "parameter 'classification' asks for classification results, which is not offered", field="classification"),
    Refused("long routing key", _parameter("tickserve_routing_key", string_param="k" * 65),
            "tickserve_routing_key has 65 bytes, at most 64 are accepted", field="tickserve_routing_key"),
    Refused("entities", _parameter("tickserve_entities", string_param="SPY,QQQ"),
            "entities has 2 entries, expected one for each of 1 rows, or none", field="tickserve_entities"),
    Refused("other features", _parameter("tickserve_feature_digest", string_param="00" * 32),
            "feature_digest is not that of version 1 of model 'echo'; read GetModel again and reorder the features",
            "FAILED_PRECONDITION", "FEATURES_CHANGED", "tickserve_feature_digest"),
    Refused("misspelt own parameter", _parameter("tickserve_feature_digst", string_param="00"),
            "unknown parameter 'tickserve_feature_digst'; ours are tickserve_routing_key, "
            "tickserve_event_time_unix_ns, tickserve_entities, tickserve_feature_digest",
            field="tickserve_feature_digst"),
    Refused("ill-typed timeout", _parameter("timeout", string_param="1"),
            "parameter 'timeout' must be a number of microseconds", field="timeout"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name)
def test_wrong_requests_are_refused_by_name_and_the_next_one_is_answered(echo: Bench, case: Refused) -> None:
    made = request()
    case.change(made)
    outcome = echo.infer(made)
    assert (outcome.status, outcome.reason, outcome.executed) == (case.status, case.reason, "0")
    assert (outcome.text, outcome.field) == (case.text, case.field)
    assert values_of(echo.infer(request()).message) == [1.0, 2.0, 3.0]


def test_malformed_protobuf_is_invalid_argument(echo: Bench) -> None:
    outcome = echo.call("/inference.GRPCInferenceService/ModelInfer", b"\x0a\xff")
    assert (outcome.status, outcome.reason) == ("INVALID_ARGUMENT", "INVALID_INPUT")
    assert outcome.text == "the message is not a valid ModelInferRequest: its bytes do not decode"


def test_message_over_the_bound_is_resource_exhausted(echo: Bench) -> None:
    made = request()
    made.parameters["padding"].string_param = "x" * (1 << 20)
    assert echo.infer(made).status == "RESOURCE_EXHAUSTED"
    assert echo.infer(request()).status == "OK"


def test_unknown_parameters_are_accepted(echo: Bench) -> None:
    made = request()
    made.parameters["triton_enable_empty_final_response"].bool_param = True
    made.parameters["priority"].uint64_param = 3
    assert echo.infer(made).status == "OK"


def test_broken_output_rule_withholds_the_value_and_says_that_the_model_ran(bench: Bench) -> None:
    rules = (
        OutputRule(name="range:values", output="values", kind="range", minimum=0.0, maximum=5.0),
        OutputRule(name="finite:values", output="values", kind="finite"),
    )
    bench.install(version_plan(bench.folder, echo_model(), output_rules=rules, input_rules=InputRules(finite=False)))
    for bad in (-0.5, 5.5, np.nan, np.inf):
        outcome = bench.infer(request(np.array([[1.0, bad, 1.0]], dtype=np.float32)))
        assert (outcome.status, outcome.reason, outcome.executed) == ("INTERNAL", "OUTPUT_RULE", "1")
        assert outcome.text == (
            "output rule 'range:values' of version 1 of model 'echo' is broken; the value is withheld"
        )
    assert bench.infer(request()).status == "OK"
    counted = bench.counted("echo")
    assert counted.errors == {"OUTPUT_RULE": 4}
    assert counted.rule_violations["range:values", "reject"] == 4
    assert counted.answered == 1


def test_findings_travel_as_json(bench: Bench) -> None:
    rules = (OutputRule(name="positive", output="values", kind="range", minimum=0.0, policy="flag"),)
    bench.install(version_plan(bench.folder, echo_model(), output_rules=rules))
    answer = bench.infer(request(np.array([[1, 1, 1], [1, -1, 1]], dtype=np.float32))).message
    assert answer.parameters["tickserve_findings"].string_param == (
        '[{"kind": "FLAGGED", "row": 1, "column": 1, "rule": "positive"}]'
    )


def test_timeout_and_event_time_come_as_parameters(bench: Bench) -> None:
    rule = EventTimeRule(required=True, max_age_s=60)
    bench.install(version_plan(bench.folder, echo_model(), input_rules=InputRules(event_time=rule)))
    made = request()
    made.parameters["tickserve_event_time_unix_ns"].int64_param = time.time_ns()
    made.parameters["tickserve_feature_digest"].string_param = feature_digest(FEATURES).hex()
    made.parameters["tickserve_entities"].string_param = "SPY"
    assert bench.infer(made).status == "OK"
    made.parameters["tickserve_event_time_unix_ns"].int64_param = 1
    assert bench.infer(made).reason == "STALE_INPUT"
    made.parameters["tickserve_event_time_unix_ns"].int64_param = time.time_ns()
    made.parameters["timeout"].int64_param = 1
    assert bench.infer(made).reason == "DEADLINE"


def test_bool_bytes_other_than_0_and_1_are_refused(bench: Bench) -> None:
    flags = TensorSpec(name="features", datatype="BOOL", shape=(-1, 3))
    values = TensorSpec(name="values", datatype="BOOL", shape=(-1, 3))
    plan = version_plan(
        bench.folder, bool_model(), inputs=(flags,), outputs=(values,), feature_names=(), feature_digest=b""
    )
    bench.install(plan)
    made = Request(model_name="echo")
    made.inputs.add(name="features", datatype="BOOL", shape=[1, 3])
    made.raw_input_contents.append(b"\x01\x00\x01")
    assert bench.infer(made).message.raw_output_contents[0] == b"\x01\x00\x01"
    made.raw_input_contents[0] = b"\x01\x02\x01"
    assert bench.infer(made).text == "input 'features' of datatype BOOL has a byte other than 0 and 1"
