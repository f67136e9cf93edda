"""All figures of one version at one horizon, from the rows whose outcome is known."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops.outcomes.estimate import Estimate, bootstrapped, over_time, with_error
from mlops.outcomes.figure import OutcomeFigure
from mlops.outcomes.information import information_coefficient
from mlops.outcomes.joined import JoinedRows
from mlops.outcomes.periods import period_starts
from mlops.outcomes.strategy import PeriodReturns, period_returns
from mlops.package import Horizon, Manifest, OutcomeSpec
from mlops.statistics.return_figures import lo_error, mertens_error, return_figure
from mlops.statistics.row_figures import row_figure
from mlops.statistics.rows import Floats, Integers, Rows

Booleans = NDArray[np.bool_]
_CLASSIFICATION = ("accuracy", "precision", "recall", "f1", "auc", "brier", "log_loss")
_REGRESSION = ("mse", "mae", "r2")
_OF_RETURNS = ("sharpe", "sortino", "max_drawdown", "total_return", "profit_factor", "positive_share")


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many of the latest periods figures are taken over.

    Parameters
    ----------
    window : int
        For every figure.
    rolling : tuple of int
        Beside it for ICs and Sharpe ratios, named as `ic_20`; none above `window`.
    """

    window: int = 250
    rolling: tuple[int, ...] = (20, 60)

    def __post_init__(self) -> None:
        if not all(1 <= length <= self.window for length in (self.window, *self.rolling)):
            raise ValueError(f"rolling lengths {self.rolling} must lie from 1 to the window of {self.window} periods")

    def of(self, figure: str) -> int | None:
        """The length of a rolling figure by its name; None for one of the whole window."""
        length = figure.rpartition("_")[2]
        return int(length) if length.isdigit() else None


def outcome_figures(
    rows: JoinedRows, manifest: Manifest, version: str, horizon: Horizon, lengths: Lengths | None = None
) -> tuple[OutcomeFigure, ...]:
    """The figures of the latest periods, a pure function of the rows.

    Raises
    ------
    ValueError
        Where the manifest declares no outcomes.
    """
    if manifest.outcomes is None:
        raise ValueError(f"package of {manifest.name!r} declares no outcomes")
    lengths = lengths or Lengths()
    view = View(rows, manifest.outcomes, horizon).last(lengths.window)
    start, end = view.span()

    def named(name: str, estimate: Estimate) -> OutcomeFigure:
        length = lengths.of(name)
        first = start if length is None else view.last(length).span()[0]
        return _figure(manifest.name, version, horizon.name, name, estimate, first, end)

    return tuple(named(name, estimate) for name, estimate in _estimates(view, manifest, lengths))


def pnl_figures(
    start_ns: Integers, returns: Floats, model: str, periods_per_year: float, lengths: Lengths | None = None
) -> tuple[OutcomeFigure, ...]:
    """The figures of returns that a strategy reported itself, after its own costs: period by period, oldest first."""
    lengths = lengths or Lengths()
    start_ns, returns = start_ns[-lengths.window :], returns[-lengths.window :]

    def named(name: str, estimate: Estimate) -> OutcomeFigure:
        covered = start_ns[-(lengths.of(name) or lengths.window) :]
        start, end = (int(covered[0]), int(covered[-1])) if len(covered) else (0, 0)
        return _figure(model, "", "pnl", name, estimate, start, end)

    return tuple(named(name, estimate) for name, estimate in _of_returns(returns, periods_per_year, 1, lengths))


def _figure(
    model: str, version: str, horizon: str, name: str, estimate: Estimate, start_ns: int, end_ns: int
) -> OutcomeFigure:
    return OutcomeFigure(
        model,
        version,
        horizon,
        name,
        estimate.value,
        estimate.lower,
        estimate.upper,
        estimate.standard_error,
        estimate.n,
        start_ns,
        end_ns,
        "ok" if estimate.lower is not None else "insufficient",
    )


class View:
    """Joined rows with the periods that they lie in."""

    def __init__(self, rows: JoinedRows, spec: OutcomeSpec, horizon: Horizon) -> None:
        self.rows, self.spec, self.horizon = rows, spec, horizon.periods
        self.period = period_starts(rows.time_ns, spec.periods_per_year)
        self._horizon = horizon

    @property
    def periods(self) -> int:
        """How many distinct periods there are."""
        return len(np.unique(self.period))

    def span(self) -> tuple[int, int]:
        """Event times of the first and the last row; 0 where there is none."""
        times = self.rows.time_ns
        return (int(times[0]), int(times[-1])) if len(times) else (0, 0)

    def last(self, length: int) -> "View":
        """The rows of the latest periods."""
        starts = np.unique(self.period)
        return self if len(starts) <= length else self.take(self.period >= starts[-length])

    def take(self, chosen: Booleans) -> "View":
        """Some of the rows."""
        return View(self.rows.take(chosen), self.spec, self._horizon)

    def returns(self, position: Floats) -> PeriodReturns:
        """What holding these positions earned."""
        return period_returns(
            position,
            self.rows.value,
            entity=self.rows.entity,
            period=self.period,
            horizon=self.horizon,
            cost_bp=self.spec.cost_bp,
        )

    def ic(self, metric: str) -> Estimate:
        """`ic` or `rank_ic`."""
        return information_coefficient(
            "rank_ic" if metric == "rank_ic" else "ic",
            self.spec.kind,
            time_ns=self.rows.time_ns,
            period=self.period,
            signal=self.rows.signal,
            value=self.rows.value,
            horizon=self.horizon,
        ).estimate

    def outcome_rows(self, outcome: Floats) -> Rows:
        """As evaluations have them, the period for a time."""
        return Rows(self.period, self.rows.prediction, outcome, self.rows.value)


def _estimates(view: View, manifest: Manifest, lengths: Lengths) -> Iterator[tuple[str, Estimate]]:
    for metric in ("ic", "rank_ic"):
        yield metric, view.ic(metric)
        for length in lengths.rolling:
            yield f"{metric}_{length}", view.last(length).ic(metric)
    per_year = view.spec.periods_per_year / view.horizon
    returns = view.returns(view.rows.signal)
    yield from _of_returns(returns.strategy, per_year, view.horizon, lengths)
    sign = view.returns(np.sign(view.rows.signal)).strategy
    yield "sharpe_of_sign", _of_series("sharpe", sign, per_year, view.horizon)
    yield "information_ratio", _of_series("sharpe", returns.strategy - returns.market, per_year, view.horizon)
    yield "hit_rate", _hit_rate(view)
    yield "up_share", _share_over_time(view, view.rows.value > 0)
    yield from _of_predictions(view, manifest)


def _of_returns(returns: Floats, per_year: float, horizon: int, lengths: Lengths) -> Iterator[tuple[str, Estimate]]:
    for metric in _OF_RETURNS:
        estimate = _of_series(metric, returns, per_year, horizon)
        yield metric, estimate
        if metric == "sharpe":
            yield from _analytic(estimate.value, returns, per_year)
    for length in lengths.rolling:
        yield f"sharpe_{length}", _of_series("sharpe", returns[-length:], per_year, horizon)


def _of_series(metric: str, returns: Floats, per_year: float, horizon: int) -> Estimate:
    figure = return_figure(metric, returns, per_year) if len(returns) else None
    return bootstrapped(figure, n=len(returns), horizon=horizon)


def _analytic(sharpe: float | None, returns: Floats, per_year: float) -> Iterator[tuple[str, Estimate]]:
    """The same ratio with the errors that formulas give for independent returns."""
    n, scale = len(returns), per_year**0.5
    if sharpe is None:
        yield "sharpe_lo", Estimate(None, n=n)
        yield "sharpe_mertens", Estimate(None, n=n)
        return
    error = mertens_error(returns)
    yield "sharpe_lo", with_error(sharpe, scale * lo_error(sharpe / scale, n), n)
    yield "sharpe_mertens", with_error(sharpe, None if error is None else scale * error, n)


def _hit_rate(view: View) -> Estimate:
    """Of the rows with a position and a move, the share whose signs agree."""
    outcome = view.rows.signal * view.rows.value
    decided = outcome != 0
    return _share_over_time(view, outcome > 0, decided)


def _share_over_time(view: View, is_so: Booleans, among: Booleans | None = None) -> Estimate:
    """A share of rows, with the error of a ratio of sums over periods."""
    of = np.ones(len(is_so), np.bool_) if among is None else among
    n = int(of.sum())
    if n == 0:
        return Estimate(None)
    starts, group = np.unique(view.period[of], return_inverse=True)
    hits = np.bincount(group, is_so[of].astype(np.float64), minlength=len(starts))
    counts = np.bincount(group, minlength=len(starts)).astype(np.float64)
    share = float(hits.sum() / n)
    # A ratio's linearisation: each period's hits less what the share would give it, over the mean count.
    influence = ((hits - share * counts) / counts.mean()).astype(np.float64)
    return over_time(share, influence, horizon=view.horizon, n=n)


def _of_predictions(view: View, manifest: Manifest) -> Iterator[tuple[str, Estimate]]:
    """How right the predictions themselves were, for tasks that have such figures."""
    if manifest.task == "unknown" or np.isnan(view.rows.prediction).any():
        return
    is_classification = manifest.task == "classification"
    outcome = (view.rows.value > 0).astype(np.float64) if is_classification else view.rows.value
    rows = view.outcome_rows(outcome)
    for metric in _CLASSIFICATION if is_classification else _REGRESSION:
        found = row_figure(metric, rows, manifest.task, view.spec)
        yield metric, bootstrapped(found, n=len(rows), horizon=view.horizon, rows=len(rows))
