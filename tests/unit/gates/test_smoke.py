"""Smoke tests: packages that load, run, keep their rules and their budget, and packages that do not."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlops.package import Bounds, Golden, InputRules, Limits, OutputRule, Package, ReferenceRows, read_package
from mlops.package.runtime import open_model
from mlops.registry.gates import GateResult, LatencyLevels
from mlops.registry.gates.latency import Clock, latency_gate
from mlops.registry.gates.sample_rows import edge_rows
from mlops.registry.gates.smoke import smoke_gates
from tests.unit.package.builders import FEATURES, ROWS, TIMES, WEIGHTS, build_small

FINITE = OutputRule(name="finite", output="prediction", kind="finite")
BUDGET_US = 1000


def ticking(steps: Iterator[int]) -> Clock:
    """A clock that each pair of readings finds the next step apart."""
    now = 0
    is_end = False

    def read() -> int:
        nonlocal now, is_end
        if is_end:
            now += next(steps)
        is_end = not is_end
        return now

    return read


def smoke(package: Package | None, steps: Iterator[int] | None = None) -> dict[str, GateResult]:
    clock = ticking(repeat(10_000) if steps is None else steps)
    return {gate.name: gate for gate in smoke_gates(package, LatencyLevels(runs=1000), clock)}


def model(*nodes: Any, rows: int | str = "rows", constants: tuple[Any, ...] = ()) -> bytes:
    """Three features in, three predictions out, by these nodes."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [rows, 3])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [rows, 3])],
        list(constants),
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def build(folder: Path, graph: bytes, compute: Callable[[Any], Any], rows: Any = ROWS, **changes: Any) -> Package:
    """A package of this graph whose golden rows are the first eight that are all positive."""
    chosen = rows[(rows > 0).all(axis=1)][:8]
    settings: dict[str, Any] = {
        "model": graph,
        "golden": Golden({"features": chosen}, {"prediction": compute(chosen).astype(np.float32)}),
        "reference": ReferenceRows("train", {"features": rows}, TIMES[: len(rows)]),
        "outputs_reference": None,
        "output_rules": (FINITE,),
    }
    return read_package(build_small(folder, **(settings | changes)))


IDENTITY = model(helper.make_node("Identity", ["features"], ["prediction"]))
LOGARITHM = model(helper.make_node("Log", ["features"], ["prediction"]))
#: Each row less the mean of the batch: right for the golden rows together, and wrong for each alone.
CENTRED = model(
    helper.make_node("ReduceMean", ["features"], ["mean"], axes=[0], keepdims=1),
    helper.make_node("Sub", ["features", "mean"], ["prediction"]),
)


def test_good_package_passes_all_five(package: Path) -> None:
    found = smoke(read_package(package))
    assert list(found) == ["smoke.load", "smoke.inference", "smoke.output", "smoke.batch", "smoke.latency"]
    assert {gate.verdict for gate in found.values()} == {"pass"}
    assert found["smoke.inference"].figures["rows"] == 8
    assert found["smoke.batch"].figures["rows"] == 4096
    assert found["smoke.latency"].figures["n"] == 1000
    # Three features at two edges each, then all low and all high.
    assert found["smoke.output"].figures["edge_rows"] == 8


def test_without_a_package_nothing_passes() -> None:
    assert {gate.verdict for gate in smoke(None).values()} == {"inconclusive"}


def test_model_that_does_not_load_fails_and_the_rest_is_not_tried(package: Path) -> None:
    found = smoke(replace(read_package(package), model=b"no model"))
    assert found.pop("smoke.load").verdict == "fail"
    assert {gate.verdict for gate in found.values()} == {"inconclusive"}


def test_other_answers_than_the_golden_ones_fail(package: Path) -> None:
    good = read_package(package)
    assert good.golden is not None
    other = Golden(good.golden.inputs, {"prediction": ROWS[:8] @ WEIGHTS + np.float32(0.01)})
    found = smoke(replace(good, golden=other))["smoke.inference"]
    assert found.verdict == "fail"
    assert found.figures["max_error"] == pytest.approx(0.01, rel=1e-3)


def test_golden_rows_that_are_all_alike_say_nothing(tmp_path: Path) -> None:
    alike = np.tile(np.array([1.0, 2.0, 3.0], np.float32), (8, 1))
    package = build(tmp_path, IDENTITY, lambda x: x, golden=Golden({"features": alike}, {"prediction": alike}))
    assert smoke(package)["smoke.inference"].verdict == "inconclusive"


def test_edge_rows_hold_every_category_whole(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["venue"], ["echo"]), helper.make_node("Identity", ["size"], ["prediction"])],
        "test",
        [
            helper.make_tensor_value_info("venue", TensorProto.STRING, ["rows", 1]),
            helper.make_tensor_value_info("size", TensorProto.FLOAT, ["rows", 1]),
        ],
        [
            helper.make_tensor_value_info("echo", TensorProto.STRING, ["rows", 1]),
            helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["rows", 1]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    venue = np.array(["A", "LONGER"] * 50)[:, None]
    rows = {"venue": venue, "size": ROWS[:100, :1]}
    first = {name: array[:1] for name, array in rows.items()}
    package = read_package(
        build_small(
            tmp_path,
            model=made.SerializeToString(),
            golden=Golden(first, {"echo": first["venue"], "prediction": first["size"]}),
            reference=ReferenceRows("train", rows, TIMES[:100]),
            outputs_reference=None,
            feature_names=(),
            output_rules=(FINITE,),
        )
    )
    edges = edge_rows(package)
    assert edges is not None
    assert set(edges["venue"].ravel().tolist()) == {"A", "LONGER"}
    assert smoke(package)["smoke.output"].verdict == "pass"


def test_nan_at_an_edge_of_the_reference_fails(tmp_path: Path) -> None:
    found = smoke(build(tmp_path, LOGARITHM, np.log))["smoke.output"]
    assert found.verdict == "fail"
    assert "edge rows" in found.text


def test_bounds_that_keep_the_edge_out_let_it_pass(tmp_path: Path) -> None:
    bounds = {name: Bounds(minimum=1e-3, policy="reject") for name in FEATURES}
    package = build(tmp_path, LOGARITHM, np.log, input_rules=InputRules(bounds=bounds))
    assert smoke(package)["smoke.output"].verdict == "pass"


def test_answer_that_its_own_rule_withholds_fails_and_one_that_is_flagged_is_counted(tmp_path: Path) -> None:
    above = OutputRule(name="above", output="prediction", kind="range", minimum=0.0)
    found = smoke(build(tmp_path, IDENTITY, lambda x: x, output_rules=(above,)))["smoke.output"]
    assert found.verdict == "fail"
    assert "'above'" in found.text
    flagging = above.model_copy(update={"policy": "flag"})
    found = smoke(build(tmp_path, IDENTITY, lambda x: x, output_rules=(FINITE, flagging)))["smoke.output"]
    assert found.verdict == "pass"
    assert int(str(found.figures["flagged"])) > 0


def test_model_that_takes_missing_values_is_tried_on_them(tmp_path: Path) -> None:
    package = build(tmp_path, IDENTITY, lambda x: x, input_rules=InputRules(finite=False))
    edges = edge_rows(package)
    assert edges is not None
    assert np.isnan(edges["features"]).any(axis=0).all()
    assert smoke(package)["smoke.output"].verdict == "fail"


def test_rows_that_depend_on_the_others_of_their_batch_fail(tmp_path: Path) -> None:
    found = smoke(build(tmp_path, CENTRED, lambda x: x - x.mean(axis=0), limits=Limits(max_rows=8)))
    assert found["smoke.inference"].verdict == "fail"
    assert found["smoke.batch"].verdict == "fail"


def test_batches_of_one_size_only_cannot_be_compared(tmp_path: Path) -> None:
    fixed = model(helper.make_node("Identity", ["features"], ["prediction"]), rows=8)
    found = smoke(build(tmp_path, fixed, lambda x: x, reference=ReferenceRows("train", {"features": ROWS}, TIMES)))
    assert found["smoke.batch"].verdict == "inconclusive"
    assert found["smoke.output"].verdict == "inconclusive"
    assert found["smoke.latency"].verdict == "pass"


def test_package_of_one_row_a_request_has_no_batch(tmp_path: Path) -> None:
    found = smoke(build(tmp_path, IDENTITY, lambda x: x, limits=Limits(max_rows=1)))
    assert found["smoke.batch"].verdict == "inconclusive"


def times(package: Path, fast: int, slow: int, runs: int = 1000, declared_us: int = BUDGET_US) -> GateResult:
    """The latency gate where `slow` of the runs take twice the budget and the others half of it."""
    found = read_package(package)
    assert found.golden is not None
    steps = chain(repeat(500_000, fast), repeat(2_000_000, slow))
    levels = LatencyLevels(runs=runs)
    return latency_gate(found.golden, open_model(found.model), levels, declared_us, ticking(steps), is_by_row=True)


@pytest.mark.parametrize(
    ("slow", "verdict"), [(0, "pass"), (3, "pass"), (9, "inconclusive"), (13, "inconclusive"), (20, "fail")]
)
def test_latency_is_decided_on_the_interval_of_the_99th_percentile(package: Path, slow: int, verdict: str) -> None:
    found = times(package, 1000 - slow, slow)
    assert found.verdict == verdict
    assert found.threshold == BUDGET_US
    assert found.figures["p50_us"] == 500


def test_latency_without_a_budget_is_inconclusive(package: Path) -> None:
    assert times(package, 1000, 0, declared_us=0).verdict == "inconclusive"


def test_run_that_fails_fails_its_test(package: Path) -> None:
    good = read_package(package)
    assert good.golden is not None
    # One column too few: the runtime refuses it.
    short = Golden({"features": ROWS[:8, :2]}, {"prediction": np.zeros((8, 1), np.float32)})
    found = smoke(replace(good, golden=short, baseline=None))
    assert found["smoke.inference"].verdict == "fail"
    assert "model.onnx fails" in found["smoke.inference"].text
