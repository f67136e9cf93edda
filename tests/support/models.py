"""Small ONNX models whose answers a test can compute by hand."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from mlops.package import InputRules, Limits, TensorSpec, feature_digest
from server.plan import VersionPlan

FEATURES = ("momentum", "rsi", "volume")


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: list[Any] | None = None) -> bytes:
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def echo_model() -> bytes:
    """Gives its three features back, so that a request decides its own answer."""
    return _model(
        [helper.make_node("Identity", ["features"], ["values"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 3])],
    )


def scaled_model(factor: float) -> bytes:
    """Gives its three features back, each times the factor: a version whose answers follow from another's."""
    return _model(
        [helper.make_node("Mul", ["features", "factor"], ["values"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )


def failing_model() -> bytes:
    """Gives its three features back, and fails where the first one is below zero or as large as 1."""
    return _model(
        [
            helper.make_node("Slice", ["features", "start", "end", "axes"], ["first"]),
            helper.make_node("Floor", ["first"], ["whole"]),
            helper.make_node("Cast", ["whole"], ["index"], to=TensorProto.INT64),
            # One element to take: any other index is out of bounds.
            helper.make_node("Gather", ["one", "index"], ["ones"], axis=0),
            helper.make_node("Mul", ["features", "ones"], ["values"]),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 3])],
        [
            helper.make_tensor("start", TensorProto.INT64, [1], [0]),
            helper.make_tensor("end", TensorProto.INT64, [1], [1]),
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        ],
    )


def constant_model(value: float) -> bytes:
    """Answers one value a row, whatever the features: versions can be told apart."""
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [3, 1], [0.0, 0.0, 0.0])
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [1], [value])
    return _model(
        [helper.make_node("Gemm", ["features", "weights", "bias"], ["values"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 1])],
        [weights, bias],
    )


def ballasted_model(value: float, size_bytes: int) -> bytes:
    """As `constant_model`, in a file of at least this size: its weights are zeros, and many."""
    inner = size_bytes // 12
    return _model(
        [
            helper.make_node("MatMul", ["features", "first"], ["inner"]),
            helper.make_node("ReduceSum", ["inner", "axes"], ["nothing"], keepdims=1),
            helper.make_node("Add", ["nothing", "value"], ["values"]),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 1])],
        [
            helper.make_tensor("first", TensorProto.FLOAT, [3, inner], bytes(12 * inner), raw=True),
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
            helper.make_tensor("value", TensorProto.FLOAT, [1], [value]),
        ],
    )


def bool_model() -> bytes:
    """Gives its three flags back."""
    return _model(
        [helper.make_node("Identity", ["features"], ["values"])],
        [helper.make_tensor_value_info("features", TensorProto.BOOL, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.BOOL, ["rows", 3])],
    )


def large_model(values: int) -> bytes:
    """A small file that takes four bytes a value once it is loaded, and is answered by sums of the features."""
    size = helper.make_tensor("size", TensorProto.INT64, [1], [values])
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    return _model(
        [
            # Constant, so that the runtime works it out as it loads.
            helper.make_node("ConstantOfShape", ["size"], ["many"], value=one),
            helper.make_node("ReduceMean", ["many"], ["mean"], keepdims=0),
            helper.make_node("ReduceSum", ["features", "axes"], ["row_sum"], keepdims=1),
            helper.make_node("Mul", ["row_sum", "mean"], ["values"]),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 1])],
        [size, axes],
    )


def huge_model() -> bytes:
    """A valid file whose one row no machine can hold."""
    return _model(
        [helper.make_node("Identity", ["features"], ["values"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 1 << 45])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 1 << 45])],
    )


def first_row_model() -> bytes:
    """Declares a row for each row asked for, and gives only the first."""
    zero = helper.make_tensor("zero", TensorProto.INT64, [1], [0])
    return _model(
        [helper.make_node("Gather", ["features", "zero"], ["values"], axis=0)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["answers", 3])],
        [zero],
    )


def square_model() -> bytes:
    """Squares its three features in float64."""
    return _model(
        [
            helper.make_node("Cast", ["features"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["wide", "wide"], ["values"]),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.DOUBLE, ["rows", 3])],
    )


def mixed_model() -> bytes:
    """Two inputs of different types and two outputs: `sum` is price + size, `count` is size."""
    return _model(
        [
            helper.make_node("Cast", ["size"], ["size_float"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["price", "size_float"], ["sum"]),
            helper.make_node("Identity", ["size"], ["count"]),
        ],
        [
            helper.make_tensor_value_info("price", TensorProto.FLOAT, ["rows", 2]),
            helper.make_tensor_value_info("size", TensorProto.INT64, ["rows", 1]),
        ],
        [
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["rows", 2]),
            helper.make_tensor_value_info("count", TensorProto.INT64, ["rows", 1]),
        ],
    )


def slow_model(repeats: int = 40) -> bytes:
    """Multiplies matrices of 400 x 400 `repeats` times before it answers: tens of milliseconds on one thread."""
    side = helper.make_tensor("side", TensorProto.INT64, [2], [400, 400])
    small = helper.make_tensor("small", TensorProto.FLOAT, [1], [1e-3])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        # From the input, so that the optimiser cannot fold the work away.
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[0, 1], keepdims=0),
        helper.make_node("Expand", ["small", "side"], ["m0"]),
        helper.make_node("Add", ["m0", "mean"], ["p0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"p{i}", "m0"], [f"p{i + 1}"]) for i in range(repeats)]
    nodes += [
        helper.make_node("ReduceMean", [f"p{repeats}"], ["end"], axes=[0, 1], keepdims=0),
        helper.make_node("Mul", ["end", "zero"], ["nothing"]),
        helper.make_node("ReduceSum", ["features", "axes"], ["row_sum"], keepdims=1),
        helper.make_node("Add", ["row_sum", "nothing"], ["values"]),
    ]
    return _model(
        nodes,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 1])],
        [side, small, axes, helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])],
    )


def working_model() -> bytes:
    """Multiplies matrices of 400 x 400 as often as the first feature says, and 20 times, before it sums the row up.

    So a request says for itself how long its run takes: a millisecond or two each. The least of it is what the engine
    measures, and long enough for a thread of its own.
    """
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["goes_on_still"]),
            helper.make_node("MatMul", ["before", "mean"], ["after"]),
        ],
        "once",
        [value("turn", TensorProto.INT64, []), value("goes_on", TensorProto.BOOL, []), value("before", 1, [400, 400])],
        [value("goes_on_still", TensorProto.BOOL, []), value("after", TensorProto.FLOAT, [400, 400])],
    )
    nodes = [
        helper.make_node("Expand", ["share", "side"], ["mean"]),
        helper.make_node("Slice", ["features", "from", "to", "both"], ["first"]),
        helper.make_node("Reshape", ["first", "scalar"], ["times"]),
        helper.make_node("Cast", ["times"], ["more"], to=TensorProto.INT64),
        helper.make_node("Add", ["more", "least"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "mean"], ["product"], body=body),
        helper.make_node("ReduceMean", ["product"], ["end"], axes=[0, 1], keepdims=0),
        helper.make_node("Mul", ["end", "zero"], ["nothing"]),
        helper.make_node("ReduceSum", ["features", "axes"], ["row_sum"], keepdims=1),
        helper.make_node("Add", ["row_sum", "nothing"], ["values"]),
    ]
    return _model(
        nodes,
        [value("features", TensorProto.FLOAT, ["rows", 3])],
        [value("values", TensorProto.FLOAT, ["rows", 1])],
        [
            # One part of 400 in each place, so that a product is what it was.
            helper.make_tensor("share", TensorProto.FLOAT, [1], [1 / 400]),
            helper.make_tensor("side", TensorProto.INT64, [2], [400, 400]),
            helper.make_tensor("from", TensorProto.INT64, [2], [0, 0]),
            helper.make_tensor("to", TensorProto.INT64, [2], [1, 1]),
            helper.make_tensor("both", TensorProto.INT64, [2], [0, 1]),
            helper.make_tensor("scalar", TensorProto.INT64, [0], []),
            helper.make_tensor("least", TensorProto.INT64, [], [20]),
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        ],
    )


def version_plan(folder: Path, model: bytes, *, name: str = "echo", version: str = "1", **changes: Any) -> VersionPlan:
    """Writes `model` below `folder` and returns its plan, as `unwritten_plan` makes it."""
    return write_plan(folder, model, unwritten_plan(model, name=name, version=version, **changes))


def write_plan(folder: Path, model: bytes, plan: VersionPlan) -> VersionPlan:
    """Writes `model` below `folder` and returns the plan with its path."""
    path = folder / plan.model / plan.version
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(model)
    return replace(plan, path=path)


def unwritten_plan(model: bytes, *, name: str = "echo", version: str = "1", **changes: Any) -> VersionPlan:
    """The plan of a model without a file yet: the echo model's schema and no rules, but for `changes`."""
    digest = hashlib.sha256(model).digest()
    plan: dict[str, Any] = {
        "inputs": (TensorSpec(name="features", datatype="FP32", shape=(-1, 3)),),
        "outputs": (TensorSpec(name="values", datatype="FP32", shape=(-1, 3)),),
        "feature_names": FEATURES,
        "feature_digest": feature_digest(FEATURES),
        "signal": None,
        "confidence": None,
        "input_rules": InputRules(),
        "output_rules": (),
        "limits": Limits(),
        "golden": None,
    }
    return VersionPlan(
        model=name, version=version, digest=digest, model_sha256=digest.hex(), path=Path(), **(plan | changes)
    )
