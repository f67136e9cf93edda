"""Figures of outcomes against SciPy, statsmodels, empyrical, arch, scikit-learn and brute force on the same rows."""

import math
import warnings
from typing import Any

import empyrical
import numpy as np
import pytest
import statsmodels.api as sm
from arch.bootstrap import StationaryBootstrap
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from mlops.outcomes import JoinedRows, Lengths, OutcomeFigure, joined_rows, outcome_figures, pnl_figures
from mlops.outcomes.estimate import mean_over_time
from mlops.outcomes.information import cross_sections
from mlops.package import Horizon, Manifest
from mlops.statistics.bootstrap import block_length
from mlops.statistics.correlation import pearson, spearman
from mlops.statistics.newey_west import critical_value, dependence_lags
from tests.support.outcomes import DAY_NS, START_NS, declaration, make_spec

Floats = NDArray[np.float64]
DAILY = Horizon(name="1d", periods=1)
WEEKLY = Horizon(name="5d", periods=5)


def rows_of(up: Floats, value: Floats, *, names: int = 1) -> JoinedRows:
    """One row a name and day; `up` are probabilities, of which the signal is made."""
    day = np.arange(len(up)) // names
    return joined_rows(
        START_NS + DAY_NS * day,
        [f"N{place % names:03}" for place in range(len(up))],
        [f"r{place:06}/0" for place in range(len(up))],
        up,
        2 * up - 1,
        value,
        np.stack([up, -up], axis=1),
        ("momentum", "value"),
    )


def sample(n: int, *, seed: int = 0, names: int = 1, ties: bool = False) -> JoinedRows:
    """Probabilities and heavy-tailed returns that they say a little about."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=n)
    value = 0.01 * (generator.standard_t(4, n) + 0.3 * noise)
    up = 1 / (1 + np.exp(-noise))
    return rows_of(np.round(up, 1), np.round(value, 2), names=names) if ties else rows_of(up, value, names=names)


def figures(
    rows: JoinedRows, manifest: Manifest | None = None, horizon: Horizon = DAILY, **lengths: Any
) -> dict[str, OutcomeFigure]:
    found = outcome_figures(rows, manifest or declaration(), "1", horizon, Lengths(**lengths) if lengths else None)
    return {figure.figure: figure for figure in found}


def hac(series: Floats, lags: int) -> float:
    theirs = sm.OLS(series, np.ones(len(series))).fit(
        cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False}
    )
    return float(theirs.bse[0])


def strategy(rows: JoinedRows, cost: float = 1e-4) -> Floats:
    """One name: signal x return, less costs on every change."""
    earned, held = [], 0.0
    for signal, value in zip(rows.signal, rows.value, strict=True):
        earned.append(signal * value - cost * abs(signal - held))
        held = signal
    return np.array(earned)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_correlations_over_time_equal_scipy(seed: int, ties: bool) -> None:
    rows = sample(240, seed=seed, ties=ties)
    found = figures(rows)
    assert found["ic"].value == pytest.approx(stats.pearsonr(rows.signal, rows.value).statistic, rel=1e-12)
    assert found["rank_ic"].value == pytest.approx(stats.spearmanr(rows.signal, rows.value).statistic, rel=1e-12)
    assert found["ic_20"].value == pytest.approx(
        stats.pearsonr(rows.signal[-20:], rows.value[-20:]).statistic, rel=1e-12
    )
    assert found["rank_ic_60"].value == pytest.approx(
        stats.spearmanr(rows.signal[-60:], rows.value[-60:]).statistic, rel=1e-12
    )
    assert (found["ic"].n, found["ic_20"].n) == (240, 20)


def test_the_error_of_a_correlation_over_time_is_that_of_its_influence() -> None:
    """The influence by brute force: what the correlation moves by with one row more, times the rows."""
    rows = sample(200, seed=4)
    n, r = len(rows), stats.pearsonr(rows.signal, rows.value).statistic
    weight = 1e-7
    moved = []
    for place in range(n):
        weights = np.full(n, (1 - weight) / n)
        weights[place] += weight
        x, y = rows.signal - weights @ rows.signal, rows.value - weights @ rows.value
        moved.append((weights @ (x * y) / math.sqrt((weights @ x**2) * (weights @ y**2)) - r) / weight)
    found = figures(rows)["ic"]
    lags = dependence_lags(np.array(moved))
    assert found.standard_error == pytest.approx(hac(np.array(moved), lags), rel=1e-5)
    reach = critical_value(lags, n) * found.standard_error
    assert (found.lower, found.upper) == (pytest.approx(r - reach), pytest.approx(r + reach))


@pytest.mark.parametrize(("metric", "theirs"), [("ic", stats.pearsonr), ("rank_ic", stats.spearmanr)])
@pytest.mark.parametrize("horizon", [DAILY, WEEKLY], ids=["1d", "5d"])
def test_cross_sectional_ic_is_the_mean_of_period_ics_with_a_newey_west_interval(
    metric: str, theirs: Any, horizon: Horizon
) -> None:
    rows = sample(30 * 60, seed=5, names=30)
    series = np.array(
        [
            theirs(rows.signal[start : start + 30], rows.value[start : start + 30]).statistic
            for start in range(0, 1800, 30)
        ]
    )
    spec = make_spec(kind="cross_sectional", horizons=(horizon,))
    found = figures(rows, declaration(spec), horizon)[metric]
    assert found.value == pytest.approx(series.mean(), rel=1e-10)
    assert found.n == 60
    lags = dependence_lags(series, overlap=horizon.periods)
    assert lags >= horizon.periods - 1
    error = hac(series, lags)
    assert found.standard_error == pytest.approx(error, rel=1e-9)
    assert found.lower == pytest.approx(series.mean() - critical_value(lags, 60) * error, rel=1e-8)


def test_cross_sections_below_twenty_names_have_no_ic() -> None:
    rows = sample(19 * 60, names=19)
    spec = make_spec(kind="cross_sectional")
    found = figures(rows, declaration(spec))
    assert found["ic"].value is None
    assert found["ic"].state == "insufficient"
    assert found["sharpe"].value is not None, "returns need no correlation"


def test_a_constant_cross_section_is_left_out_of_the_series() -> None:
    rows = sample(25 * 30, names=25)
    rows.signal[:25] = 0.5
    starts, series = cross_sections(
        "rank_ic", time_ns=rows.time_ns, period=rows.time_ns, signal=rows.signal, value=rows.value
    )
    assert len(series) == 29
    assert rows.time_ns[0] not in starts


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_returns_equal_empyrical(seed: int) -> None:
    rows = sample(240, seed=seed)
    earned, found = strategy(rows), figures(rows)
    assert found["sharpe"].value == pytest.approx(empyrical.sharpe_ratio(earned, annualization=252), rel=1e-10)
    assert found["sortino"].value == pytest.approx(empyrical.sortino_ratio(earned, annualization=252), rel=1e-10)
    assert found["max_drawdown"].value == pytest.approx(-empyrical.max_drawdown(earned), rel=1e-10)
    assert found["total_return"].value == pytest.approx(empyrical.cum_returns_final(earned), rel=1e-10)
    assert found["information_ratio"].value == pytest.approx(
        empyrical.excess_sharpe(earned, rows.value) * math.sqrt(252), rel=1e-10
    )
    assert found["sharpe_20"].value == pytest.approx(empyrical.sharpe_ratio(earned[-20:], annualization=252), rel=1e-10)
    assert found["profit_factor"].value == pytest.approx(
        earned[earned > 0].sum() / -earned[earned < 0].sum(), rel=1e-10
    )
    assert found["positive_share"].value == pytest.approx((earned > 0).mean())
    assert found["hit_rate"].value == pytest.approx((np.sign(rows.signal) == np.sign(rows.value)).mean())


def test_sharpe_has_the_interval_of_the_stationary_bootstrap_and_both_analytic_errors() -> None:
    """1,000 resamples know a 2.5% quantile to about a twelfth of the error; a sixth is two of those for each side."""
    rows = sample(240, seed=7)
    earned, found = strategy(rows), figures(rows)
    sharpe = found["sharpe"]
    drawn = StationaryBootstrap(block_length([earned]), earned, seed=99)
    values = drawn.apply(lambda returns: empyrical.sharpe_ratio(returns, annualization=252), 2000)[:, 0]
    low, high = np.quantile(values, [0.025, 0.975])
    assert sharpe.standard_error == pytest.approx(values.std(ddof=1), rel=0.1)
    assert sharpe.lower == pytest.approx(low, abs=sharpe.standard_error / 6)
    assert sharpe.upper == pytest.approx(high, abs=sharpe.standard_error / 6)
    s = earned.mean() / earned.std(ddof=1)
    assert found["sharpe_lo"].standard_error == pytest.approx(math.sqrt(252 * (1 + s**2 / 2) / 240))
    variance = 1 - stats.skew(earned) * s + (stats.kurtosis(earned, fisher=False) - 1) / 4 * s**2
    assert found["sharpe_mertens"].standard_error == pytest.approx(math.sqrt(252 * variance / 240), rel=1e-9)


def test_the_seed_comes_from_the_rows() -> None:
    one, two = figures(sample(120, seed=1)), figures(sample(120, seed=1))
    assert one == two
    assert one["sharpe"].lower != figures(sample(120, seed=2))["sharpe"].lower


def test_capital_is_in_equal_parts_over_names_and_costs_follow_each_name() -> None:
    rows = sample(3 * 40, seed=8, names=3)
    spec = make_spec(cost_bp=10.0)
    earned = np.mean([strategy(rows.take(rows.entity == name), 1e-3) for name in ("N000", "N001", "N002")], axis=0)
    found = figures(rows, declaration(spec))
    assert found["sharpe"].value == pytest.approx(empyrical.sharpe_ratio(earned, annualization=252), rel=1e-10)
    assert found["total_return"].value == pytest.approx(empyrical.cum_returns_final(earned), rel=1e-10)


def test_overlapping_outcomes_trade_a_part_of_the_capital_each_day() -> None:
    rows = sample(100, seed=9)
    spec = make_spec(horizons=(WEEKLY,), cost_bp=10.0)
    held = np.concatenate([np.zeros(5), rows.signal[:-5]])
    earned = (rows.signal * rows.value - 1e-3 * np.abs(rows.signal - held)) / 5
    found = figures(rows, declaration(spec), WEEKLY)
    assert found["sharpe"].value == pytest.approx(empyrical.sharpe_ratio(earned, annualization=252 / 5), rel=1e-10)
    assert found["total_return"].value == pytest.approx(empyrical.cum_returns_final(earned), rel=1e-10)


def test_decisions_of_one_day_are_one_period() -> None:
    """Never per decision: 390 decisions a day give one return a day."""
    base = sample(40 * 5, seed=10)
    times = START_NS + DAY_NS * (np.arange(200) // 5) + 60_000_000_000 * (np.arange(200) % 5)
    rows = joined_rows(times, base.entity.tolist(), base.key.tolist(), base.prediction, base.signal, base.value)
    daily = strategy(rows).reshape(40, 5).sum(axis=1)
    found = figures(rows)
    assert found["sharpe"].n == 40
    assert found["sharpe"].value == pytest.approx(empyrical.sharpe_ratio(daily, annualization=252), rel=1e-10)


@pytest.mark.parametrize("ties", [False, True])
def test_figures_of_classes_equal_scikit_learn(ties: bool) -> None:
    rows = sample(240, seed=11, ties=ties)
    up, label, found = rows.prediction, (rows.value > 0).astype(float), figures(rows)
    said = up > 0.5
    expected = {
        "accuracy": sk.accuracy_score(label, said),
        "precision": sk.precision_score(label, said),
        "recall": sk.recall_score(label, said),
        "f1": sk.f1_score(label, said),
        "auc": sk.roc_auc_score(label, up),
        "brier": sk.brier_score_loss(label, up),
        "log_loss": sk.log_loss(label, np.clip(up, 2.0**-52, 1 - 2.0**-52)),
        "up_share": label.mean(),
    }
    assert {name: found[name].value for name in expected} == {
        name: pytest.approx(value, rel=1e-10) for name, value in expected.items()
    }
    assert all(found[name].lower < found[name].value < found[name].upper for name in expected)


def test_figures_of_regressions_equal_scikit_learn() -> None:
    rows = sample(240, seed=12)
    found = figures(rows, declaration(task="regression"))
    assert found["mse"].value == pytest.approx(sk.mean_squared_error(rows.value, rows.prediction), rel=1e-10)
    assert found["mae"].value == pytest.approx(sk.mean_absolute_error(rows.value, rows.prediction), rel=1e-10)
    assert found["r2"].value == pytest.approx(sk.r2_score(rows.value, rows.prediction), rel=1e-10)
    assert "auc" not in found


def test_reported_returns_of_a_strategy_have_the_figures_of_returns() -> None:
    returns = 0.01 * np.random.default_rng(13).standard_t(4, 300)
    found = {figure.figure: figure for figure in pnl_figures(np.arange(300) * DAY_NS, returns, "demo", 252.0)}
    latest = returns[-250:]
    assert found["sharpe"].value == pytest.approx(empyrical.sharpe_ratio(latest, annualization=252), rel=1e-10)
    assert found["max_drawdown"].value == pytest.approx(-empyrical.max_drawdown(latest), rel=1e-10)
    assert (found["sharpe"].horizon, found["sharpe"].version, found["sharpe"].n) == ("pnl", "", 250)


def test_drawdown_counts_the_first_loss_and_is_positive() -> None:
    found = {
        figure.figure: figure for figure in pnl_figures(np.arange(2) * DAY_NS, np.array([-0.5, 0.1]), "demo", 252.0)
    }
    assert found["max_drawdown"].value == pytest.approx(0.5)


# Where figures are undefined they are None, and never 0.

ALL = {"ic", "rank_ic", "sharpe", "sortino", "accuracy", "auc", "brier", "hit_rate", "max_drawdown", "up_share"}


def undefined(found: dict[str, OutcomeFigure]) -> set[str]:
    return {name for name in ALL if found[name].value is None}


def test_without_rows_everything_is_undefined() -> None:
    found = figures(rows_of(np.empty(0), np.empty(0)))
    assert undefined(found) == ALL
    assert {figure.state for figure in found.values()} == {"insufficient"}


def test_ten_rows_have_values_but_no_interval() -> None:
    found = figures(sample(10))
    assert undefined(found) == set()
    assert {(figure.lower, figure.state) for figure in found.values()} == {(None, "insufficient")}


def test_a_constant_signal_has_no_correlation_and_ranks_nothing() -> None:
    base = sample(100)
    found = figures(rows_of(np.full(100, 0.6), base.value))
    assert undefined(found) == {"ic", "rank_ic", "auc"}


def test_one_class_has_no_auc_and_a_constant_outcome_no_correlation() -> None:
    base = sample(100)
    found = figures(rows_of(base.prediction, np.full(100, 0.01)))
    assert undefined(found) == {"ic", "rank_ic", "auc"}
    assert found["up_share"].value == 1


def test_flat_positions_have_no_ratio() -> None:
    found = figures(rows_of(np.full(60, 0.5), sample(60).value))
    assert undefined(found) == {"ic", "rank_ic", "auc", "sharpe", "sortino", "hit_rate"}
    assert found["max_drawdown"].value == 0


def test_without_losses_there_is_no_profit_factor() -> None:
    found = figures(rows_of(np.full(40, 0.9), np.linspace(0.01, 0.02, 40)))
    assert found["profit_factor"].value is None
    assert found["sortino"].value is None


def test_a_signal_that_is_no_probability_has_no_figures_of_classes() -> None:
    base = sample(60)
    rows = joined_rows(
        base.time_ns, base.entity.tolist(), base.key.tolist(), np.full(60, np.nan), base.signal, base.value
    )
    found = figures(rows)
    assert "auc" not in found
    assert found["ic"].value is not None


@pytest.mark.parametrize("of", [pearson, spearman])
def test_nothing_is_warned_about_at_extremes(of: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert of(np.array([1e300, 2e300, 3e300, -1e300]), np.array([1.0, 2.0, 3.0, 0.0])).value == pytest.approx(
            stats.spearmanr([1, 2, 3, -1], [1, 2, 3, 0]).statistic, abs=0.1
        )
        assert of(np.array([1.0, np.nan, 2.0]), np.array([1.0, 2.0, 3.0])) is None
        assert of(np.array([1.0, np.inf, 2.0]), np.array([1.0, 2.0, 3.0])) is None


def test_a_correlation_of_values_far_from_zero_keeps_its_digits() -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=500)
    y = x + generator.normal(size=500)
    found = pearson(1e9 + x, y)
    assert found is not None
    assert found.value == pytest.approx(stats.pearsonr((1e9 + x) - 1e9, y).statistic, rel=1e-12)


@pytest.mark.parametrize(("persistence", "overlap", "n"), [(0.0, 1, 20), (0.6, 1, 250), (0.0, 5, 250)])
def test_an_interval_over_time_covers_as_it_says(persistence: float, overlap: int, n: int) -> None:
    """400 runs know 95% to 1.1%; strong dependence loses up to 2.5% more, and 17% where errors ignore it."""
    generator = np.random.default_rng(17)
    covered = naive = 0
    for _ in range(400):
        noise = generator.normal(size=n + overlap + 49)
        series = np.convolve(noise, np.ones(overlap), "valid")
        for place in range(1, len(series)):
            series[place] += persistence * series[place - 1]
        series = series[50:] if persistence else series[-n:]
        found = mean_over_time(series, horizon=overlap)
        assert found.lower is not None
        covered += found.lower <= 0 <= found.upper
        naive += abs(series.mean()) < 1.96 * series.std(ddof=1) / math.sqrt(len(series))
    assert covered / 400 == pytest.approx(0.94, abs=0.035)
    assert naive / 400 < 0.78 or persistence == overlap - 1 == 0


def test_too_few_stretches_of_overlapping_outcomes_give_no_interval() -> None:
    series = np.random.default_rng(1).normal(size=49)
    assert mean_over_time(series, horizon=5).lower is None
    assert mean_over_time(series, horizon=4).lower is not None
