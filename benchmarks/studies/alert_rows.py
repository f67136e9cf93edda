"""What the rows of the response matrix cost: false alarms and delays, simulated; writes docs/studies/alert-rows.md."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlops.alerts.calibrate import Delay, Healthy, RowCost, calibrate_rows, mertens_interval
from mlops.alerts.matrix import default_matrix
from mlops.outcomes.estimate import bootstrapped
from mlops.statistics.return_figures import return_figure

REPORT = Path(__file__).resolve().parents[2] / "docs" / "studies" / "alert-rows.md"
YEARS, FAULTS = 4000, 1000
LENGTH, WINDOWS = 250, 60
HEALTHY = Healthy()
Floats = NDArray[np.float64]


def daily_ic(threshold: float) -> tuple[float, float]:
    """A row on the point estimate of one day: alarms, and days that it holds, in a year of a healthy model."""
    generator = np.random.default_rng(7)
    ics = generator.normal(HEALTHY.ic, HEALTHY.names**-0.5, YEARS * HEALTHY.periods_per_year)
    below = ics < threshold
    return np.sum(below[1:] & ~below[:-1]) / YEARS, np.sum(below) / YEARS


def daily_sharpe(length: int, days: int) -> tuple[float, float]:
    """A row on a rolling Sharpe ratio below 0 for some days in a row."""
    generator = np.random.default_rng(7)
    n = HEALTHY.periods_per_year
    returns = generator.normal(HEALTHY.sharpe / n**0.5, 1.0, YEARS * n)
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    below = sums[length:] < sums[:-length]
    run = np.lib.stride_tricks.sliding_window_view(below, days).all(axis=1)
    return np.sum(run[1:] & ~run[:-1]) / YEARS, np.sum(run) / YEARS


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def told(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def delay_of(delay: Delay) -> str:
    days = "over 4 years" if delay.days is None else f"{delay.days:.0f}" if delay.days >= 1 else f"{delay.days:.3f}"
    return f"{delay.fault}: {days} ({delay.seen_within_year:.0%})"


def table(costs: Sequence[RowCost]) -> Iterator[str]:
    yield line(["row", "level", "false alarms a year", "sessions a year that it holds", "sessions until it sees"])
    yield "|---|---|---|---|---|"
    for cost in costs:
        delays = "; ".join(map(delay_of, cost.delays)) or "`tickserve drift calibrate`"
        yield line([f"`{cost.row}`", cost.level, told(cost.false_alarms_per_year, 4), told(cost.days_per_year), delays])


def report(costs: Sequence[RowCost], gaps: Floats, seconds: float) -> Iterator[str]:
    yield "# What the rows of the response matrix cost"
    yield ""
    yield f"Written by `make studies` in {seconds:.0f} seconds, with the state machine that the sidecar runs, on"
    yield f"simulated windows that follow one another. A healthy model has an IC of {HEALTHY.ic:g} over {HEALTHY.names}"
    yield f"names and a Sharpe ratio of {HEALTHY.sharpe:g}; ICs and returns are independent and normal. {YEARS} healthy"
    yield f"years and {FAULTS} faults for each row, each fault on a random day of a window. In brackets: the share of"
    yield "faults that are seen within a year. A rate of 0 in so many years is below 0.001 a year with 95%."
    yield ""
    yield "## Rows on point estimates, looked at every day"
    yield ""
    yield "As they are often written down. On the same healthy model:"
    yield ""
    yield line(["row", "false alarms a year", "sessions a year that it holds"])
    yield "|---|---|---|"
    for name, (alarms, days) in (
        ("IC of the day < 0.02", daily_ic(0.02)),
        ("IC of the day < 0.01", daily_ic(0.01)),
        ("Sharpe of 20 sessions < 0, five sessions in a row", daily_sharpe(20, 5)),
        ("Sharpe of 60 sessions < 0, five sessions in a row", daily_sharpe(60, 5)),
    ):
        yield line([name, told(alarms, 1), told(days, 1)])
    yield ""
    yield "## The shipped rows"
    yield ""
    yield from table(costs)
    yield ""
    yield "Rows on the state of drift alarm at most as often as the budget of drift monitoring allows, here once in"
    yield f"{HEALTHY.drift_budget_days:g} days, half of it for inputs and half for outputs. Rows on the server's"
    yield f"counters see windows of a minute with {HEALTHY.requests} requests. A rate of {HEALTHY.error_rate:g} is"
    yield "healthy; it varies by key (gamma, shape 2), and keys have very different traffic (Pareto, 1.2). Windows are"
    yield "drawn as if independent: a fault"
    yield "that lasts for minutes is no false alarm. 0.009 sessions are three and a half minutes."
    yield ""
    yield "## The sidecar's interval of a Sharpe ratio"
    yield ""
    yield "The table takes Mertens' error for it, the sidecar the stationary bootstrap. On the same"
    yield f"{gaps.size} healthy windows of {LENGTH} sessions the bootstrap's upper bound lay {gaps.mean():+.2f} beside"
    yield f"the other on average (standard deviation {gaps.std(ddof=1):.2f}); either is some 2 above the value."


def bound_gaps() -> Floats:
    """Upper bound of a Sharpe ratio by the sidecar's bootstrap, less that by Mertens' error."""
    generator = np.random.default_rng(7)
    n = HEALTHY.periods_per_year
    gaps = []
    for _ in range(WINDOWS):
        returns = generator.normal(HEALTHY.sharpe / n**0.5, 1.0, LENGTH)
        ours = bootstrapped(return_figure("sharpe", returns, n), n=LENGTH, horizon=1).upper
        other = mertens_interval(returns, n).upper
        assert ours is not None
        assert other is not None
        gaps.append(ours - other)
    return np.array(gaps)


def main() -> None:
    """Simulates every row and writes the report."""
    started = time.monotonic()
    matrix = default_matrix()
    costs = calibrate_rows(matrix, HEALTHY, years=YEARS, faults=FAULTS)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("\n".join(report(costs, bound_gaps(), time.monotonic() - started)) + "\n")
    print(REPORT.read_text())


if __name__ == "__main__":
    main()
