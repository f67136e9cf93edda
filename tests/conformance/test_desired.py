"""What desired state says beside the version, on every engine: rules, scale and halts, as soon as it is read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlops.package import Bounds, InputRules, OutputRule
from server.models import DesiredRows, DirectorySource, LocalState, Reconciler, RuleChange, Settling, Target
from server.models.planning import with_rules
from server.models.values import only
from server.plan import Halt
from tests.conformance.conftest import Bench
from tests.support.packages import add_sum
from tickserve.client import Client
from tickserve.errors import HaltedError, InvalidInputError, OutputRuleError

#: The answer is the sum of the row.
TOO_HIGH = OutputRule(name="at-most-5", output="values", kind="range", maximum=5.0)
BOUNDED = InputRules(bounds={"rsi": Bounds(minimum=-100.0, maximum=100.0, policy="reject")})
ROW = [1.0, 2.0, 3.0]
OUT_OF_BOUNDS = [1.0, 200.0, 3.0]


class Rig:
    """A reconciler over a models directory whose desired state the test writes."""

    def __init__(self, bench: Bench, folder: Path, **package: Any) -> None:
        models = folder / "models"
        models.mkdir()
        add_sum(models, 1, **package)
        self.source = DirectorySource(models, settling=Settling(0.0), rows=DesiredRows(folder / "desired.json"))
        self.reconciler = Reconciler(self.source, bench.engine, LocalState(folder))
        self.reconciler.reconcile()

    def desire(self, halt: Halt | None = None, **changes: Any) -> None:
        target: Target = replace(only("1"), **changes)
        self.source.write("demo", target, halt, None, actor="ann", reason="test")
        self.reconciler.reconcile()


@pytest.fixture
def client(bench: Bench) -> Any:
    with Client(bench.address, model="demo", timeout_s=60.0, check_features=False) as made:
        yield made


def test_output_rule_is_replaced_and_restored(bench: Bench, tmp_path: Path, client: Client) -> None:
    rig = Rig(bench, tmp_path, output_rules=(TOO_HIGH,))
    with pytest.raises(OutputRuleError):
        client.predict(ROW)
    before = rig.reconciler.snapshot().plan.models["demo"].versions["1"]
    rig.desire(rules=(RuleChange("at-most-5", policy="flag"),))
    answer = client.predict(ROW)
    assert [(finding.kind, finding.rule) for finding in answer.findings] == [("flagged", "at-most-5")]
    # It is the same package: only what it is held against has changed.
    assert rig.reconciler.snapshot().plan.models["demo"].versions["1"].digest == before.digest
    rig.desire(rules=(RuleChange("at-most-5", maximum=500.0),))
    assert client.predict(ROW).findings == ()
    rig.desire()
    with pytest.raises(OutputRuleError):
        client.predict(ROW)


def test_rules_that_are_prepared_wait_for_a_plan_that_names_them(bench: Bench, tmp_path: Path, client: Client) -> None:
    rig = Rig(bench, tmp_path, output_rules=(TOO_HIGH,))
    plan = rig.reconciler.snapshot().plan
    flagged = with_rules(plan.models["demo"].versions["1"], (RuleChange("at-most-5", policy="flag"),))
    bench.engine.prepare(flagged)
    bench.engine.install(replace(plan, generation=plan.generation + 1))
    with pytest.raises(OutputRuleError):
        client.predict(ROW)
    model = replace(plan.models["demo"], versions={"1": flagged})
    bench.engine.install(replace(plan, generation=plan.generation + 2, models={"demo": model}))
    assert client.predict(ROW).findings[0].kind == "flagged"


def test_input_bound_is_replaced_and_restored(bench: Bench, tmp_path: Path, client: Client) -> None:
    rig = Rig(bench, tmp_path, input_rules=BOUNDED)
    with pytest.raises(InvalidInputError):
        client.predict(OUT_OF_BOUNDS)
    rig.desire(rules=(RuleChange("bounds:rsi", policy="clip"),))
    assert [finding.kind for finding in client.predict(OUT_OF_BOUNDS).findings] == ["clipped"]
    rig.desire(rules=(RuleChange("bounds:rsi", maximum=500.0),))
    assert client.predict(OUT_OF_BOUNDS).findings == ()
    rig.desire()
    with pytest.raises(InvalidInputError):
        client.predict(OUT_OF_BOUNDS)


def test_position_scale_is_in_the_next_answer(bench: Bench, tmp_path: Path, client: Client) -> None:
    rig = Rig(bench, tmp_path)
    assert client.predict(ROW).position_scale == 1.0
    for scale in (0.25, 0.0, 1.0):
        rig.desire(position_scale=scale)
        assert client.predict(ROW).position_scale == scale


def test_halt_is_obeyed_and_ends_with_desired_state(bench: Bench, tmp_path: Path, client: Client) -> None:
    rig = Rig(bench, tmp_path)
    rig.desire(Halt("bad fills", "ann", 1))
    with pytest.raises(HaltedError, match="was halted by ann: bad fills"):
        client.predict(ROW)
    rig.desire()
    assert client.predict(ROW).version == "1"
