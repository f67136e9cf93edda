"""Hard minimums: what is missing, undefined, broken or of another convention fails; too few rows decide nothing."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlops.registry.gates import GatePolicy, GateResult, Minimum, VersionFacts
from mlops.registry.gates.minimums import minimum_gates
from tests.support.evaluations import as_metric, make_facts, make_table, with_metrics


def judge(facts: VersionFacts, minimum: Minimum) -> GateResult:
    [found] = minimum_gates(facts, GatePolicy(minimums=(minimum,)))
    return found


SHARPE = Minimum(metric="sharpe", at_least=0.5)
DRAWDOWN = Minimum(metric="max_drawdown", at_most=0.15)


def test_figure_from_rows_that_keeps_the_bound_passes_with_its_interval(package: Path) -> None:
    found = judge(make_facts(package, make_table()), SHARPE)
    assert found.verdict == "pass"
    assert found.figures["from"] == "rows"
    assert found.figures["n"] == 600
    assert found.figures["low"] < found.figures["value"] < found.figures["high"]
    assert found.threshold == 0.5


def test_figure_from_rows_that_breaks_the_bound_fails(package: Path) -> None:
    assert judge(make_facts(package, make_table(skill=-0.3)), SHARPE).verdict == "fail"


def test_figure_that_keeps_the_bound_on_few_rows_is_inconclusive(package: Path) -> None:
    assert judge(make_facts(package, make_table(249)), SHARPE).verdict == "inconclusive"
    assert judge(make_facts(package, make_table(250)), SHARPE).verdict == "pass"


@pytest.mark.parametrize("n", [1, 2, 3, 19])
def test_handful_of_rows_never_passes(package: Path, n: int) -> None:
    for minimum in (SHARPE, DRAWDOWN, Minimum(metric="mse", at_most=1.0)):
        assert judge(make_facts(package, make_table(n)), minimum).verdict != "pass"


def test_few_rows_that_break_the_bound_fail_all_the_same(package: Path) -> None:
    assert judge(make_facts(package, make_table(100, skill=-0.9)), SHARPE).verdict == "fail"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_registered_figure_that_is_no_finite_number_fails(package: Path, value: float) -> None:
    for minimum in (SHARPE, DRAWDOWN):
        facts = with_metrics(make_facts(package), sharpe=value, max_drawdown=value)
        assert judge(facts, minimum).verdict == "fail"


def test_missing_figure_fails(package: Path) -> None:
    found = judge(make_facts(package), SHARPE)
    assert found.verdict == "fail"
    assert found.figures["value"] is None
    assert "missing" in found.text


def test_figure_of_another_data_set_does_not_count(package: Path) -> None:
    facts = replace(make_facts(package), metrics={"train": {"sharpe": as_metric(3.0)}})
    assert judge(facts, SHARPE).verdict == "fail"


def test_registered_figure_counts_where_there_are_no_rows(package: Path) -> None:
    facts = replace(make_facts(package), metrics={"test": {"sharpe": as_metric(0.8, 500, 0.25)}})
    found = judge(facts, SHARPE)
    assert (found.verdict, found.figures["from"]) == ("pass", "registered")
    assert found.figures["low"] == pytest.approx(0.8 - 1.96 * 0.25)


def test_bound_itself_is_allowed(package: Path) -> None:
    assert judge(with_metrics(make_facts(package), sharpe=0.5), SHARPE).verdict == "pass"
    assert judge(with_metrics(make_facts(package), max_drawdown=0.15), DRAWDOWN).verdict == "pass"


@pytest.mark.parametrize(("drawdown", "verdict"), [(0.1, "pass"), (0.4, "fail"), (-0.1, "fail"), (-0.4, "fail")])
def test_drawdown_is_a_positive_share_and_a_negative_one_never_passes(
    package: Path, drawdown: float, verdict: str
) -> None:
    assert judge(with_metrics(make_facts(package), max_drawdown=drawdown), DRAWDOWN).verdict == verdict


def test_drawdown_of_rows_counts_a_loss_at_the_very_start(package: Path) -> None:
    table = make_table(300)
    table["return"] = np.r_[-0.5, np.full(299, 0.001)]
    table["prediction"] = np.ones(300)
    found = judge(make_facts(package, table), DRAWDOWN)
    assert found.verdict == "fail"
    assert found.figures["value"] == pytest.approx(0.5, abs=1e-3)


def test_accuracy_above_one_is_another_convention(package: Path) -> None:
    facts = with_metrics(make_facts(package), accuracy=56.0)
    assert judge(facts, Minimum(metric="accuracy", at_least=0.5)).verdict == "fail"


def test_registered_figure_that_its_own_rows_do_not_give_is_inconclusive(package: Path) -> None:
    plain = make_facts(package, make_table())
    value = judge(plain, SHARPE).figures["value"]
    assert judge(with_metrics(plain, sharpe=value), SHARPE).verdict == "pass"
    found = judge(with_metrics(plain, sharpe=value + 0.01), SHARPE)
    assert found.verdict == "inconclusive"
    assert found.figures["registered"] == value + 0.01


def test_nan_among_the_predictions_fails(package: Path) -> None:
    table = make_table()
    table["prediction"][5] = np.nan
    for minimum in (SHARPE, DRAWDOWN, Minimum(metric="mse", at_most=1.0), Minimum(metric="ic", at_least=0.0)):
        found = judge(make_facts(package, table), minimum)
        assert found.verdict == "fail"
        assert "undefined" in found.text


def test_rows_whose_outcome_is_not_known_yet_are_left_out(package: Path) -> None:
    table = make_table()
    table["return"][-1] = table["outcome"][-1] = np.nan
    found = judge(make_facts(package, table), SHARPE)
    assert (found.verdict, found.figures["n"]) == ("pass", 599)


def test_constant_returns_have_no_sharpe(package: Path) -> None:
    table = make_table()
    table["return"] = np.full(600, 0.001)
    table["prediction"] = np.ones(600)
    facts = make_facts(package, table)
    free = facts.manifest.outcomes.model_copy(update={"cost_bp": 0.0})  # type: ignore[union-attr]
    facts = replace(facts, manifest=facts.manifest.model_copy(update={"outcomes": free}))
    assert judge(facts, SHARPE).verdict == "fail"


def test_sharpe_needs_a_declaration_of_costs_and_periods(package: Path) -> None:
    assert judge(make_facts(package, make_table(), outcomes=None), SHARPE).verdict == "fail"


def test_number_of_tries_is_shown_beside_the_sharpe_ratio(package: Path) -> None:
    facts = make_facts(package, make_table(skill=0.1))
    alone = judge(replace(facts, tried={"test": (1.0,)}), SHARPE).figures
    many = judge(replace(facts, tried={"test": tuple(np.linspace(-2, 2, 50))}), SHARPE).figures
    assert (alone["tried"], many["tried"]) == (1, 50)
    assert many["deflated_sharpe"] < alone["deflated_sharpe"]


def test_without_any_minimum_nothing_is_shown_to_be_good(package: Path) -> None:
    [found] = minimum_gates(make_facts(package), GatePolicy(minimums=()))
    assert found.verdict == "inconclusive"
