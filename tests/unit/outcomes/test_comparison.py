"""Live figures against the package's claims, and features against their reference."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mlops.outcomes import OutcomeFigure, joined_rows
from mlops.outcomes.comparison import compare_with_package
from mlops.outcomes.features import feature_figures
from mlops.package import Horizon, Metric, ReferenceRows, make_baseline
from mlops.package.manifest import DatasetInfo
from tests.support.outcomes import DAY_NS, START_NS, declaration

INFO = DatasetInfo(fingerprint="0" * 64, rows=100, order="time", first="2020-01-01", last="2020-12-31")


def figure(name: str, value: float | None, error: float | None = 0.1, state: Any = "ok") -> OutcomeFigure:
    return OutcomeFigure("demo", "1", "1d", name, value, None, None, error, 250, 0, 0, state)


def manifest(**metrics: Metric) -> Any:
    return declaration(datasets={"test": INFO}, metrics={"test": metrics})


def test_a_drop_is_tested_with_both_errors() -> None:
    claimed = manifest(accuracy=Metric(value=0.6, standard_error=0.03, n=500))
    [found] = compare_with_package([figure("accuracy", 0.5, 0.04)], claimed)
    assert found.worsening == pytest.approx(0.1)
    assert found.p == pytest.approx(stats.norm.sf(0.1 / math.hypot(0.03, 0.04)))
    assert found.state == "worse"
    [better] = compare_with_package([figure("accuracy", 0.7, 0.04)], claimed)
    assert better.p is not None
    assert better.p > 0.9
    assert better.state == "ok"


def test_the_direction_of_each_metric_counts() -> None:
    claimed = manifest(log_loss=Metric(value=0.6, standard_error=0.01, n=500))
    [found] = compare_with_package([figure("log_loss", 0.7, 0.01)], claimed)
    assert (found.worsening, found.state) == (pytest.approx(0.1), "worse")


def test_figures_are_compared_with_those_computed_alike() -> None:
    claimed = manifest(
        ic=Metric(value=0.1, standard_error=0.05, n=500), sharpe=Metric(value=1.0, standard_error=0.5, n=500)
    )
    live = [figure("ic", 9.0), figure("rank_ic", 0.2), figure("sharpe", 9.0), figure("sharpe_of_sign", 2.0)]
    found = {each.figure: each.live for each in compare_with_package(live, claimed)}
    assert found == {"ic": 0.2, "sharpe": 2.0}


@pytest.mark.parametrize(
    ("live", "claimed"),
    [
        (figure("auc", None, None, "insufficient"), Metric(value=0.6, standard_error=0.1, n=9)),
        (figure("auc", 0.5, None), Metric(value=0.6, standard_error=0.1, n=9)),
        (figure("auc", 0.5, 0.1, "insufficient"), Metric(value=0.6, standard_error=0.1, n=9)),
        (figure("auc", 0.5, 0.1), Metric(value=0.6, n=9)),
    ],
)
def test_without_errors_on_both_sides_nothing_is_tested(live: OutcomeFigure, claimed: Metric) -> None:
    [found] = compare_with_package([live], manifest(auc=claimed))
    assert (found.p, found.state) == (None, "insufficient")


def test_figures_that_grow_with_time_compare_with_nothing() -> None:
    claimed = manifest(max_drawdown=Metric(value=0.2, standard_error=0.1, n=500))
    assert compare_with_package([figure("max_drawdown", 0.5)], claimed) == ()


def test_features_are_held_against_their_reference() -> None:
    generator = np.random.default_rng(1)
    reference = generator.normal(2.0, 3.0, (400, 2)).astype(np.float32)
    claimed = declaration(
        datasets={"train": INFO},
        baseline_inputs="train",
        metrics={"train": {"feature_ic.value": Metric(value=0.3, standard_error=0.05, n=400)}},
    )
    times = START_NS + DAY_NS * np.arange(400)
    baseline = make_baseline(
        claimed.inputs, claimed.outputs, ReferenceRows("train", {"features": reference}, times), None,
        feature_names=claimed.feature_names,
    )  # fmt: skip
    features = np.stack([generator.normal(5.0, 6.0, 100), generator.normal(2.0, 3.0, 100)], axis=1)
    features[:3, 0] = np.nan
    outcome = features[:, 1] + generator.normal(0, 3, 100)
    rows = joined_rows(
        times[:100],
        ["SPX"] * 100,
        [str(n) for n in range(100)],
        outcome,
        outcome,
        outcome,
        features,
        ("momentum", "value"),
    )
    first, second = feature_figures(rows, claimed, baseline, "1", Horizon(name="1d", periods=1))
    assert (first.feature, first.n, first.missing) == ("momentum", 97, 3), "what moved farthest comes first"
    there = features[3:, 0]
    assert first.mean_shift == pytest.approx((there.mean() - reference[:, 0].mean()) / reference[:, 0].std(), rel=1e-5)
    assert first.sd_ratio == pytest.approx(there.std() / reference[:, 0].std(), rel=1e-5)
    assert (first.reference_ic, second.reference_ic, second.reference_error) == (None, 0.3, 0.05)
    assert second.ic == pytest.approx(stats.spearmanr(features[:, 1], outcome).statistic)
    assert second.lower is not None


def test_without_a_baseline_or_values_nothing_is_said() -> None:
    rows = joined_rows([START_NS], ["SPX"], ["r"], [0.5], [0.0], [0.1], np.full((1, 2), np.nan), ("momentum", "value"))
    for found in feature_figures(rows, declaration(), None, "1", Horizon(name="1d", periods=1)):
        assert (found.ic, found.mean_shift, found.sd_ratio, found.n, found.missing) == (None, None, None, 0, 1)
