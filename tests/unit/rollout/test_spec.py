"""Specs of rollouts: files and objects, and what is refused because it could never reach a decision."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.rollout import RolloutSpec, parse_spec, read_spec
from mlops.rollout.outputs import sign_flips
from mlops.rollout.spec import live_buckets
from mlops.tap.layout import BUCKETS
from tickserve.errors import ConfigurationError

TOML = """
keys = 2000
window_s = 5.0
max_bad_answers = 50

[[steps]]
share = 2.5
min_requests = 500

[[steps]]
share = 50.0

[analysis]
alpha = 0.05
[analysis.errors]
tolerance = 0.05
[analysis.sign_flips]
tolerance = 0.1
"""


def test_file_and_object_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(TOML)
    spec = read_spec(tmp_path / "spec.toml")
    assert [step.share_bp for step in spec.steps] == [250, 5_000]
    assert spec.analysis.metrics == ("errors", "violations", "latency", "sign_flips")
    assert spec.analysis.metric_alpha == 0.05 / 4
    plain = spec.model_dump(mode="json")
    (tmp_path / "spec.json").write_text(json.dumps(plain))
    assert read_spec(tmp_path / "spec.json") == spec == parse_spec(plain)


def test_a_share_with_too_few_keys_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_spec({"keys": 500, "steps": [{"share": 1.0}]})
    assert refused.value.message == (
        "rollout spec: step 1 cannot reach a decision: 1.00% of 500 keys are 5 keys for the canary, in about 5.0 of "
        "256 key buckets, and 20 are needed; a share from 4.16% to 95.84% has them"
    )
    assert parse_spec({"keys": 500, "steps": [{"share": 4.16}]}).steps[0].share_bp == 416
    with pytest.raises(ConfigurationError, match="for stable"):
        parse_spec({"keys": 500, "steps": [{"share": 50.0}, {"share": 99.5}]})
    with pytest.raises(ConfigurationError, match="too few for a canary at any share; use blue_green"):
        parse_spec({"keys": 30})


def test_live_buckets_are_those_of_thrown_balls() -> None:
    assert live_buckets(1) == pytest.approx(1)
    assert live_buckets(500) == pytest.approx(256 * (1 - (255 / 256) ** 500))


def test_a_step_without_time_to_pass_is_refused_with_the_arithmetic() -> None:
    step = {"share": 10.0, "min_time_s": 0.0, "max_time_s": 100.0}
    with pytest.raises(ConfigurationError, match=r"needs 335 windows .* errors .* holds 10 windows of 10 s"):
        parse_spec({"keys": 500, "steps": [step]})
    quick = {name: {"tolerance": 0.2} for name in ("errors", "violations", "latency")}
    assert parse_spec({"keys": 500, "window_s": 1.0, "steps": [step], "analysis": quick})


def test_a_tolerance_of_flips_that_a_flawless_canary_cannot_show_is_refused_with_the_arithmetic() -> None:
    def flips(tolerance: float) -> dict[str, Any]:
        return {"keys": 500, "steps": [{"share": 10.0}], "analysis": {"sign_flips": {"tolerance": tolerance}}}

    with pytest.raises(
        ConfigurationError, match=r"step 1 cannot reach a decision: .* 45\.5 key buckets .* than 0\.101 "
    ):
        parse_spec(flips(0.1))
    spec = parse_spec(flips(0.11))
    pairs, none = np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.int64)
    pairs[:45] = 1_000
    found = sign_flips(pairs, none, 0.001, spec.analysis.alpha)
    assert found is not None
    assert found.upper <= 0.11
    assert parse_spec(flips(0.03) | {"strategy": "blue_green"}), "there every key counts"


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = {"a": found}
    return found


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps": []}, "steps"),
        ({"steps": [{"share": 50.0}, {"share": 10.0}]}, "do not rise"),
        ({"steps": [{"share": 10.0}, {"share": 10.0}]}, "do not rise"),
        ({"steps": [{"share": 10.005}]}, "steps of 0.01%"),
        ({"steps": [{"share": 100.0}]}, "step 1 has 100%"),
        ({"steps": [{"share": 10.0, "min_time_s": 5.0, "max_time_s": 5.0}]}, "not above min_time_s"),
        ({"keys": 0}, "keys"),
        ({"window_s": 0}, "window_s"),
        ({"window_s": 1e-10}, "window_s"),
        ({"window_s": 0.4}, "window_s"),
        ({"keys": 10**400}, "keys"),
        ({"steps": [{"share": 10.0, "min_requests": 10**30}]}, "min_requests"),
        ({"strategy": "roulette"}, "strategy"),
        ({"strategy": "blue_green"}, "blue_green has one step"),
        ({"analysis": {"alpha": 0.5}}, "alpha"),
        ({"analysis": {"errors": {"ratio": 3.0}}}, "not above ratio"),
        ({"analysis": {"latency": {"margin_bins": 1}}}, "margin_bins"),
        ({"analysis": {"latency": {"min_answers": 10}}}, "min_answers"),
        ({"analysis": {"latency": {"worse": 0.1}}}, "not above worse"),
        ({"analysis": {"errors": None, "violations": None, "latency": None}}, "nothing is judged"),
        ({"unknown": 1}, "unknown"),
        ({"max_bad_answers": 10**22}, "max_bad_answers"),
        ({"steps": [{"share": 10.0, "max_time_s": 1e300}]}, "max_time_s"),
        (
            {"steps": [{"share": 10.0, "min_time_s": 3_590.0, "max_time_s": 3_600.0}]},
            "359 windows of 10 s, .* holds 360",
        ),
        ({"analysis": {"errors": {"tolerance": 5e-324}}}, "tolerance"),
        ({"analysis": {"latency": {"margin_bins": 10**9}}}, "margin_bins"),
        ({"analysis": {"outcome": {"figure": "rank_ic:"}}}, "names no horizon"),
        ({"analysis": {"outcome": {"figure": "rank_ic:\0"}}}, "names no horizon"),
        ({"analysis": {"outcome": {"figure": "rank_ic:" + "9" * 1_000}}}, "names no horizon"),
        ({"analysis": {"errors": nested(2_000)}}, "recursion"),
        ({"window_s": float("nan")}, "window_s|JSON|finite"),
    ],
)
def test_specs_that_are_none_are_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse_spec({"keys": 500} | change)


@pytest.mark.parametrize("name", ["spec.toml", "spec.json"])
def test_files_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_spec(tmp_path / name)
    (tmp_path / name).write_text("{[")
    with pytest.raises(ConfigurationError, match="is no"):
        read_spec(tmp_path / name)
    (tmp_path / name).write_text("[]" if name == "spec.json" else "a = 1")
    with pytest.raises(ConfigurationError, match="rollout spec"):
        read_spec(tmp_path / name)


def test_blue_green_needs_keys_for_its_evidence_and_no_more() -> None:
    plain = {"keys": 21, "strategy": "blue_green", "steps": [{"share": 100.0}]}
    assert isinstance(parse_spec(plain), RolloutSpec)
    with pytest.raises(ConfigurationError, match=r"the watch cannot reach a decision: 20 keys .* at least 21 keys"):
        parse_spec(plain | {"keys": 20})
    with pytest.raises(ConfigurationError, match="too few for any evidence"):
        parse_spec({"keys": 20})


def test_a_canary_leaves_something_to_compare_with() -> None:
    with pytest.raises(ConfigurationError, match="step 2 has 100%"):
        parse_spec({"keys": 500, "steps": [{"share": 10.0}, {"share": 100.0}]})
