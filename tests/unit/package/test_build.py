"""Building: the digest follows the input alone, defaults fit the task, and what would not work is not written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from onnx import TensorProto, helper

from mlops.package import (
    BASELINE_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Bounds,
    ColumnMapping,
    DatasetInfo,
    Golden,
    Horizon,
    InputRules,
    Limits,
    Metric,
    OutcomeSpec,
    OutputRule,
    ReferenceRows,
    Training,
    check_model,
    read_bare_model,
    read_package,
)
from tests.unit.package.builders import LATER, ROWS, TIMES, WEIGHTS, build_small, golden, linear_model, rewrite
from tickserve.errors import DamagedPackageError, DataError, PackageError


def test_a_package_is_named_by_its_digest_and_complete(package: Path) -> None:
    assert sorted(os.listdir(package)) == sorted(
        [MODEL_FILE, GOLDEN_FILE, BASELINE_FILE, MANIFEST_FILE, "manifest.sha256"]
    )
    assert read_package(package).digest == package.name
    assert os.listdir(package.parent) == [package.name]


def test_equal_input_gives_the_equal_digest(package: Path, tmp_path: Path) -> None:
    again = build_small(tmp_path)

    assert again.name == package.name
    for name in os.listdir(package):
        assert (again / name).read_bytes() == (package / name).read_bytes()
    assert build_small(tmp_path) == again


@pytest.mark.parametrize(
    "change",
    [
        {"description": "other"},
        {"golden": Golden({"features": ROWS[:7]}, {"prediction": ROWS[:7] @ WEIGHTS})},
        {"model": linear_model(lambda model: setattr(model, "doc_string", "other"))},
        {"reference": ReferenceRows("train", {"features": ROWS[:150]}, TIMES[:150])},
        {"outputs_reference": None},
    ],
)
def test_other_input_gives_another_digest(package: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    assert build_small(tmp_path, **change).name != package.name


def test_a_damaged_package_of_the_same_digest_is_not_taken_for_built(tmp_path: Path) -> None:
    os.truncate(build_small(tmp_path) / MODEL_FILE, 10)

    with pytest.raises(DamagedPackageError):
        build_small(tmp_path)


def test_manifest_entries_are_passed_through(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "description": "a description",
        "author": "somebody",
        "tags": {"desk": "equities"},
        "signal": ColumnMapping(output="prediction", column=0, scale=2.0, offset=-1.0),
        "confidence": ColumnMapping(output="prediction"),
        "input_rules": InputRules(bounds={"rsi": Bounds(maximum=100.0, policy="clip")}, defaults={"volume": 0.0}),
        "output_rules": (OutputRule(name="sane", output="prediction", kind="range", minimum=-1e6),),
        "limits": Limits(max_rows=16),
        "outcomes": OutcomeSpec(
            kind="time_series", horizons=(Horizon(name="1d", periods=1),), periods_per_year=252.0, cost_bp=1.0
        ),
        "training": Training(framework="none", seed=3, parameters={"alpha": "1"}),
        "metrics": {"validation": {"auc": Metric(value=0.51, standard_error=0.02, n=200)}},
    }
    dataset = DatasetInfo(fingerprint="0" * 64, rows=5, order="unknown")

    manifest = read_package(build_small(tmp_path, **given, datasets={"validation": dataset})).manifest

    assert {name: getattr(manifest, name) for name in given} == given
    assert manifest.datasets["validation"] == dataset
    assert sorted(manifest.datasets) == ["test", "train", "validation"]
    assert manifest.datasets["train"] == ReferenceRows("train", {"features": ROWS}, TIMES).describe()
    assert (manifest.baseline_inputs, manifest.baseline_outputs) == ("train", "test")


def test_a_description_of_a_data_set_outranks_its_rows(tmp_path: Path) -> None:
    dataset = DatasetInfo(fingerprint="0" * 64, rows=500, order="time", first="2020-01-01", last="2021-01-01")

    assert read_package(build_small(tmp_path, datasets={"train": dataset})).manifest.datasets["train"] == dataset


def test_without_out_of_sample_rows_outputs_have_no_baseline(tmp_path: Path) -> None:
    found = read_package(build_small(tmp_path, outputs_reference=None))

    assert found.baseline is not None
    assert found.baseline.outputs is None
    assert found.manifest.baseline_outputs == ""


def test_outputs_on_training_rows_are_no_reference(tmp_path: Path) -> None:
    outputs = ReferenceRows("train", {"prediction": ROWS @ WEIGHTS}, TIMES)

    with pytest.raises(DataError, match="not trained on"):
        build_small(tmp_path, outputs_reference=outputs)


def test_outputs_of_a_data_set_with_the_same_fingerprint_are_no_reference(tmp_path: Path) -> None:
    same = ReferenceRows("train", {"features": ROWS}, TIMES).describe()

    with pytest.raises(DataError, match="fingerprint of 'train'") as caught:
        build_small(tmp_path, datasets={"test": same})
    assert caught.value.field == "test"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("start", ["2019-10-01", "2020-03-01", "2020-07-18"])
def test_outputs_of_an_overlapping_period_are_no_reference(tmp_path: Path, start: str) -> None:
    times = np.datetime64(start) + np.arange(100)
    outputs = ReferenceRows("test", {"prediction": ROWS[:100] @ WEIGHTS}, times)

    first = max(times[0], TIMES[0])
    last = min(times[-1], TIMES[-1])
    with pytest.raises(DataError, match=f"both it and 'train' cover {first} to {last}"):
        build_small(tmp_path, outputs_reference=outputs)


@pytest.mark.parametrize("start", ["2019-09-23", "2020-07-19"])
def test_outputs_right_before_or_after_the_training_period_are_a_reference(tmp_path: Path, start: str) -> None:
    outputs = ReferenceRows("test", {"prediction": ROWS[:100] @ WEIGHTS}, np.datetime64(start) + np.arange(100))

    assert build_small(tmp_path, outputs_reference=outputs).exists()


def constant_model(dtype: type[np.floating[Any]], value: float) -> bytes:
    """`values` is `value` for each row, in this precision."""

    def edit(model: Any) -> None:
        graph = model.graph
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        graph.initializer[0].CopyFrom(helper.make_tensor("weights", kind, [3, 1], [0.0] * 3))
        graph.initializer.append(helper.make_tensor("value", kind, [1], [value]))
        del graph.node[:]
        graph.node.append(helper.make_node("Cast", ["features"], ["cast"], to=kind))
        graph.node.append(helper.make_node("MatMul", ["cast", "weights"], ["zero"]))
        graph.node.append(helper.make_node("Add", ["zero", "value"], ["values"]))
        graph.output[0].CopyFrom(helper.make_tensor_value_info("values", kind, ["rows", 1]))

    return linear_model(edit)


def softmax_model(name: str = "probabilities") -> bytes:
    def edit(model: Any) -> None:
        graph = model.graph
        graph.initializer[0].CopyFrom(helper.make_tensor("weights", TensorProto.FLOAT, [3, 2], np.ones(6)))
        graph.node[0].output[0] = "scores"
        graph.node.append(helper.make_node("Softmax", ["scores"], [name]))
        graph.output[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 2]))

    return linear_model(edit)


def test_classification_has_finite_range_and_row_sum_rules_by_default(tmp_path: Path) -> None:
    rows = np.full((8, 2), 0.5, np.float32)
    folder = build_small(
        tmp_path,
        task="classification",
        model=softmax_model(),
        golden=Golden({"features": ROWS[:8]}, {"probabilities": rows}),
        outputs_reference=None,
    )
    rules = {rule.name: rule for rule in read_package(folder).manifest.output_rules}

    assert list(rules) == ["probabilities_finite", "probabilities_range", "probabilities_row_sum"]
    assert rules["probabilities_range"].minimum == pytest.approx(0, abs=1e-4)
    assert rules["probabilities_range"].maximum == pytest.approx(1, abs=1e-4)
    assert {rule.policy for rule in rules.values()} == {"reject"}


def test_regression_must_be_finite_by_default(package: Path) -> None:
    assert [(rule.output, rule.kind) for rule in read_package(package).manifest.output_rules] == [
        ("prediction", "finite")
    ]


def test_rules_that_the_golden_rows_break_are_refused(tmp_path: Path) -> None:
    too_narrow = OutputRule(name="narrow", output="prediction", kind="range", minimum=0.0, maximum=0.1)

    with pytest.raises(PackageError, match="breaks output rule 'narrow'"):
        build_small(tmp_path, output_rules=[too_narrow])
    assert not os.path.exists(tmp_path) or os.listdir(tmp_path) == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_golden_output_equal_to_its_bound_obeys_the_rule_in_its_own_precision(
    tmp_path: Path, dtype: type[np.floating[Any]]
) -> None:
    rule = OutputRule(name="most", output="values", kind="range", maximum=0.1)
    at_bound = dtype(0.1)
    above = np.nextafter(at_bound, dtype(1))

    def build(answer: np.floating[Any]) -> Path:
        return build_small(
            tmp_path,
            model=constant_model(dtype, float(answer)),
            golden=Golden({"features": ROWS[:2]}, {"values": np.full((2, 1), answer, dtype)}, 0.0, 0.0),
            outputs_reference=None,
            output_rules=[rule],
        )

    assert build(at_bound).exists()
    with pytest.raises(PackageError, match="breaks output rule 'most'"):
        build(above)


def test_golden_inputs_that_the_package_would_reject_are_refused(tmp_path: Path) -> None:
    features = ROWS[:8].copy()
    features[3, 1] = 2.5
    rows = Golden({"features": features}, {"prediction": features @ WEIGHTS})

    def build(policy: Literal["reject", "clip", "flag"], maximum: float) -> Path:
        rules = InputRules(bounds={"rsi": Bounds(maximum=maximum, policy=policy)})
        return build_small(tmp_path, golden=rows, input_rules=rules)

    with pytest.raises(PackageError, match=r"row 3: feature 'rsi' is 2\.5, outside its bounds -inf to 2\.4") as caught:
        build("reject", 2.4)
    assert caught.value.field == "input_rules.bounds.rsi"
    assert build("reject", 2.5).exists()
    assert build("clip", 2.4).exists()
    assert build("flag", 2.4).exists()


def test_golden_rows_with_missing_values_need_a_rule_that_lets_them_in(tmp_path: Path) -> None:
    features = ROWS[:8].copy()
    features[0, 0] = np.nan
    missing = Golden({"features": features}, {"prediction": features @ WEIGHTS})

    with pytest.raises(PackageError, match=r"input_rules.finite"):
        build_small(tmp_path, golden=missing)
    with pytest.raises(PackageError, match="breaks output rule"):
        build_small(tmp_path, golden=missing, input_rules=InputRules(finite=False))
    assert build_small(tmp_path, golden=missing, input_rules=InputRules(finite=False), output_rules=[]).exists()


def test_a_model_that_does_not_repeat_the_golden_rows_is_not_written(tmp_path: Path) -> None:
    wrong = Golden({"features": ROWS[:8]}, {"prediction": ROWS[:8] @ WEIGHTS + np.float32(0.01)})

    with pytest.raises(PackageError, match="does not repeat its golden rows: output 'prediction' at"):
        build_small(tmp_path, golden=wrong)
    assert os.listdir(tmp_path) == []


def unknown_operator(model: Any) -> None:
    model.graph.node[0].op_type = "Divine"


def unknown_domain(model: Any) -> None:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def future_opset(model: Any) -> None:
    model.opset_import[0].version = 9999


@pytest.mark.parametrize("edit", [unknown_operator, unknown_domain, future_opset])
def test_an_operator_that_the_runtime_lacks_is_named(
    package: Path, tmp_path: Path, edit: Callable[[Any], None]
) -> None:
    with pytest.raises(PackageError, match="uses an operator or operator set that onnxruntime") as caught:
        build_small(tmp_path, model=linear_model(edit))
    if edit is not future_opset:
        assert ("Divine" if edit is unknown_operator else "com.example") in caught.value.message
    assert os.listdir(tmp_path) == []

    # Hashes say nothing about it: such a package reads, but does not check.
    folder = rewrite(package, tmp_path, {MODEL_FILE: linear_model(edit)})
    with pytest.raises(PackageError, match="lacks"):
        check_model(read_package(folder))


def test_an_invalid_graph_is_a_clear_error(package: Path, tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        model.graph.node[0].input[1] = "absent"

    folder = rewrite(package, tmp_path, {MODEL_FILE: linear_model(edit)})
    with pytest.raises(PackageError, match="cannot be loaded by onnxruntime"):
        check_model(read_package(folder))


def test_a_model_that_fails_on_its_rows_is_a_clear_error(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        shape = helper.make_tensor("shape", TensorProto.INT64, [2], [3, 1])
        model.graph.initializer.append(shape)
        model.graph.node[0].output[0] = "product"
        model.graph.node.append(helper.make_node("Reshape", ["product", "shape"], ["prediction"]))

    with pytest.raises(PackageError, match="fails on its inputs"):
        build_small(tmp_path, model=linear_model(edit))


def test_check_gives_the_largest_difference(tmp_path: Path) -> None:
    off = Golden({"features": ROWS[:8]}, {"prediction": ROWS[:8] @ WEIGHTS + np.float32(0.25)}, rtol=0.0, atol=0.5)

    assert check_model(read_package(build_small(tmp_path, golden=off))) == pytest.approx(0.25, abs=1e-5)


def test_a_bare_model_has_nothing_to_check_against(tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_bytes(linear_model())
    assert check_model(read_bare_model(tmp_path, "bare")) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../escape"}, "model name"),
        ({"feature_names": ("a", "b")}, "2 feature_names"),
        ({"feature_names": ("a", "b", "a")}, "appears twice"),
        ({"signal": ColumnMapping(output="absent")}, "unknown output"),
        ({"metrics": {"absent": {}}}, "unknown data set"),
        ({"training": Training(parameters={"a": "b"}), "description": 5}, "description"),
        ({"golden": Golden({"features": ROWS[:8]}, {"other": ROWS[:8]})}, "the schema has"),
        ({"model": b"no model"}, "no ONNX file"),
    ],
)
def test_what_contradicts_itself_is_not_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises((PackageError, DataError), match=message):
        build_small(tmp_path, **change)
    assert os.listdir(tmp_path) == []


def test_models_with_several_inputs_and_kinds_of_tensors_are_packaged(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["size"], ["size_float"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["price", "size_float"], ["sum"]),
            helper.make_node("Identity", ["symbol"], ["echo"]),
        ],
        "mixed",
        [
            helper.make_tensor_value_info("price", TensorProto.FLOAT, ["rows", 1]),
            helper.make_tensor_value_info("size", TensorProto.INT64, ["rows", 1]),
            helper.make_tensor_value_info("symbol", TensorProto.STRING, ["rows"]),
        ],
        [
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["rows", 1]),
            helper.make_tensor_value_info("echo", TensorProto.STRING, ["rows"]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    inputs = {
        "price": ROWS[:, :1],
        "size": np.arange(200, dtype=np.int64).reshape(200, 1),
        "symbol": np.array(["A", "B"] * 100),
    }
    outputs = {"sum": inputs["price"] + inputs["size"].astype(np.float32), "echo": inputs["symbol"]}

    folder = build_small(
        tmp_path,
        model=model,
        golden=Golden(inputs, outputs),
        reference=ReferenceRows("train", inputs, TIMES),
        outputs_reference=ReferenceRows("test", outputs, LATER),
        feature_names=(),
    )

    found = read_package(folder)
    assert check_model(found) == 0.0
    assert found.baseline is not None
    assert [column.name for column in found.baseline.inputs.columns] == ["price[0]", "size[0]", "symbol"]
    assert golden().mismatch({"prediction": ROWS[:8] @ WEIGHTS}) is None
