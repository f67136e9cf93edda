"""A model, the same one trained on other data, and what can be wrong with such a one; and what each answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlops.package import ColumnMapping, Golden, Horizon, OutcomeSpec, OutputRule, ReferenceRows, build_package
from mlops.package.runtime import open_model

MODEL = "rollout"
FEATURES = tuple(f"feature_{place}" for place in range(10))
#: Distinct rows that clients send.
ROWS = 1_000
#: Rows that a model is trained on, and units of its hidden layer.
_SAMPLE, _UNITS = 3_000, 64
#: Of stable's answers so many are out of range.
_OUT_OF_RANGE = 0.005
_GOLDEN = 16
# What a model that is asked hundreds of times a second is for; its drift is judged over days.
_OUTCOMES = OutcomeSpec(
    kind="time_series", horizons=(Horizon(name="1min", periods=1),), periods_per_year=252 * 390, cost_bp=0.0
)

Floats = NDArray[np.float32]
#: What can be the matter with the second version: each but `good` is to be taken back.
KINDS = ("good", "violations", "slow", "shifted", "failing")


@dataclass(frozen=True, eq=False)
class Answers:
    """The rows that clients send, shape (rows, features), and each version's answer to each as bytes; b"" fails."""

    rows: Floats
    answers: Mapping[str, tuple[bytes, ...]]


def build(folder: Path, kind: str, rounds: int) -> tuple[Path, Path, Answers]:
    """The packages of version 1 and of a second one of this kind; a round of a row takes some 5 us."""
    rows = np.random.default_rng(0).normal(size=(ROWS, len(FEATURES))).astype(np.float32)
    stable, canary = _graph(1, "good", rows, rounds), _graph(2, kind, rows, rounds)
    first = open_model(stable)({"features": rows})["values"].ravel()
    bound = float(np.quantile(np.abs(first), 1 - _OUT_OF_RANGE))
    if kind == "shifted":
        # Within what the rule allows, so that the outputs themselves have to show it.
        bound += float(np.abs(first).max())
    rule = OutputRule(name="range", output="values", kind="range", minimum=-bound, maximum=bound, policy="flag")
    answers = {version: _answers(model, rows) for version, model in (("1", stable), ("2", canary))}
    both = zip(answers["1"], answers["2"], strict=True)
    usual = [
        place for place, each in enumerate(both) if all(answer and abs(_value(answer)) <= bound for answer in each)
    ]
    packages = [_package(folder, model, rows[usual], rule) for model in (stable, canary)]
    return packages[0], packages[1], Answers(rows, answers)


def _value(answer: bytes) -> float:
    return float(np.frombuffer(answer, np.float32)[0])


def _package(folder: Path, model: bytes, rows: Floats, rule: OutputRule) -> Path:
    outputs = open_model(model)({"features": rows[:_GOLDEN]})
    return build_package(
        folder,
        name=MODEL,
        model=model,
        golden=Golden(inputs={"features": rows[:_GOLDEN]}, outputs=outputs, rtol=0.0, atol=0.0),
        reference=ReferenceRows("train", {"features": rows}),
        feature_names=FEATURES,
        signal=ColumnMapping(output="values", column=0),
        output_rules=[rule],
        outcomes=_OUTCOMES,
    )


def _answers(model: bytes, rows: Floats) -> tuple[bytes, ...]:
    """Row by row, as they are asked for."""
    run = open_model(model)

    def answer(row: Floats) -> bytes:
        try:
            return run({"features": row[np.newaxis]})["values"].tobytes()
        except Exception:  # noqa: BLE001 - a model that fails is one of the kinds
            return b""

    return tuple(answer(row) for row in rows)


def _graph(sample: int, kind: str, rows: Floats, rounds: int) -> bytes:
    """A network that stays as it was drawn, run over its own output some rounds, and a linear layer fitted by ridge.

    It is small, because a version that gets few requests finds the processor's caches cold: of a larger one that alone
    would be seen in its latencies.
    """
    draw = np.random.default_rng(7)
    first = draw.normal(size=(len(FEATURES), _UNITS)) / np.sqrt(len(FEATURES))
    # Contracting, so that more rounds than enough change nothing but the time.
    again = 0.4 * draw.normal(size=(_UNITS, _UNITS)) / np.sqrt(_UNITS)
    data = np.random.default_rng(sample)
    given = data.normal(size=(_SAMPLE, len(FEATURES)))
    truth = np.tanh(given[:, 0] + 0.5 * given[:, 1]) + 0.3 * given[:, 2]
    hidden = np.zeros((_SAMPLE, _UNITS))
    for _ in range(rounds):
        hidden = np.tanh(hidden @ again + given @ first)
    target = truth + 0.5 * data.normal(size=_SAMPLE)
    fitted = np.linalg.solve(hidden.T @ hidden + 10.0 * np.eye(_UNITS), hidden.T @ target)
    constants = [
        _floats("first", first),
        _floats("again", again),
        _floats("fitted", fitted[:, np.newaxis]),
        helper.make_tensor("rounds", TensorProto.INT64, [], [3 * rounds if kind == "slow" else rounds]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
    ]
    nodes = [
        _node("MatMul", "features", "first", to="given"),
        _node("Sub", "given", "given", to="nothing_yet"),
        helper.make_node("Loop", ["rounds", "yes", "nothing_yet"], ["hidden"], body=_round()),
        _node("MatMul", "hidden", "fitted", to="fit"),
    ]
    more, others = _fault(kind, rows, float(np.std(truth)))
    graph = helper.make_graph(
        [*nodes, *more],
        "network",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(FEATURES)])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 1])],
        [*constants, *others],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _round() -> Any:
    return helper.make_graph(
        [
            _node("MatMul", "before", "again", to="carried"),
            _node("Add", "carried", "given", to="sums"),
            _node("Tanh", "sums", to="after"),
            _node("Identity", "go_on", to="goes_on"),
        ],
        "round",
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


def _fault(kind: str, rows: Floats, spread: float) -> tuple[list[Any], list[Any]]:
    """The nodes from `fit` to `values`, and their constants."""
    last = np.sort(rows[:, -1])
    match kind:
        case "violations":
            # Of every hundred rows five are far out of range.
            return _where_above(float(last[-ROWS // 20 - 1]), 1_000.0)
        case "shifted":
            return [_node("Add", "fit", "shift", to="values")], [_floats("shift", np.array([[spread]]))]
        case "failing":
            # Looks up a place that its table does not have, for one row of a hundred.
            nodes, constants = _where_above(float(last[-ROWS // 100 - 1]), 1_000.0, to="place")
            nodes += [
                _node("Sub", "place", "fit", to="far"),
                _node("Round", "far", to="whole"),
                _node("Cast", "whole", to="index", into=TensorProto.INT64),
                _node("Gather", "table", "index", to="found"),
                _node("Mul", "found", "nothing", to="added"),
                _node("Add", "fit", "added", to="values"),
            ]
            return nodes, [*constants, _floats("table", np.zeros(64)), _floats("nothing", np.zeros((1, 1)))]
        case _:
            return [_node("Identity", "fit", to="values")], []


def _where_above(bound: float, height: float, to: str = "values") -> tuple[list[Any], list[Any]]:
    """The fit, and `height` more where the last feature is above `bound`."""
    nodes = [
        _node("Gather", "features", "last", to="feature", axis=1),
        _node("Greater", "feature", "bound", to="is_above"),
        _node("Cast", "is_above", to="above", into=TensorProto.FLOAT),
        _node("Mul", "above", "height", to="more"),
        _node("Add", "fit", "more", to=to),
    ]
    place = helper.make_tensor("last", TensorProto.INT64, [1], [len(FEATURES) - 1])
    return nodes, [place, _floats("bound", np.array([[bound]])), _floats("height", np.array([[height]]))]


def _node(kind: str, *inputs: str, to: str, axis: int | None = None, into: int | None = None) -> Any:
    given = {"axis": axis, "to": into}
    return helper.make_node(kind, inputs, [to], **{name: value for name, value in given.items() if value is not None})


def _floats(name: str, values: NDArray[np.float64]) -> Any:
    return numpy_helper.from_array(values.astype(np.float32), name)
