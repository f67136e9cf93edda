"""The gates' figures against scikit-learn, SciPy, the training metrics, published numbers and brute force."""

import math

import numpy as np
import pytest
from arch.bootstrap import StationaryBootstrap, optimal_block_length
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

from mlops.package.build import Task
from mlops.registry.gates.deflated import deflated_sharpe, expected_best
from mlops.statistics.bootstrap import block_length, bootstrap_interval
from mlops.statistics.resampled import RowFigure
from mlops.statistics.return_figures import drawdown
from mlops.statistics.row_figures import row_figure
from mlops.statistics.rows import Rows
from mlops.training import metrics as training
from tests.support.evaluations import OUTCOMES

Floats = NDArray[np.float64]
FREE = OUTCOMES.model_copy(update={"cost_bp": 0.0})


def sample(seed: int, n: int = 400, *, ties: bool = False, per_time: int = 1) -> Rows:
    """A classifier's rows: probabilities, labels and heavy-tailed returns."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=n)
    returns = 0.01 * (generator.standard_t(4, n) + 0.2 * noise)
    up = 1 / (1 + np.exp(-noise))
    if ties:
        up, returns = np.round(up, 1), np.round(returns, 2)
    return Rows(np.arange(n, dtype=np.int64) // per_time, up, (returns > 0).astype(np.float64), returns)


def figure(metric: str, rows: Rows, task: Task = "classification") -> RowFigure:
    found = row_figure(metric, rows, task, OUTCOMES)
    assert found is not None
    return found


CLASSIFICATION = {
    "accuracy": lambda rows: accuracy_score(rows.outcome, rows.prediction > 0.5),
    "auc": lambda rows: roc_auc_score(rows.outcome, rows.prediction),
    "brier": lambda rows: brier_score_loss(rows.outcome, rows.prediction),
    "log_loss": lambda rows: log_loss(rows.outcome, np.clip(rows.prediction, 2.0**-52, 1 - 2.0**-52)),
    "ic": lambda rows: stats.spearmanr(rows.prediction, rows.returns).statistic,
}
REGRESSION = {
    "mse": lambda rows: mean_squared_error(rows.outcome, rows.prediction),
    "mae": lambda rows: mean_absolute_error(rows.outcome, rows.prediction),
    "r2": lambda rows: r2_score(rows.outcome, rows.prediction),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", CLASSIFICATION)
def test_classification_equals_the_libraries_on_sample_and_resamples(metric: str, ties: bool) -> None:
    rows = sample(1, ties=ties)
    found = figure(metric, rows)
    assert found.value == pytest.approx(CLASSIFICATION[metric](rows), rel=1e-9)
    places = np.random.default_rng(2).integers(400, size=(5, 400))
    expected = [CLASSIFICATION[metric](rows.take(chosen)) for chosen in places]
    assert found.resampled(places) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", REGRESSION)
def test_regression_equals_the_libraries_on_sample_and_resamples(metric: str) -> None:
    plain = sample(3)
    rows = Rows(plain.time, plain.prediction, plain.returns, plain.returns)
    found = figure(metric, rows, "regression")
    assert found.value == pytest.approx(REGRESSION[metric](rows), rel=1e-9)
    places = np.random.default_rng(2).integers(400, size=(5, 400))
    expected = [REGRESSION[metric](rows.take(chosen)) for chosen in places]
    assert found.resampled(places) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", ["accuracy", "auc", "brier"])
def test_periods_of_several_rows_are_drawn_whole(metric: str) -> None:
    rows = sample(4, 400, per_time=4)
    assert figure(metric, rows).value == pytest.approx(CLASSIFICATION[metric](rows), rel=1e-9)
    places = np.random.default_rng(5).integers(100, size=(3, 100))
    expected = [
        CLASSIFICATION[metric](rows.take(np.concatenate([4 * place + np.arange(4) for place in chosen])))
        for chosen in places
    ]
    assert figure(metric, rows).resampled(places) == pytest.approx(expected, rel=1e-9)


def test_cross_sectional_ic_is_the_mean_of_the_cross_sections_with_enough_names() -> None:
    rows = sample(6, 300, per_time=25).take(np.arange(285))
    assert rows.returns is not None
    expected = [
        stats.spearmanr(rows.prediction[rows.time == time], rows.returns[rows.time == time]).statistic
        for time in range(11)
    ]
    assert figure("ic", rows).value == pytest.approx(np.mean(expected), rel=1e-12)
    assert row_figure("ic", sample(6, 190, per_time=19), "classification", OUTCOMES) is None


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_those_that_training_registers(seed: int) -> None:
    rows = sample(seed)
    assert rows.returns is not None
    registered = training.evaluate(rows.prediction, rows.returns, cost_bp=OUTCOMES.cost_bp)
    for metric in ("accuracy", "auc", "log_loss", "ic", "sharpe", "max_drawdown"):
        assert figure(metric, rows).value == pytest.approx(registered[metric].value, rel=1e-9), metric


def test_sharpe_and_its_resamples_equal_the_textbook() -> None:
    rows = sample(8)
    assert rows.returns is not None
    position = np.sign(rows.prediction - 0.5)
    earned = position * rows.returns - 1e-4 * np.abs(np.diff(position, prepend=0))
    places = np.random.default_rng(9).integers(400, size=(5, 400))
    for chosen, found in zip(places, figure("sharpe", rows).resampled(places), strict=True):
        drawn = earned[chosen]
        assert found == pytest.approx(drawn.mean() / drawn.std(ddof=1) * math.sqrt(252), rel=1e-9)


def brute_drawdown(returns: Floats) -> float:
    """Over every pair of a peak and a later trough, as a positive share, the start being a peak too."""
    capital = [1.0]
    for value in returns:
        capital.append(capital[-1] * (1 + value))
    return max(1 - low / high for i, high in enumerate(capital) for low in capital[i:])


@pytest.mark.parametrize("seed", range(10))
def test_drawdown_equals_brute_force_and_is_positive(seed: int) -> None:
    returns = 0.05 * np.random.default_rng(seed).normal(size=60)
    assert float(drawdown(returns)) == pytest.approx(brute_drawdown(returns), rel=1e-12)
    assert float(drawdown(returns)) >= 0


@pytest.mark.parametrize(
    ("returns", "expected"), [([-0.5, 0.1], 0.5), ([0.1, 0.1], 0.0), ([0.5, -0.4, 0.1], 0.4), ([-0.1, -0.1], 0.19)]
)
def test_drawdown_counts_from_the_first_capital(returns: list[float], expected: float) -> None:
    assert float(drawdown(np.array(returns))) == pytest.approx(expected)


def test_interval_is_the_quantiles_of_the_stationary_bootstrap() -> None:
    rows = sample(10)
    found = figure("accuracy", rows)
    interval = bootstrap_interval(found.resampled, 400, length=5, level=0.05, repetitions=500, seed=3)
    drawn = StationaryBootstrap(5, found.series, seed=np.random.Generator(np.random.PCG64(3)))
    values = [float(data[0].mean()) for data, _ in drawn.bootstrap(500)]
    low, high = np.quantile(values, [0.05, 0.95])
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


def test_blocks_are_as_long_as_the_most_dependent_series_asks() -> None:
    noise = np.random.default_rng(11).normal(size=1000)
    slow = np.empty(1000)
    slow[0] = noise[0]
    for place in range(1, 1000):
        slow[place] = 0.95 * slow[place - 1] + noise[place]
    asked = float(optimal_block_length(slow)["stationary"].iloc[0])
    assert asked > 20
    assert block_length([noise, slow]) == math.ceil(asked)
    assert block_length([noise]) == 10, "n^(1/3) at least"
    assert block_length([np.ones(1000)]) == 1


def test_deflated_sharpe_repeats_the_paper() -> None:
    """The example of Bailey and López de Prado (2014): 100 tries, 5 years of days, a ratio of 2.5 a year."""
    bar = expected_best(100, 0.5) / math.sqrt(250)
    assert bar == pytest.approx(0.1132, abs=5e-5)
    found = deflated_sharpe(2.5 / math.sqrt(250), bar, periods=1250, skewness=-3, kurtosis=10)
    assert found == pytest.approx(0.9004, abs=5e-4)


def test_expected_best_agrees_with_simulation() -> None:
    """The maximum of 50 standard normal values; the formula is an approximation to about 1%."""
    drawn = np.random.default_rng(12).normal(size=(20_000, 50)).max(axis=1).mean()
    assert expected_best(50, 1.0) == pytest.approx(drawn, rel=0.02)
    assert expected_best(1, 0.0) == 0.0


def dependent(generator: np.random.Generator, n: int, coefficient: float) -> Floats:
    noise = generator.normal(size=n)
    series = np.empty(n)
    series[0] = noise[0] / math.sqrt(1 - coefficient**2)
    for place in range(1, n):
        series[place] = coefficient * series[place - 1] + noise[place]
    return series


def coverage(length: int | None) -> float:
    """How often the lower bound of a mean lies above its true value, 0, on AR(1) 0.5; None: blocks as gates have."""
    generator = np.random.default_rng(13)
    above = 0
    for seed in range(200):
        series = dependent(generator, 400, 0.5)

        def mean(places: NDArray[np.int64], series: Floats = series) -> Floats:
            return np.asarray(series[places].mean(axis=1))

        blocks = block_length([series]) if length is None else length
        above += bootstrap_interval(mean, 400, length=blocks, level=0.05, repetitions=300, seed=seed).low > 0
    return above / 200


def test_level_of_the_interval_holds_under_dependence_and_needs_the_blocks() -> None:
    """200 runs of a 5% level stray by 1.5 points; blocks shorten the tails a little, by about two points here."""
    assert coverage(None) == pytest.approx(0.06, abs=0.04)
    assert coverage(1) > 0.12, "independent resampling would pass one in six"
