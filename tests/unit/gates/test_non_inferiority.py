"""Non-inferiority: decided on the very same rows, after both trainings and the purge, or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.package import Horizon
from mlops.registry.gates import GatePolicy, GateResult, NonInferiority, VersionFacts
from mlops.registry.gates.non_inferiority import non_inferiority_gates
from tests.support.evaluations import DAY_NS, OUTCOMES, START_NS, Table, make_facts, make_table, trained_until

IC = NonInferiority(metric="ic", margin=0.1, repetitions=500)


def judge(candidate: VersionFacts, live: VersionFacts, wanted: NonInferiority = IC, **policy: Any) -> GateResult:
    [found] = non_inferiority_gates(candidate, live, GatePolicy(comparisons=(wanted,), **policy))
    return found


def pair(package: Path, candidate: Table, live: Table, **changes: Any) -> tuple[VersionFacts, VersionFacts]:
    return make_facts(package, candidate, **changes), make_facts(package, live, **changes)


def test_better_candidate_passes_and_the_figures_say_on_what(package: Path) -> None:
    found = judge(*pair(package, make_table(skill=0.6), make_table(skill=0.2, noise_seed=2)))
    assert found.verdict == "pass"
    assert found.threshold == -0.1
    figures = found.figures
    assert figures["difference"] == pytest.approx(figures["candidate"] - figures["live"])
    assert -0.1 < figures["low"] < figures["difference"] < figures["high"]
    assert figures["periods"] == 599, "one period of purge"
    assert figures["block_length"] >= 2


def test_worse_candidate_fails(package: Path) -> None:
    found = judge(*pair(package, make_table(skill=-0.5), make_table(skill=0.5)))
    assert found.verdict == "fail"
    assert found.figures["high"] < -0.1


def test_difference_that_the_rows_cannot_tell_from_the_margin_is_inconclusive(package: Path) -> None:
    found = judge(*pair(package, make_table(300, skill=0.1, noise_seed=2), make_table(300, skill=0.1)))
    assert found.verdict == "inconclusive"
    assert found.figures["low"] < -0.1 < found.figures["high"]


def test_difference_beyond_the_margin_by_no_more_than_chance_is_inconclusive_too(package: Path) -> None:
    found = judge(*pair(package, make_table(300, skill=0.05, noise_seed=2), make_table(300, skill=0.15)))
    assert found.verdict == "inconclusive"
    assert found.figures["difference"] < -0.1 < found.figures["high"]


def test_wide_margin_lets_the_same_difference_pass(package: Path) -> None:
    wanted = IC.model_copy(update={"margin": 0.5})
    assert (
        judge(*pair(package, make_table(300, skill=0.1, noise_seed=2), make_table(300, skill=0.1)), wanted).verdict
        == "pass"
    )


@pytest.mark.parametrize("metric", ["mse", "mae"])
def test_metric_that_is_better_lower_is_turned_round(package: Path, metric: str) -> None:
    wanted = NonInferiority(metric=metric, margin=1e-6, repetitions=500)
    good, bad = make_table(skill=0.9), make_table(skill=0.1)
    assert judge(*pair(package, good, bad), wanted).verdict == "pass"
    assert judge(*pair(package, bad, good), wanted).verdict == "fail"


def test_same_predictions_pass(package: Path) -> None:
    found = judge(*pair(package, make_table(), make_table()))
    assert (found.verdict, found.figures["low"], found.figures["high"]) == ("pass", 0.0, 0.0)


def test_same_report_comes_out_again(package: Path) -> None:
    facts = pair(package, make_table(), make_table(noise_seed=2))
    assert judge(*facts) == judge(*facts)
    assert judge(*facts).figures["low"] != judge(*facts, seed=1).figures["low"]


@pytest.mark.parametrize("who", ["candidate", "live"])
def test_without_rows_of_both_nothing_is_compared(package: Path, who: str) -> None:
    with_rows, without = make_facts(package, make_table()), make_facts(package)
    found = judge(without, with_rows) if who == "candidate" else judge(with_rows, without)
    assert found.verdict == "inconclusive"
    assert who in found.text


def test_candidate_with_undefined_figure_fails_and_a_live_one_decides_nothing(package: Path) -> None:
    broken = make_table()
    broken["prediction"] = broken["prediction"].copy()
    broken["prediction"][300] = np.nan
    assert judge(*pair(package, broken, make_table())).verdict == "fail"
    assert judge(*pair(package, make_table(), broken)).verdict == "inconclusive"


def test_constant_predictions_rank_nothing_and_fail(package: Path) -> None:
    flat = make_table() | {"prediction": np.zeros(600)}
    assert judge(*pair(package, flat, make_table())).verdict == "fail"


def test_only_times_that_both_have_count(package: Path) -> None:
    whole = make_table(900)
    late = {name: column[400:] for name, column in whole.items()}
    early = {name: column[:700] for name, column in whole.items()}
    found = judge(*pair(package, late, early))
    assert found.figures["periods"] == 299
    assert found.verdict == "pass"


def test_too_few_common_times_are_inconclusive(package: Path) -> None:
    table = make_table(251)
    assert judge(*pair(package, table, table)).verdict == "pass"
    shorter = {name: column[:-1] for name, column in table.items()}
    found = judge(*pair(package, shorter, table))
    assert found.verdict == "inconclusive"
    assert "249" in found.text


@pytest.mark.parametrize("column", ["outcome", "return"])
def test_rows_with_other_outcomes_are_not_the_same_rows(package: Path, column: str) -> None:
    other = make_table()
    other[column] = other[column] * (1 + 1e-9)
    found = judge(*pair(package, make_table(), other))
    assert found.verdict == "inconclusive"
    assert "not of the same rows" in found.text


def test_outcomes_not_known_yet_are_left_out_on_both_sides(package: Path) -> None:
    ours, theirs = make_table(), make_table()
    ours["return"] = np.r_[ours["return"][:-1], np.nan]
    assert judge(*pair(package, ours, theirs)).figures["periods"] == 598


@pytest.mark.parametrize("who", ["candidate", "live"])
def test_rows_before_the_later_training_end_do_not_count(package: Path, who: str) -> None:
    table = make_table()
    plain = make_facts(package, table)
    later = replace(plain, manifest=trained_until(plain.manifest, "2021-04-14T21:00Z"))
    found = judge(later, plain) if who == "candidate" else judge(plain, later)
    assert int(np.datetime64("2021-04-14T21:00", "ns").astype(np.int64)) == START_NS + 100 * DAY_NS
    assert found.figures["after"] == "2021-04-14T21:00:00+00:00"
    assert found.figures["periods"] == 600 - 101 - 1


def test_purge_is_as_long_as_the_longest_horizon(package: Path) -> None:
    slow = OUTCOMES.model_copy(update={"horizons": (Horizon(name="1d", periods=1), Horizon(name="21d", periods=21))})
    found = judge(*pair(package, make_table(), make_table(), outcomes=slow))
    assert found.figures["periods"] == 600 - 21


def test_training_on_all_rows_leaves_none_to_compare_on(package: Path) -> None:
    plain = make_facts(package, make_table())
    late = replace(plain, manifest=trained_until(plain.manifest, "2030-01-01T00:00Z"))
    assert judge(late, plain).verdict == "inconclusive"


def test_training_without_an_end_is_inconclusive(package: Path) -> None:
    plain = make_facts(package, make_table())
    unknown = replace(plain, manifest=trained_until(plain.manifest, None))
    found = judge(plain, unknown)
    assert found.verdict == "inconclusive"
    assert "does not say when" in found.text


def test_without_any_comparison_nothing_is_shown(package: Path) -> None:
    facts = make_facts(package, make_table())
    [found] = non_inferiority_gates(facts, facts, GatePolicy(comparisons=()))
    assert found.verdict == "inconclusive"


def test_sharpe_pays_for_turning_over(package: Path) -> None:
    restless = make_table() | {"prediction": np.tile([1.0, -1.0], 300)}
    calm = make_table() | {"prediction": np.ones(600)}
    dear = OUTCOMES.model_copy(update={"cost_bp": 100.0})
    wanted = NonInferiority(metric="sharpe", margin=0.5, repetitions=500)
    assert judge(*pair(package, restless, calm, outcomes=dear), wanted).verdict == "fail"
