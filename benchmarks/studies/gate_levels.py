"""How often the comparison gate errs at its margin, on dependent rows: writes docs/studies/gate-levels.md."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlops.package import Horizon, OutcomeSpec
from mlops.statistics.bootstrap import block_length, bootstrap_interval
from mlops.statistics.resampled import RowFigure
from mlops.statistics.row_figures import row_figure
from mlops.statistics.rows import Rows

REPORT = Path(__file__).resolve().parents[2] / "docs" / "studies" / "gate-levels.md"
RUNS, REPETITIONS, LEVEL = 500, 500, 0.05
METRICS = ("accuracy", "auc", "sharpe")
PERSISTENCE = (0.0, 0.9)
LENGTHS = (502, 1195)
OUTCOMES = OutcomeSpec(
    kind="time_series", horizons=(Horizon(name="1d", periods=1),), periods_per_year=252.0, cost_bp=0.0
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One line of the report; shares of runs."""

    metric: str
    persistence: float
    periods: int
    truth: float
    half_width: float
    wrong_pass: float
    wrong_fail: float


def autoregressive(generator: np.random.Generator, n: int, persistence: float) -> Floats:
    """A standard normal AR(1) series."""
    noise = generator.normal(size=n) * math.sqrt(1 - persistence**2)
    series = np.empty(n)
    series[0] = generator.normal()
    for place in range(1, n):
        series[place] = persistence * series[place - 1] + noise[place]
    return series


def draw(generator: np.random.Generator, n: int, persistence: float) -> tuple[Rows, Rows]:
    """Candidate and live on the same days: two scores that share a slow feature, of which live knows more.

    Returns have fat tails, and the feature moves their variance.
    """
    feature = autoregressive(generator, n, persistence)
    candidate, live = (0.8 * feature + 0.6 * generator.normal(size=n) for _ in range(2))
    shock = generator.standard_t(5, n) * np.exp(0.4 * feature)
    returns = 0.01 * (shock + 0.05 * candidate + 0.1 * live)
    days, outcome = np.arange(n, dtype=np.int64), (returns > 0).astype(np.float64)
    ours, theirs = (Rows(days, 1 / (1 + np.exp(-score)), outcome, returns) for score in (candidate, live))
    return ours, theirs


def figures(metric: str, pair: tuple[Rows, Rows]) -> tuple[RowFigure, RowFigure]:
    """The figure of each."""
    ours, theirs = (row_figure(metric, rows, "classification", OUTCOMES) for rows in pair)
    assert ours is not None
    assert theirs is not None
    return ours, theirs


def true_difference(metric: str, persistence: float) -> float:
    """Candidate less live, of one very long sample."""
    ours, theirs = figures(metric, draw(np.random.default_rng(99), 1_000_000, persistence))
    return ours.value - theirs.value


def simulate(metric: str, persistence: float, periods: int) -> Row:
    """The gate as it is, its margin put at the true difference: every pass and every fail is wrong."""
    truth = true_difference(metric, persistence)
    generator = np.random.default_rng(5)
    passes, fails, widths = 0, 0, []
    for seed in range(RUNS):
        ours, theirs = figures(metric, draw(generator, periods, persistence))

        def difference(places: NDArray[np.int64], ours: RowFigure = ours, theirs: RowFigure = theirs) -> Floats:
            return np.asarray(ours.resampled(places) - theirs.resampled(places))

        length = block_length([ours.series, theirs.series, ours.series - theirs.series])
        interval = bootstrap_interval(
            difference, periods, length=length, level=LEVEL, repetitions=REPETITIONS, seed=seed
        )
        passes += interval.low > truth
        fails += interval.high < truth
        widths.append((interval.high - interval.low) / 2)
    return Row(metric, persistence, periods, truth, float(np.mean(widths)), passes / RUNS, fails / RUNS)


def report(rows: list[Row], minutes: float) -> Iterator[str]:
    """The report's lines."""
    error = math.sqrt(LEVEL * (1 - LEVEL) / RUNS)
    yield "# How often the comparison gate errs at its margin"
    yield ""
    yield f"Written by `make studies` in {minutes:.0f} minutes: {RUNS} runs a line, {REPETITIONS} resamples each, level"
    yield f"{LEVEL:.0%} a side. A share of {LEVEL:.0%} has a standard error of {error:.1%} over the runs."
    yield ""
    yield "Two scores share an AR(1) feature that also moves the variance of fat-tailed returns (Student t, 5"
    yield "degrees of freedom). The margin is the true difference, so the gate should pass, and fail, in 5% of runs"
    yield "each; in the others it is inconclusive."
    yield ""
    yield "| metric | AR(1) | periods | true difference | half-width | passes | fails |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row.metric} | {row.persistence:g} | {row.periods} | {row.truth:+.4f} | {row.half_width:.3f} | "
            f"{row.wrong_pass:.1%} | {row.wrong_fail:.1%} |"
        )


def main() -> None:
    """Runs every line and writes the report."""
    started = time.monotonic()
    rows = [
        simulate(metric, persistence, periods)
        for metric in METRICS
        for persistence in PERSISTENCE
        for periods in LENGTHS
    ]
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("\n".join(report(rows, (time.monotonic() - started) / 60)) + "\n")
    print(REPORT.read_text())


if __name__ == "__main__":
    main()
