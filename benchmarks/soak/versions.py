"""Many versions of one model, each with weights of its own, and what each answers, bit for bit."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.soak.clients import ROWS
from mlops.package import Golden, ReferenceRows, build_package
from mlops.package.runtime import open_model
from mlops.registry import Author, Registry

MODEL = "soak"
FEATURES = tuple(f"feature_{place}" for place in range(10))


@dataclass(frozen=True)
class Expected:
    """The rows that clients send, and the answer of every version to each of them as bytes."""

    rows: np.ndarray
    answers: Mapping[int, tuple[bytes, ...]]


def add_versions(
    registry: Registry, folder: Path, count: int, author: Author, make: Callable[[int], bytes]
) -> Expected:
    """Builds, registers and approves so many versions of what `make` gives for their numbers."""
    answers: dict[int, tuple[bytes, ...]] = {}
    for number in range(1, count + 1):
        package, expected = build(folder, number, make)
        version = registry.register(package, author)
        registry.approve(MODEL, version.version, author)
        answers[version.version] = expected.answers[number]
    return Expected(expected.rows, answers)


def build(folder: Path, number: int, make: Callable[[int], bytes]) -> tuple[Path, Expected]:
    """Builds one version's package."""
    rows = np.random.default_rng(0).normal(size=(ROWS, len(FEATURES))).astype(np.float32)
    # Beside them a row of zeros, on which a slow model is fast: it is what the server measures it by.
    golden_rows = np.concatenate([np.zeros((1, len(FEATURES)), np.float32), rows])
    model = make(number)
    run = open_model(model)
    package = build_package(
        folder,
        name=MODEL,
        model=model,
        golden=Golden(inputs={"features": golden_rows}, outputs=run({"features": golden_rows}), rtol=0.0, atol=0.0),
        reference=ReferenceRows("train", {"features": rows}),
        feature_names=FEATURES,
    )
    # One row at a time, as they are asked for.
    return package, Expected(
        rows, {number: tuple(run({"features": row[np.newaxis]})["values"].tobytes() for row in rows)}
    )


def small(seed: int) -> bytes:
    """A network of a few hundred weights, drawn from the seed."""
    return _network(seed, [32])


def megabyte(seed: int) -> bytes:
    """A network whose file is 1 MB."""
    return _network(seed, [500, 500])


def resident(seed: int) -> bytes:
    """A small file that takes 64 MB in each session: a table that the runtime works out as it loads."""
    size = helper.make_tensor("size", TensorProto.INT64, [1], [16 << 20])
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    place = helper.make_tensor("place", TensorProto.INT64, [1], [seed])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["table"], value=one),
        # From the features, so that the table cannot be folded away.
        helper.make_node("ReduceMax", ["features"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["step"], to=TensorProto.INT64),
        helper.make_node("Add", ["place", "step"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["factor"]),
    ]
    return _network(seed, [32], nodes, [size, place], last="factor")


def slow(seed: int, repeats: int = 500) -> bytes:
    """A network that runs its second layer many times over, but not for a row of zeros."""
    side = 64
    draw = np.random.default_rng(seed)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "again"], ["sums_again"]),
            helper.make_node("Tanh", ["sums_again"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    weights = [
        _weights("again", 1.5 * draw.normal(size=(side, side)) / np.sqrt(side)),
        _weights("first", draw.normal(size=(len(FEATURES), side))),
        _weights("second", draw.normal(size=(side, 1))),
        _weights("repeats", np.array(float(repeats))),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
    ]
    nodes = [
        helper.make_node("Abs", ["features"], ["sizes"]),
        helper.make_node("ReduceMax", ["sizes"], ["largest"], keepdims=0),
        helper.make_node("Sign", ["largest"], ["sign"]),
        helper.make_node("Mul", ["sign", "repeats"], ["count"]),
        helper.make_node("Cast", ["count"], ["times"], to=TensorProto.INT64),
        helper.make_node("MatMul", ["features", "first"], ["hidden"]),
        helper.make_node("Loop", ["times", "yes", "hidden"], ["looped"], body=body),
        helper.make_node("MatMul", ["looped", "second"], ["values"]),
    ]
    return _model(nodes, weights)


def _network(
    seed: int,
    layers: Sequence[int],
    nodes: Sequence[Any] = (),
    constants: Sequence[Any] = (),
    *,
    last: str = "",
) -> bytes:
    """Layers of tanh and a linear one; the answer times `last` where that is named, which `nodes` give."""
    draw = np.random.default_rng(seed)
    graph, weights, before = list(nodes), list(constants), "features"
    for place, (width, size) in enumerate(itertools.pairwise((len(FEATURES), *layers))):
        weights.append(_weights(f"weights_{place}", draw.normal(size=(width, size)) / np.sqrt(width)))
        graph.append(helper.make_node("MatMul", [before, f"weights_{place}"], [f"sums_{place}"]))
        graph.append(helper.make_node("Tanh", [f"sums_{place}"], [f"hidden_{place}"]))
        before = f"hidden_{place}"
    weights.append(_weights("weights", draw.normal(size=(layers[-1], 1))))
    graph.append(helper.make_node("MatMul", [before, "weights"], ["sum" if last else "values"]))
    if last:
        graph.append(helper.make_node("Mul", ["sum", last], ["values"]))
    return _model(graph, weights)


def _weights(name: str, values: np.ndarray) -> Any:
    return numpy_helper.from_array(values.astype(np.float32), name)


def _model(nodes: Sequence[Any], weights: Sequence[Any]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(FEATURES)])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
