"""Many versions of one small model, each with weights of its own, and what each answers, bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.soak.clients import ROWS
from mlops.package import Golden, ReferenceRows, build_package
from mlops.package.runtime import run_model
from mlops.registry import Author, Registry

MODEL = "soak"
FEATURES = tuple(f"feature_{place}" for place in range(10))
_HIDDEN = 32


@dataclass(frozen=True)
class Expected:
    """The rows that clients send, and the answer of every version to each of them as bytes."""

    rows: np.ndarray
    answers: Mapping[int, tuple[bytes, ...]]


def add_versions(registry: Registry, folder: Path, count: int, author: Author) -> Expected:
    """Builds, registers and approves so many versions."""
    rows = np.random.default_rng(0).normal(size=(ROWS, len(FEATURES))).astype(np.float32)
    answers = {}
    for number in range(1, count + 1):
        model = make_model(number)
        outputs = run_model(model, {"features": rows})["values"]
        package = build_package(
            folder,
            name=MODEL,
            model=model,
            golden=Golden(inputs={"features": rows}, outputs={"values": outputs}, rtol=0.0, atol=0.0),
            reference=ReferenceRows("train", {"features": rows}),
            feature_names=FEATURES,
        )
        version = registry.register(package, author)
        registry.approve(MODEL, version.version, author)
        # One row at a time, as they are asked for.
        answers[version.version] = tuple(
            run_model(model, {"features": row[np.newaxis]})["values"].tobytes() for row in rows
        )
    return Expected(rows, answers)


def make_model(seed: int) -> bytes:
    """A small network with weights drawn from the seed."""
    draw = np.random.default_rng(seed)
    weights = {
        "first": draw.normal(size=(len(FEATURES), _HIDDEN)),
        "second": draw.normal(size=(_HIDDEN, 1)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "first"], ["sums"]),
            helper.make_node("Tanh", ["sums"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "second"], ["values"]),
        ],
        "network",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(FEATURES)])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
