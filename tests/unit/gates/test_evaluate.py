"""The whole report: every gate runs, the worst verdict counts, and what has no data does not pass."""

import json
from dataclasses import replace
from pathlib import Path

import rfc8785

from mlops.registry.gates import GatePolicy, GateReport, GateResult, LatencyLevels, NonInferiority, evaluate
from tests.support.evaluations import make_facts, make_table

#: The budget is beyond what a busy machine may take.
CALM = GatePolicy(latency=LatencyLevels(runs=500, budget_us=60_000_000))
GATES = [
    "version_tracked",
    "output_rules",
    "monitoring",
    "smoke.load",
    "smoke.inference",
    "smoke.output",
    "smoke.batch",
    "smoke.latency",
    "minimum.test.ic",
    "minimum.test.sharpe",
    "minimum.test.max_drawdown",
]


def verdicts(report: GateReport) -> dict[str, str]:
    return {gate.name: gate.verdict for gate in report.gates}


def test_good_candidate_passes_every_gate(package: Path) -> None:
    candidate, live = make_facts(package, make_table(skill=0.5)), make_facts(package, make_table(skill=0.3))
    report = evaluate(candidate, live, CALM)
    comparisons = ["non_inferiority.test.ic", "non_inferiority.test.sharpe"]
    assert verdicts(report) == dict.fromkeys([*GATES, "schema", *comparisons], "pass")
    assert report.verdict == "pass"


def test_first_version_has_nothing_to_be_compared_with(package: Path) -> None:
    report = evaluate(make_facts(package, make_table(skill=0.5)), None, CALM)
    assert verdicts(report) == dict.fromkeys(GATES, "pass") | {"live": "inconclusive"}
    assert report.verdict == "inconclusive"


def test_without_any_data_no_gate_passes(package: Path, tmp_path: Path) -> None:
    nothing = replace(make_facts(package, output_rules=(), feature_names=()), path=tmp_path / "none")
    assert "pass" not in verdicts(evaluate(nothing, nothing, CALM)).values()


def test_one_failing_gate_fails_the_whole_and_the_others_still_run(package: Path) -> None:
    report = evaluate(make_facts(package, make_table(skill=-0.5)), make_facts(package, make_table()), CALM)
    assert report.verdict == "fail"
    assert len(report.gates) == len(GATES) + 3


def test_unknown_task_is_inconclusive_until_a_policy_says_what_counts(package: Path) -> None:
    facts = make_facts(package, make_table(), task="unknown")
    found = verdicts(evaluate(facts, facts, CALM))
    assert (found["minimum"], found["non_inferiority"]) == ("inconclusive", "inconclusive")
    asked = CALM.model_copy(update={"comparisons": (NonInferiority(metric="ic", margin=0.1),)})
    assert verdicts(evaluate(facts, facts, asked))["non_inferiority.test.ic"] == "pass"


def test_report_is_json_that_any_reader_takes(package: Path) -> None:
    report = evaluate(make_facts(package, make_table()), make_facts(package), CALM)
    plain = report.as_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert json.loads(rfc8785.dumps(plain))["verdict"] == "inconclusive"


def test_undefined_figures_are_none_and_an_empty_report_decides_nothing() -> None:
    result = GateResult("gate", "fail", "why", {"a": float("nan"), "b": float("inf"), "c": 1.5})
    assert dict(result.figures) == {"a": None, "b": None, "c": 1.5}
    assert GateReport().verdict == "inconclusive"
    assert GateReport((GateResult("a", "pass", ""), GateResult("b", "inconclusive", ""))).verdict == "inconclusive"
