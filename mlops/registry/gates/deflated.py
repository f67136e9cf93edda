"""The deflated Sharpe ratio: how far the best of many tries lies above what luck alone gives the best of so many.

D. H. Bailey and M. López de Prado, "The Deflated Sharpe Ratio: Correcting for Selection Bias, Backtest Overfitting and
Non-Normality", Journal of Portfolio Management 40, 2014.
"""

import math
from statistics import NormalDist

_NORMAL = NormalDist()
_EULER = 0.5772156649015329


def expected_best(tries: int, variance: float) -> float:
    """The Sharpe ratio that the best of so many worthless tries is expected to show; 0 for fewer than two.

    Parameters
    ----------
    variance : float
        Of the ratios of all tries.
    """
    if tries < 2:
        return 0.0
    first, second = _NORMAL.inv_cdf(1 - 1 / tries), _NORMAL.inv_cdf(1 - 1 / (tries * math.e))
    return math.sqrt(variance) * ((1 - _EULER) * first + _EULER * second)


def deflated_sharpe(sharpe: float, bar: float, *, periods: int, skewness: float, kurtosis: float) -> float:
    """Probability that the true ratio is above `bar`; NaN where the moments allow no such statement.

    Parameters
    ----------
    sharpe, bar : float
        A period, not a year.
    kurtosis : float
        3 for normal returns.
    """
    spread = 1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if periods < 2 or not spread > 0:
        return math.nan
    return _NORMAL.cdf((sharpe - bar) * math.sqrt(periods - 1) / math.sqrt(spread))
