"""More small ONNX graphs: one for each thing that a case asks of a model."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from mlops.package.datatypes import BY_ONNX_NUMBER

_ONNX_NUMBER = {datatype: number for number, datatype in BY_ONNX_NUMBER.items()}
_OPSET = 17

Shape = tuple[int | str, ...]


def identity_graph(datatype: str, shape: Shape = ("rows", 3)) -> bytes:
    """Gives its one tensor back."""
    number = _ONNX_NUMBER[datatype]
    return _graph(
        [helper.make_node("Identity", ["features"], ["values"])],
        {"features": (number, shape)},
        {"values": (number, shape)},
    )


def dense_graph() -> bytes:
    """Two layers of fixed random weights and a softmax: figures that differ in their last bits where a sum does."""
    random = np.random.default_rng(7)
    layers = {"w1": (3, 16), "b1": (16,), "w2": (16, 3), "b2": (3,)}
    return _graph(
        [
            helper.make_node("Gemm", ["features", "w1", "b1"], ["h1"]),
            helper.make_node("Tanh", ["h1"], ["h2"]),
            helper.make_node("Gemm", ["h2", "w2", "b2"], ["h3"]),
            helper.make_node("Softmax", ["h3"], ["values"], axis=1),
        ],
        {"features": (TensorProto.FLOAT, ("rows", 3))},
        {"values": (TensorProto.FLOAT, ("rows", 3))},
        {name: random.normal(size=shape).astype(np.float32) for name, shape in layers.items()},
    )


def sequence_graph() -> bytes:
    """Adds up the steps of each row."""
    return _graph(
        [helper.make_node("ReduceSum", ["features", "axes"], ["values"], keepdims=0)],
        {"features": (TensorProto.FLOAT, ("rows", "steps", 3))},
        {"values": (TensorProto.FLOAT, ("rows", 3))},
        {"axes": np.array([1])},
    )


def two_outputs_graph() -> bytes:
    """`edges` are a row's first and last feature, `total` is its sum as an integer."""
    return _graph(
        [
            helper.make_node("Gather", ["features", "ends"], ["edges"], axis=1),
            helper.make_node("ReduceSum", ["features", "axes"], ["sum"], keepdims=1),
            helper.make_node("Cast", ["sum"], ["total"], to=TensorProto.INT64),
        ],
        {"features": (TensorProto.FLOAT, ("rows", 3))},
        {"edges": (TensorProto.FLOAT, ("rows", 2)), "total": (TensorProto.INT64, ("rows", 1))},
        {"ends": np.array([0, 2]), "axes": np.array([1])},
    )


def lookup_graph(width: int = 0) -> bytes:
    """Looks each index up in a table of four figures, or of four rows of `width`; an index beyond it fails the run."""
    shape = (4, width) if width else (4,)
    table = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return _graph(
        [helper.make_node("Gather", ["table", "index"], ["values"])],
        {"index": (TensorProto.INT64, ("rows", 1))},
        {"values": (TensorProto.FLOAT, ("rows", 1, *shape[1:]))},
        {"table": table},
    )


def _graph(
    nodes: list[object],
    inputs: dict[str, tuple[int, Shape]],
    outputs: dict[str, tuple[int, Shape]],
    constants: dict[str, np.ndarray] | None = None,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info(name, *described) for name, described in inputs.items()],
        [helper.make_tensor_value_info(name, *described) for name, described in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())
