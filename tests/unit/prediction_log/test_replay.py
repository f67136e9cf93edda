"""Replay: the package that answered, the same bits, and every record that cannot be replayed counted by why."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.package import Bounds, InputRules, Package, read_package
from mlops.package.rules import feature_bounds
from mlops.package.runtime import run_model
from mlops.prediction_log import Batch
from mlops.prediction_log.replay import Replayed, _Runner, replay
from mlops.tap import BrokenRule, Flag, Version
from tests.support.logs import Log
from tests.support.packages import build_constant
from tests.support.tap import record
from tests.support.taps import TapLife, rows


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return read_package(build_constant(tmp_path / "packages", 0.25))


def logged(tap: Path, folder: Path, package: Package, **changes: Any) -> Batch:
    """Three records of that package: answered, refused before it ran, and cut."""
    manifest = package.manifest
    life = TapLife(tap, slot_bytes=1024)
    of = Version(
        manifest.name, "1", bytes.fromhex(package.digest), manifest.inputs, manifest.outputs, manifest.feature_names
    )
    number = life.catalog.version(of)
    values = np.arange(2 * len(manifest.feature_names), dtype=np.float32).reshape(2, -1)
    outputs = run_model(package.model, {manifest.inputs[0].name: values})
    tensors = tuple(rows(outputs[spec.name]) for spec in manifest.outputs)
    usual: dict[str, Any] = {"version": number, "rows": 2, "inputs": (rows(values),), "outputs": tensors} | changes
    writer = life.writers[0]
    writer.write(record(**usual))
    writer.write(record(**(usual | {"outputs": (), "flags": Flag.READ, "status": 3})))
    cut = tuple(tensor._replace(data=b"", is_cut=True) for tensor in usual["inputs"])
    writer.write(record(**(usual | {"inputs": cut})))
    (batch,) = Log(tap, folder).drain()
    return batch


def test_equal_bits_are_equal_and_the_rest_is_counted_by_why(tap: Path, tmp_path: Path, package: Package) -> None:
    batch = logged(tap, tmp_path / "log", package)
    found = replay([batch], lambda *_: package)
    assert (found.records, found.equal, found.different) == (3, 1, 0)
    assert found.not_replayed == {"not run": 1, "cut": 1}
    missing = replay([batch], lambda *_: None)
    assert missing.not_replayed == {"not run": 1, "no package": 2}


def test_a_last_bit_that_differs_is_told_with_its_place(tap: Path, tmp_path: Path, package: Package) -> None:
    batch = logged(tap, tmp_path / "log", package)
    name = package.manifest.outputs[0].name
    other = batch.outputs[name].copy()
    other[1, 0] = np.nextafter(other[1, 0], np.float32(1))
    found = replay([dataclasses.replace(batch, outputs={**batch.outputs, name: other})], lambda *_: package)
    assert (found.equal, found.different) == (0, 1)
    (difference,) = found.differences
    assert (difference.tensor, difference.row, difference.column) == (name, 1, 0)
    assert difference.logged == float(other[1, 0])
    assert found.as_dict()["differences"][0]["position"] == 0


def test_inputs_that_were_clipped_are_clipped_again(tap: Path, tmp_path: Path) -> None:
    package = read_package(build_constant(tmp_path / "packages", 0.25))
    name = package.manifest.feature_names[0]
    rules = InputRules(bounds={name: Bounds(minimum=0, maximum=1, policy="clip")})
    manifest = package.manifest.model_copy(update={"input_rules": rules})
    seen: list[Any] = []

    def run(inputs: Any) -> dict[str, Any]:
        seen.append(inputs[manifest.inputs[0].name])
        return run_model(package.model, inputs)

    batch = logged(tap, tmp_path / "log", package, broken_rules=[BrokenRule(f"bounds:{name}", 2, 1)])
    found = replay([batch.take(np.array([0]))], lambda *_: package)
    assert found.equal == 1
    _Runner(manifest, run).replay(batch, 0, Replayed())
    assert feature_bounds(manifest.feature_names, rules, "FP32")[1][0] == 1
    assert seen[0][:, 0].tolist() == [0, 1], "the second row had a larger figure"
    assert seen[0][:, 1].tolist() == batch.inputs[manifest.inputs[0].name][:, 1][:2].tolist()
