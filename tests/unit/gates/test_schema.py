"""Schema compatibility: clients of the live version must go on being understood."""

from pathlib import Path
from typing import Any

import pytest

from mlops.package import ColumnMapping, TensorSpec
from mlops.registry.gates import GatePolicy, GateResult
from mlops.registry.gates.schema import schema_gate
from tests.support.evaluations import make_facts

PLAIN = GatePolicy()


def judge(package: Path, live: dict[str, Any], candidate: dict[str, Any], policy: GatePolicy = PLAIN) -> GateResult:
    return schema_gate(make_facts(package, **candidate).manifest, make_facts(package, **live).manifest, policy)


def test_same_schema_passes(package: Path) -> None:
    assert judge(package, {}, {}).verdict == "pass"


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ({"feature_names": ("rsi", "momentum", "volume")}, "another order"),
        ({"feature_names": ("momentum", "rsi", "spread")}, "added spread and removed volume"),
        ({"outputs": (TensorSpec(name="prediction", datatype="FP64", shape=(-1, 1)),)}, "FP64"),
        ({"inputs": (TensorSpec(name="rows", datatype="FP32", shape=(-1, 3)),)}, "rows"),
    ],
)
def test_other_schema_fails_and_only_a_named_override_accepts_it(
    package: Path, candidate: dict[str, Any], said: str
) -> None:
    found = judge(package, {}, candidate)
    assert found.verdict == "fail"
    assert said in found.text
    accepted = judge(package, {}, candidate, GatePolicy(schema_override=True))
    assert accepted.verdict == "pass"
    assert "override" in accepted.text
    assert said in accepted.text


@pytest.mark.parametrize("what", ["signal", "confidence"])
def test_answer_that_lost_its_signal_fails(package: Path, what: str) -> None:
    with_it = {what: ColumnMapping(output="prediction", column=0)}
    assert judge(package, with_it, {}).verdict == "fail"
    assert judge(package, {}, with_it).verdict == "pass"


def test_features_without_names_cannot_be_compared(package: Path) -> None:
    nameless: dict[str, Any] = {"feature_names": ()}
    assert judge(package, nameless, nameless).verdict == "inconclusive"
