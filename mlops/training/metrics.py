"""Metrics of a direction model, each with its standard error and sample size.

A figure that is undefined on the rows at hand is absent: never 0, never 0.5.
"""

import math

import numpy as np
from numpy.typing import NDArray

from mlops.package.manifest import FEATURE_IC, Metric
from mlops.statistics.correlation import spearman
from mlops.statistics.newey_west import newey_west_error
from mlops.statistics.ranks import midranks
from mlops.statistics.return_figures import drawdown, mertens_error
from mlops.training.features import FEATURES, SESSIONS_PER_YEAR
from mlops.training.split import Rows
from mlops.training.uncertainty import bootstrap_errors

#: Cost of trading, in basis points of the position traded; turning from long to short trades twice.
COST_BP = 1.0

Floats = NDArray[np.float64]


def evaluate(up: Floats, returns: Floats, *, cost_bp: float = COST_BP, seed: int = 0) -> dict[str, Metric]:
    """All metrics of predicted probabilities on rows in time order.

    Parameters
    ----------
    up : numpy.ndarray
        float64 of shape (n,): probability that the return is above 0.
    returns : numpy.ndarray
        float64 of shape (n,): the realised simple returns, one period each, without overlap.
    cost_bp : float
        See `COST_BP`.

    Returns
    -------
    dict of str to Metric
        Of `accuracy`, `auc`, `log_loss`, `ic`, `sharpe`, `sharpe_mertens` and `max_drawdown` those that are defined.
        `sharpe` has the standard error of the stationary bootstrap, `sharpe_mertens` is the same figure with the
        analytic one.
    """
    labels = returns > 0
    strategy = strategy_returns(np.sign(2 * up - 1), returns, cost_bp=cost_bp)
    sharpe, max_drawdown = strategy_figures(strategy, seed=seed)
    figures = {
        "accuracy": accuracy(up, labels),
        "auc": auc(up, labels),
        "log_loss": log_loss(up, labels),
        "ic": information_coefficient(2 * up - 1, returns),
        "sharpe": sharpe,
        "sharpe_mertens": sharpe_mertens(strategy),
        "max_drawdown": max_drawdown,
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def accuracy(up: Floats, labels: NDArray[np.bool_]) -> Metric | None:
    """Share of rows on the right side of one half; Newey-West standard error, since misses may cluster."""
    return _mean((up > 0.5) == labels)


def log_loss(up: Floats, labels: NDArray[np.bool_]) -> Metric | None:
    """Mean of -ln of the probability given to what happened, kept away from 0 by 2^-52; Newey-West standard error."""
    return _mean(-np.log(np.maximum(np.where(labels, up, 1 - up), np.finfo(np.float64).eps)))


def auc(up: Floats, labels: NDArray[np.bool_]) -> Metric | None:
    """Probability that an up row scores above one that is not, ties counted half.

    Undefined with one class only, or where one score is all there is: that ranks nothing.

    Standard error by E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, Biometrics 44, 1988, with the ranks of
    X. Sun and W. Xu, IEEE Signal Processing Letters 21, 2014.
    """
    positives, negatives = up[labels], up[~labels]
    m, n = len(positives), len(negatives)
    if m == 0 or n == 0 or np.ptp(up) == 0:
        return None
    joint = midranks(np.concatenate([positives, negatives]))
    above = (joint[:m] - midranks(positives)) / n
    below = 1 - (joint[m:] - midranks(negatives)) / m
    error = None
    if m > 1 and n > 1:
        error = float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)) or None
    return Metric(value=float(above.mean()), standard_error=error, n=m + n)


def information_coefficient(signal: Floats, returns: Floats) -> Metric | None:
    """Spearman's rank correlation of signal and realised return over time; undefined where either is constant.

    One instrument gives one row a period, so there are no cross-sections to average over: the correlation is taken over
    the whole window, by ranks, because daily returns have heavy tails. The standard error is the Newey-West one of
    the influence function.
    """
    found = spearman(signal, returns)
    if found is None:
        return None
    return Metric(value=found.value, standard_error=newey_west_error(found.influence), n=len(signal))


def feature_metrics(rows: Rows) -> dict[str, Metric]:
    """The IC of each feature by itself: what live ones are held against, one by one."""
    features = rows.features.astype(np.float64)
    found = {name: information_coefficient(features[:, n], rows.returns) for n, name in enumerate(FEATURES)}
    return {FEATURE_IC.format(name): figure for name, figure in found.items() if figure is not None}


def strategy_returns(positions: Floats, returns: Floats, *, cost_bp: float) -> Floats:
    """Returns of holding `positions` (-1, 0 or 1), less costs on every change, the first entry from flat included.

    The last position is valued at its last price, not sold.
    """
    return np.asarray(positions * returns - cost_bp / 1e4 * np.abs(np.diff(positions, prepend=0.0)))


def strategy_figures(strategy: Floats, *, seed: int = 0) -> tuple[Metric | None, Metric | None]:
    """Sharpe ratio and maximum drawdown of period returns, with standard errors of one stationary bootstrap.

    The Sharpe ratio is mean over standard deviation, per year; undefined without variance. The drawdown is the largest
    fall of compounded capital below its peak so far, as a positive fraction; the first peak is 1, the capital before
    the first return.
    """
    n = len(strategy)
    if n == 0:
        return None, None
    fall = float(drawdown(strategy))
    if np.ptp(strategy) == 0:
        return None, Metric(value=fall, n=n)
    errors = bootstrap_errors(strategy, lambda sample: (_sharpe(sample), float(drawdown(sample))), seed=seed)
    sharpe_error, drawdown_error = (float(error) if np.isfinite(error) and error > 0 else None for error in errors)
    return (
        Metric(value=_sharpe(strategy), standard_error=sharpe_error, n=n),
        Metric(value=fall, standard_error=drawdown_error, n=n),
    )


def sharpe_mertens(strategy: Floats) -> Metric | None:
    """The same figure with its standard error for independent returns that need not be normal."""
    error = mertens_error(strategy)
    if len(strategy) < 2 or np.ptp(strategy) == 0:
        return None
    yearly_error = None if error is None else error * SESSIONS_PER_YEAR**0.5
    return Metric(value=_sharpe(strategy), standard_error=yearly_error, n=len(strategy))


def _mean(values: NDArray[np.bool_] | Floats) -> Metric | None:
    if len(values) == 0:
        return None
    series = values.astype(np.float64)
    return Metric(value=float(series.mean()), standard_error=newey_west_error(series), n=len(series))


def _sharpe(returns: Floats) -> float:
    deviation = float(returns.std(ddof=1))
    return float(returns.mean()) / deviation * SESSIONS_PER_YEAR**0.5 if deviation > 0 else math.nan
