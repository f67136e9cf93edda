"""The deployment checklist: each tick has data behind it."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlops.package import MODEL_FILE, OutputRule, ReferenceRows, read_package
from mlops.registry.gates.checklist import monitoring_gate, output_rules_gate, version_gate
from mlops.registry.gates.evaluate import evaluate
from mlops.registry.gates.policy import GatePolicy, LatencyLevels
from tests.support.evaluations import make_facts
from tests.support.packages import flip_byte
from tests.unit.package.builders import ROWS, WEIGHTS, build_small, copy_as

QUICK = GatePolicy(latency=LatencyLevels(runs=500))


def test_registered_package_is_tracked(package: Path) -> None:
    found = read_package(package)
    gate = version_gate(found.manifest, found, "")
    assert gate.verdict == "pass"
    assert gate.figures["digest"] == package.name


def test_another_package_than_the_registered_one_fails(package: Path) -> None:
    registered = make_facts(package, description="another").manifest
    assert version_gate(registered, read_package(package), "").verdict == "fail"


def test_damaged_package_fails_and_is_not_run(package: Path, tmp_path: Path) -> None:
    copy = copy_as(package, tmp_path / "copy")
    flip_byte(copy / MODEL_FILE)
    gates = {gate.name: gate for gate in evaluate(replace(make_facts(package), path=copy), None, QUICK).gates}
    assert gates["version_tracked"].verdict == "fail"
    assert "SHA-256" in gates["version_tracked"].text
    assert gates["smoke.load"].verdict == "inconclusive"


def test_package_that_is_not_here_is_inconclusive(package: Path, tmp_path: Path) -> None:
    gates = {
        gate.name: gate for gate in evaluate(replace(make_facts(package), path=tmp_path / "none"), None, QUICK).gates
    }
    assert gates["version_tracked"].verdict == "inconclusive"
    assert gates["monitoring"].verdict == "inconclusive"


def rule(policy: str) -> OutputRule:
    return OutputRule.model_validate({"name": "r", "output": "prediction", "kind": "finite", "policy": policy})


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        ((rule("reject"),), "pass"),
        ((rule("fallback"),), "pass"),
        ((rule("flag"), rule("reject")), "pass"),
        ((rule("flag"),), "inconclusive"),
        ((), "fail"),
    ],
)
def test_bad_outputs_have_to_be_withheld(package: Path, rules: tuple[OutputRule, ...], verdict: str) -> None:
    assert output_rules_gate(make_facts(package, output_rules=rules).manifest).verdict == verdict


def test_baselines_over_time_of_other_rows_can_be_monitored(package: Path) -> None:
    assert monitoring_gate(read_package(package)).verdict == "pass"


def test_outputs_on_the_training_rows_are_no_baseline(package: Path) -> None:
    found = read_package(package)
    datasets = dict(found.manifest.datasets)
    datasets["test"] = datasets["test"].model_copy(update={"fingerprint": datasets["train"].fingerprint})
    manifest = found.manifest.model_copy(update={"datasets": datasets})
    assert monitoring_gate(replace(found, manifest=manifest)).verdict == "fail"


def test_baseline_without_outputs_or_without_time_is_inconclusive(tmp_path: Path) -> None:
    without = build_small(tmp_path, outputs_reference=None)
    assert monitoring_gate(read_package(without)).verdict == "inconclusive"
    timeless = build_small(tmp_path, outputs_reference=ReferenceRows("test", {"prediction": ROWS[:100] @ WEIGHTS}))
    found = monitoring_gate(read_package(timeless))
    assert found.verdict == "inconclusive"
    assert "unknown order" in found.text
    assert monitoring_gate(None).verdict == "inconclusive"
