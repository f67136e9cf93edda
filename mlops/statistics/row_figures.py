"""Figures computed from the rows of an evaluation: predictions, and what came of them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mlops.package import OutcomeSpec
from mlops.package.build import Task
from mlops.statistics.resampled import RowFigure, Weighted, dot, ratio, weighted
from mlops.statistics.return_figures import return_figure
from mlops.statistics.rows import Floats, Integers, Rows

Booleans = NDArray[np.bool_]
_OF_STRATEGY = ("sharpe", "sortino", "max_drawdown", "total_return", "profit_factor", "positive_share")
#: Fewer names than this make a cross-section's rank correlation worthless.
_LEAST_NAMES = 20


def row_figure(metric: str, rows: Rows, task: Task, outcomes: OutcomeSpec | None) -> RowFigure | None:
    """The figure of a metric, or None where these rows cannot give it.

    Undefined on the rows is not None but a figure whose value is NaN.

    Parameters
    ----------
    metric : str
        `accuracy`, `precision`, `recall`, `f1`, `auc`, `brier` and `log_loss` of a classification; `mae`, `mse` and
        `r2` of a regression; `ic`, and of trading it `sharpe`, `sortino`, `max_drawdown`, `total_return`,
        `profit_factor` and `positive_share`, of either.
    rows : Rows
        Predictions of a classification are probabilities of up, and its outcomes 1 or 0.
    outcomes : OutcomeSpec, optional
        The package's declaration: the periods of a year, and costs.
    """
    if len(rows) == 0:
        return None
    if metric in _OF_STRATEGY:
        return _of_strategy(metric, rows, task, outcomes)
    if metric == "ic":
        return _ic(rows)
    if rows.outcome is None:
        return None
    if task == "classification":
        return _of_classification(metric, rows, rows.outcome)
    return _of_regression(metric, rows, rows.outcome)


def period_returns(rows: Rows, task: Task, outcomes: OutcomeSpec | None) -> Floats | None:
    """Returns of trading the sign of each prediction, in equal parts over the rows of a time, less costs.

    Every change of position costs, the first entry from flat too; the last position is valued, not sold. None without
    returns, without a declaration of costs, and where a time has several rows and trading costs: what is held then has
    no name to follow.
    """
    if rows.returns is None or outcomes is None:
        return None
    position = np.sign(rows.prediction - (0.5 if task == "classification" else 0.0))
    gained = position * rows.returns
    if rows.periods == len(rows):
        return np.asarray(gained - outcomes.cost_bp / 1e4 * np.abs(np.diff(position, prepend=0.0)))
    return _means(rows, gained) if outcomes.cost_bp == 0 else None


def _of_strategy(metric: str, rows: Rows, task: Task, outcomes: OutcomeSpec | None) -> RowFigure | None:
    returns = period_returns(rows, task, outcomes)
    if returns is None or outcomes is None:
        return None
    return return_figure(metric, returns, outcomes.periods_per_year)


def _of_classification(metric: str, rows: Rows, outcome: Floats) -> RowFigure | None:
    up = rows.prediction
    # Neither a probability nor a class that is none may pass for one.
    invalid = np.where(((outcome == 0) | (outcome == 1)) & (up >= 0) & (up <= 1), 0.0, np.nan)
    match metric:
        case "accuracy":
            return _mean(rows, ((up > 0.5) == (outcome == 1)) + invalid)
        case "precision" | "recall" | "f1":
            return _of_hits(metric, rows, up > 0.5, outcome == 1, invalid)
        case "log_loss":
            given = np.maximum(np.where(outcome == 1, up, 1 - up), np.finfo(np.float64).eps)
            return _mean(rows, -np.log(given) + invalid)
        case "brier":
            return _mean(rows, (up - outcome) ** 2 + invalid)
        case "auc":
            # A row's own part in the AUC is how far its prediction leans the right way.
            leaning = (up - up.mean()) * (outcome - outcome.mean()) + invalid
            return weighted(_auc(rows, outcome, is_valid=not np.isnan(leaning).any()), _means(rows, leaning))
        case _:
            return None


def _of_regression(metric: str, rows: Rows, outcome: Floats) -> RowFigure | None:
    error = rows.prediction - outcome
    match metric:
        case "mse":
            return _mean(rows, error**2)
        case "mae":
            return _mean(rows, np.abs(error))
        case "r2":
            return weighted(_r2(rows, outcome), _means(rows, error**2))
        case _:
            return None


def _of_hits(metric: str, rows: Rows, says_up: Booleans, is_up: Booleans, invalid: Floats) -> RowFigure:
    """Of what was said to be up the share that was; of what was up the share that was said; their harmonic mean."""
    hits = _sums(rows, (says_up & is_up) + invalid)
    said, came = _sums(rows, says_up.astype(np.float64)), _sums(rows, is_up.astype(np.float64))
    of = {"precision": (hits, said), "recall": (hits, came), "f1": (2 * hits, said + came)}
    above, below = of[metric]
    return weighted(
        lambda weights: ratio(dot(weights, above), dot(weights, below)), _means(rows, (says_up == is_up) + invalid)
    )


def _mean(rows: Rows, values: Floats) -> RowFigure:
    """The mean over rows; a period with more of them weighs more."""
    sums, counts = _sums(rows, values), _sums(rows, np.ones(len(rows)))
    return weighted(lambda weights: dot(weights, sums) / dot(weights, counts), sums / counts)


def _r2(rows: Rows, outcome: Floats) -> Weighted:
    centred = outcome - outcome.mean()
    squared_error, linear, squared = (
        _sums(rows, values) for values in ((rows.prediction - outcome) ** 2, centred, centred**2)
    )
    counts = _sums(rows, np.ones(len(rows)))

    def of(weights: Floats) -> Floats:
        total = dot(weights, squared) - dot(weights, linear) ** 2 / dot(weights, counts)
        return 1 - ratio(dot(weights, squared_error), total)

    return of


def _auc(rows: Rows, outcome: Floats, *, is_valid: bool) -> Weighted:
    """Probability that an up row has the higher prediction than one that is not, ties counted half."""
    order = np.argsort(rows.prediction, kind="stable")
    period, is_up = rows.period[order], outcome[order] == 1
    starts = _group_starts(rows.prediction[order])

    def of(weights: Floats) -> Floats:
        by_row = weights[:, period]
        up = np.add.reduceat(by_row * is_up, starts, axis=1)
        down = np.add.reduceat(by_row * ~is_up, starts, axis=1)
        wins = (up * (np.cumsum(down, axis=1) - down / 2)).sum(axis=1)
        # One prediction for all ranks nothing.
        found = ratio(wins, up.sum(axis=1) * down.sum(axis=1))
        return np.where(((up + down) > 0).sum(axis=1) > 1, found, np.nan) if is_valid else np.full_like(found, np.nan)

    return of


def _ic(rows: Rows) -> RowFigure | None:
    """Spearman's rank correlation of prediction and return: over time, or the mean over cross-sections."""
    realised = rows.returns if rows.returns is not None else rows.outcome
    if realised is None:
        return None
    if rows.periods == len(rows):
        leaning = (rows.prediction - rows.prediction.mean()) * (realised - realised.mean())
        return weighted(_rank_correlation(rows.prediction, realised), leaning)
    names = _sums(rows, np.ones(len(rows)))
    is_wide = names >= _LEAST_NAMES
    if not is_wide.any():
        return None
    found = np.full(rows.periods, np.nan)
    for place in np.flatnonzero(is_wide):
        chosen = rows.period == place
        correlation = _rank_correlation(rows.prediction[chosen], realised[chosen])
        found[place] = correlation(np.ones((1, int(names[place]))))[0]
    counted, counts = np.where(is_wide, found, 0.0), is_wide.astype(np.float64)
    # Cross-sections that are too narrow are left out; for the length of blocks they lie at the mean.
    return weighted(
        lambda weights: ratio(dot(weights, counted), dot(weights, counts)),
        np.where(is_wide, found, found[is_wide].mean()),
    )


def _rank_correlation(x: Floats, y: Floats) -> Weighted:
    x_ranks, y_ranks = _weighted_ranks(x), _weighted_ranks(y)
    is_valid = bool(np.isfinite(x).all() and np.isfinite(y).all())

    def of(weights: Floats) -> Floats:
        n = weights.sum(axis=1, keepdims=True)
        a, b = x_ranks(weights) - (n + 1) / 2, y_ranks(weights) - (n + 1) / 2
        covariance = (weights * a * b).sum(axis=1)
        found = ratio(covariance, np.sqrt((weights * a**2).sum(axis=1) * (weights * b**2).sum(axis=1)))
        return found if is_valid else np.full_like(found, np.nan)

    return of


def _weighted_ranks(values: Floats) -> Callable[[Floats], Floats]:
    """Ranks from 1 of values that count `weights` times each, ties at their mean."""
    order = np.argsort(values, kind="stable")
    starts = _group_starts(values[order])
    group = np.empty(len(values), np.int64)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))

    def of(weights: Floats) -> Floats:
        sizes = np.add.reduceat(weights[:, order], starts, axis=1)
        return np.asarray((np.cumsum(sizes, axis=1) - sizes / 2 + 0.5)[:, group])

    return of


def _group_starts(ordered: Floats) -> Integers:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def _sums(rows: Rows, values: Floats) -> Floats:
    return np.bincount(rows.period, values, minlength=rows.periods).astype(np.float64)


def _means(rows: Rows, values: Floats) -> Floats:
    return np.asarray(_sums(rows, values) / _sums(rows, np.ones(len(rows))))
