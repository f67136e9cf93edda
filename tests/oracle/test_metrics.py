"""Metrics against scikit-learn, SciPy, statsmodels, arch and brute force."""

import math
from itertools import product

import numpy as np
import pytest
import statsmodels.api as sm
from arch.bootstrap import StationaryBootstrap
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from mlops.statistics.newey_west import newey_west_error
from mlops.training import metrics
from mlops.training.uncertainty import bootstrap_errors

Floats = NDArray[np.float64]


def sample(seed: int, n: int = 400, *, ties: bool = False) -> tuple[Floats, Floats]:
    """Probabilities and heavy-tailed returns that they say a little about."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, 1, n)
    up = 1 / (1 + np.exp(-noise))
    returns = 0.01 * (generator.standard_t(4, n) + 0.2 * noise)
    return (np.round(up, 1), np.round(returns, 2)) if ties else (up, returns)


def autocorrelated(seed: int, coefficient: float, n: int = 500) -> Floats:
    noise = np.random.default_rng(seed).normal(0, 1, n)
    series = np.empty(n)
    series[0] = noise[0]
    for place in range(1, n):
        series[place] = coefficient * series[place - 1] + noise[place]
    return series


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_values_equal_scikit_learn_and_scipy(seed: int, ties: bool) -> None:
    up, returns = sample(seed, ties=ties)
    labels = returns > 0
    found = metrics.evaluate(up, returns)
    assert found["accuracy"].value == pytest.approx(accuracy_score(labels, up > 0.5), rel=1e-12)
    assert found["auc"].value == pytest.approx(roc_auc_score(labels, up), rel=1e-12)
    assert found["log_loss"].value == pytest.approx(log_loss(labels, up), rel=1e-12)
    assert found["ic"].value == pytest.approx(stats.spearmanr(up, returns).statistic, rel=1e-12)
    assert {figure.n for figure in found.values()} == {400}


@pytest.mark.parametrize("coefficient", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("lags", [0, 1, 5])
def test_newey_west_error_equals_statsmodels(coefficient: float, lags: int) -> None:
    series = autocorrelated(1, coefficient)
    options = {"maxlags": lags, "use_correction": False}
    theirs = sm.OLS(series, np.ones(len(series))).fit(cov_type="HAC", cov_kwds=options)
    assert newey_west_error(series, lags) == pytest.approx(theirs.bse[0], rel=1e-9)


def test_errors_of_accuracy_and_log_loss_are_those_of_a_mean_over_time() -> None:
    up, returns = sample(3)
    found = metrics.evaluate(up, returns)
    hits = ((up > 0.5) == (returns > 0)).astype(float)
    losses = -np.log(np.where(returns > 0, up, 1 - up))
    for name, series in (("accuracy", hits), ("log_loss", losses)):
        theirs = sm.OLS(series, np.ones(400)).fit(cov_type="HAC", cov_kwds={"maxlags": 5, "use_correction": False})
        assert found[name].standard_error == pytest.approx(theirs.bse[0], rel=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_error_equals_delong_by_all_pairs(ties: bool) -> None:
    up, returns = sample(7, 120, ties=ties)
    positives, negatives = up[returns > 0], up[returns <= 0]
    wins = np.array([[1.0 if p > q else 0.5 if p == q else 0.0 for q in negatives] for p in positives])
    variance = wins.mean(axis=1).var(ddof=1) / len(positives) + wins.mean(axis=0).var(ddof=1) / len(negatives)
    found = metrics.auc(up, returns > 0)
    assert found is not None
    assert found.value == pytest.approx(wins.mean(), rel=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_ic_error_is_the_spread_over_repeated_samples(correlation: float) -> None:
    """400 repetitions know a spread to 3.5%; 12% also covers the bias of an estimate from 300 rows."""
    generator = np.random.default_rng(5)
    found = []
    for _ in range(400):
        signal = generator.normal(0, 1, 300)
        returns = correlation * signal + math.sqrt(1 - correlation**2) * generator.normal(0, 1, 300)
        figure = metrics.information_coefficient(signal, returns)
        assert figure is not None
        assert figure.standard_error is not None
        found.append((figure.value, figure.standard_error))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.12)


def test_ic_error_equals_the_influence_function_by_all_pairs() -> None:
    signal, returns = sample(11, 80, ties=True)

    def above(value: float, other: float) -> float:
        return 1.0 if other > value else 0.5 if other == value else 0.0

    n = len(signal)
    x = np.array([sum(above(other, value) for other in signal) / n for value in signal]) - 0.5
    y = np.array([sum(above(other, value) for other in returns) / n for value in returns]) - 0.5
    influence = np.array(
        [
            x[i] * y[i]
            + sum(above(signal[i], signal[j]) * y[j] for j in range(n)) / n
            + sum(above(returns[i], returns[j]) * x[j] for j in range(n)) / n
            for i in range(n)
        ]
    )
    figure = metrics.information_coefficient(signal, returns)
    assert figure is not None
    assert figure.standard_error == pytest.approx(newey_west_error(influence) / (x.std() * y.std()), rel=1e-9)


def test_costs_are_paid_on_every_change_of_position() -> None:
    positions = np.array([1.0, 1.0, -1.0, 0.0, 0.0, 1.0])
    paid = metrics.strategy_returns(positions, np.zeros(6), cost_bp=10)
    np.testing.assert_allclose(paid, [-0.001, 0, -0.002, -0.001, 0, -0.001])


def test_sharpe_is_the_yearly_ratio_of_period_returns() -> None:
    up, returns = sample(2)
    found = metrics.evaluate(up, returns, cost_bp=5)
    positions = [math.copysign(1, probability - 0.5) for probability in up]
    before = [0.0, *positions]
    earned = [
        position * gained - 5e-4 * abs(position - held)
        for position, gained, held in zip(positions, returns, before, strict=False)
    ]
    assert found["sharpe"].value == pytest.approx(np.mean(earned) / stats.tstd(earned) * math.sqrt(252), rel=1e-12)
    assert found["sharpe_mertens"].value == found["sharpe"].value


def test_mertens_error_equals_the_formula_of_lo_with_moments() -> None:
    returns = np.random.default_rng(8).standard_t(5, 600) * 0.01 + 0.0005
    figure = metrics.sharpe_mertens(returns)
    ratio = returns.mean() / returns.std(ddof=1)
    variance = 1 - stats.skew(returns) * ratio + (stats.kurtosis(returns, fisher=False) - 1) / 4 * ratio**2
    assert figure is not None
    assert figure.standard_error == pytest.approx(math.sqrt(252 * variance / 600), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_drawdown_is_the_worst_fall_from_any_earlier_capital(seed: int) -> None:
    returns = np.random.default_rng(seed).normal(0, 0.02, 60)
    capital = np.concatenate([[1.0], np.cumprod(1 + returns)])
    worst = max(1 - capital[late] / capital[early] for early, late in product(range(61), repeat=2) if early <= late)
    figure = metrics.strategy_figures(returns)[1]
    assert figure is not None
    assert figure.value == pytest.approx(worst, rel=1e-12)


def test_drawdown_counts_a_loss_of_the_initial_capital() -> None:
    figure = metrics.strategy_figures(np.array([-0.5, 0.1]))[1]
    assert figure is not None
    assert figure.value == pytest.approx(0.5)


@pytest.mark.parametrize("coefficient", [0.0, 0.6])
def test_bootstrap_errors_equal_those_of_arch(coefficient: float) -> None:
    """Of 2,000 resamples each, errors are good to 1.6% and their ratio to 2.2%; 8% is more than three of those."""
    series = 0.01 * autocorrelated(4, coefficient, 300)

    def statistic(values: Floats) -> tuple[float, float]:
        return float(values.mean()), float(np.cumsum(values).min())

    ours = bootstrap_errors(series, statistic, repetitions=2000)
    arch = StationaryBootstrap(300 ** (1 / 3), series, seed=1)
    theirs = arch.apply(lambda values: np.array(statistic(values)), 2000).std(axis=0, ddof=1)
    np.testing.assert_allclose(ours, theirs, rtol=0.08)


def test_the_bootstrap_sees_dependence_that_independent_resampling_misses() -> None:
    series = autocorrelated(6, 0.6)
    (error,) = bootstrap_errors(series, lambda values: (float(values.mean()),))
    assert error > 1.3 * series.std() / math.sqrt(len(series))


def test_undefined_figures_are_absent() -> None:
    up, returns = sample(1, 50)
    one_class = metrics.evaluate(up, np.abs(returns) + 0.001)
    assert "auc" not in one_class
    assert one_class["accuracy"].n == 50
    constant = metrics.evaluate(np.full(50, 0.6), returns)
    assert {"auc", "ic"}.isdisjoint(constant)
    assert {"accuracy", "log_loss", "sharpe", "max_drawdown"} <= set(constant)
    flat = metrics.evaluate(up, np.zeros(50), cost_bp=0)
    assert {"auc", "ic", "sharpe", "sharpe_mertens"}.isdisjoint(flat)
    assert flat["max_drawdown"].value == 0
    assert flat["max_drawdown"].standard_error is None
    assert metrics.evaluate(np.empty(0), np.empty(0)) == {}


def test_an_error_that_cannot_be_estimated_is_absent() -> None:
    always_right = metrics.evaluate(np.full(20, 0.9), np.full(20, 0.01))
    assert always_right["accuracy"].value == 1
    assert always_right["accuracy"].standard_error is None


def test_a_certain_and_wrong_prediction_has_a_finite_loss() -> None:
    assert metrics.evaluate(np.array([0.0, 1.0]), np.array([0.01, -0.01]))["log_loss"].value < 40


def test_each_feature_has_its_own_ic_on_the_training_rows() -> None:
    from mlops.training import FEATURES, train

    model = train("nasdaq", "logistic")
    rows = model.split.train
    for place, name in enumerate(FEATURES):
        figure = model.metrics["train"][f"feature_ic.{name}"]
        assert figure.value == pytest.approx(stats.spearmanr(rows.features[:, place], rows.returns).statistic, rel=1e-9)
    assert not any(name.startswith("feature_ic") for name in model.metrics["test"])
