"""Policies: read from TOML, checked whole, with defaults by task."""

from pathlib import Path
from typing import Any

import pytest

from mlops.registry.gates import GatePolicy, Minimum, NonInferiority, defaults_of, make_policy, read_policy
from tickserve.errors import ConfigurationError

TEXT = """
training_sets = ["train"]

[latency]
runs = 5000
budget_us = 250

[[minimums]]
metric = "sharpe"
data_set = "validation"
at_least = 0.5

[[minimums]]
metric = "max_drawdown"
at_most = 0.2
rows = 500

[[comparisons]]
metric = "auc"
margin = 0.02
level = 0.01
"""


def test_file_gives_the_policy(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(TEXT)
    found = read_policy(file)
    assert found.minimums == (
        Minimum(metric="sharpe", data_set="validation", at_least=0.5),
        Minimum(metric="max_drawdown", at_most=0.2, rows=500),
    )
    assert found.comparisons == (NonInferiority(metric="auc", margin=0.02, level=0.01),)
    assert (found.latency.runs, found.latency.budget_us, found.training_sets) == (5000, 250, ("train",))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"minimum": []}, "minimum"),
        ({"minimums": [{"metric": "sharpe"}]}, "either at_least or at_most"),
        ({"minimums": [{"metric": "sharpe", "at_least": 0.0, "at_most": 1.0}]}, "either at_least or at_most"),
        ({"minimums": [{"metric": "sharpe", "at_most": 1.0}]}, "better higher"),
        ({"minimums": [{"metric": "max_drawdown", "at_least": -0.15}]}, "better lower"),
        ({"minimums": [{"metric": "max_drawdown", "at_most": -0.15}]}, "bounds nothing"),
        ({"minimums": [{"metric": "accuracy", "at_least": 60.0}]}, "bounds nothing"),
        ({"minimums": [{"metric": "sharpe", "at_least": float("nan")}]}, "finite"),
        ({"minimums": [{"metric": "ic", "at_least": 0.0}] * 2}, "twice"),
        ({"comparisons": [{"metric": "auc", "margin": 0.0}]}, "greater than 0"),
        ({"comparisons": [{"metric": "max_drawdown", "margin": 0.1}]}, "row by row"),
        ({"comparisons": [{"metric": "auc", "margin": 0.1, "level": 0.5}]}, "less than 0.5"),
        ({"latency": {"runs": 100}}, "500"),
        ({"training_sets": []}, "training_sets"),
    ],
)
def test_wrong_policy_is_refused_with_the_place(entries: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        make_policy(entries)
    assert caught.value.message.startswith("gate policy: ")


@pytest.mark.parametrize("text", ["minimums = [", "\udcff"])
def test_file_that_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError, match="no TOML"):
        read_policy(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_policy(tmp_path / "none.toml")


def test_metric_that_nobody_knows_takes_its_direction_from_the_bound() -> None:
    assert Minimum(metric="calmar", at_least=1.0).is_kept(1.5)
    assert not Minimum(metric="slippage", at_most=1.0).is_kept(1.5)
    assert not Minimum(metric="calmar", at_least=1.0).is_kept(float("nan"))


def test_defaults_follow_the_task_and_only_fill_what_is_open() -> None:
    minimums, comparisons = defaults_of("classification")
    found = GatePolicy(minimums=()).for_task("classification")
    assert (found.minimums, found.comparisons) == ((), comparisons)
    assert GatePolicy().for_task("classification").minimums == minimums
    assert {minimum.metric for minimum in defaults_of("regression")[0]} == {"ic", "sharpe", "max_drawdown"}
    assert defaults_of("unknown") == ((), ())
