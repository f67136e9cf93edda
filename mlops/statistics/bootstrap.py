"""Intervals of figures on dependent periods: the stationary bootstrap.

D. N. Politis and J. P. Romano, "The Stationary Bootstrap", Journal of the American Statistical Association 89, 1994;
the mean length of blocks by D. N. Politis and H. White, "Automatic Block-Length Selection for the Dependent Bootstrap",
Econometric Reviews 23, 2004, as corrected by A. Patton, Politis and White, Econometric Reviews 28, 2009.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlops.statistics.rows import Floats, Integers

#: Resamples times periods (or rows) that are worked on at once.
_BATCH = 1 << 20


@dataclass(frozen=True)
class Interval:
    """A two-sided interval: on each side the true value lies beyond it with about `level`.

    `undefined` is the share of resamples that the figure was undefined on; they are in neither tail. `error` is the
    standard deviation over the others.
    """

    low: float
    high: float
    error: float
    level: float
    block_length: int
    repetitions: int
    undefined: float


def block_length(series: Sequence[Floats]) -> int:
    """Mean length of blocks that fits the most dependent of these series; 1 where none varies.

    Never below n^(1/3): the automatic choice is itself an estimate, and too short a block hides dependence.
    """
    from arch.bootstrap import optimal_block_length

    n = len(series[0])
    found = [float(optimal_block_length(values)["stationary"].iloc[0]) for values in series if np.ptp(values) > 0]
    usable = [length for length in found if math.isfinite(length)]
    return max(1, math.ceil(max([n ** (1 / 3), *usable]))) if usable else 1


def bootstrap_interval(
    figure: Callable[[Integers], Floats],
    periods: int,
    *,
    length: int,
    level: float,
    repetitions: int,
    seed: int,
    rows: int = 0,
) -> Interval:
    """The interval of a figure.

    Parameters
    ----------
    figure : callable
        From places of shape (draws, periods) to values of shape (draws,).
    length : int
        Mean length of blocks.
    level : float
        Error rate on each side.
    rows : int
        Where a period has many rows: how many they are in all, so that no more are worked on at once than memory holds.
    """
    resamples = _resamples(periods, length, repetitions, seed, max(periods, rows))
    values = np.concatenate([figure(places) for places in resamples])
    is_defined = np.isfinite(values)
    low, high = np.quantile(values[is_defined], [level, 1 - level]) if is_defined.any() else (math.nan, math.nan)
    error = float(values[is_defined].std(ddof=1)) if is_defined.sum() > 1 else math.nan
    return Interval(float(low), float(high), error, level, length, repetitions, 1 - float(is_defined.mean()))


def _resamples(periods: int, length: int, repetitions: int, seed: int, width: int) -> Iterator[Integers]:
    from arch.bootstrap import StationaryBootstrap

    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = StationaryBootstrap(length, np.arange(periods), seed=generator).bootstrap(repetitions)
    batch = max(1, _BATCH // width)
    for start in range(0, repetitions, batch):
        yield np.stack([next(drawn)[0][0] for _ in range(min(batch, repetitions - start))])
