"""Features of daily bars, each computed from sessions up to and including its own.

A row depends only on the last `WARM_UP + 1` bars, to the precision of float32, so a trading engine that keeps that many
computes the same figures.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mlops.training.data import Bars

#: Feature names in the model's order; `_Nd` is the horizon in exchange sessions.
FEATURES = (
    "return_1d",
    "return_5d",
    "return_21d",
    "return_63d",
    "ma_ratio_10d",
    "ma_ratio_50d",
    "ma_ratio_200d",
    "rsi_14d",
    "realised_volatility_21d",
    "volume_zscore_21d",
)

#: Sessions before the first row. The longest window is 200; Wilder's recursion has by then forgotten how it was
#: started: (13/14)^236 is 3e-8, the resolution of float32.
WARM_UP = 250

SESSIONS_PER_YEAR = 252


def compute_features(bars: Bars) -> NDArray[np.float32]:
    """The features of every session.

    Returns
    -------
    numpy.ndarray
        float32 of shape (len(bars), len(FEATURES)). Returns are logarithmic; moving-average ratios are
        close / mean - 1; RSI is in [0, 100]; realised volatility is per year. NaN where undefined: in the first
        `WARM_UP` rows, and where the volume is not recorded or a window never moves.
    """
    log_close = np.log(bars.close)
    columns = [
        *(_change(log_close, periods) for periods in (1, 5, 21, 63)),
        *(bars.close / _moving_mean(bars.close, periods) - 1 for periods in (10, 50, 200)),
        relative_strength(bars.close, 14),
        _realised_volatility(log_close, 21),
        _volume_zscore(bars.volume, 21),
    ]
    matrix = np.stack(columns, axis=1).astype(np.float32)
    matrix[:WARM_UP] = np.nan
    return matrix


def relative_strength(close: NDArray[np.float64], periods: int) -> NDArray[np.float64]:
    """Wilder's relative strength index, in [0, 100]; NaN before `periods` changes, and while no change was ever seen.

    The averages of gains and of losses start as plain means of the first `periods` changes and go on as
    (average * (periods - 1) + change) / periods. J. W. Wilder, "New Concepts in Technical Trading Systems", 1978.
    """
    strength = np.full(len(close), np.nan)
    changes = np.diff(close)
    if len(changes) < periods:
        return strength
    gain = float(np.maximum(changes[:periods], 0).mean())
    loss = float(np.maximum(-changes[:periods], 0).mean())
    for session in range(periods, len(close)):
        if session > periods:
            change = float(changes[session - 1])
            gain = (gain * (periods - 1) + max(change, 0.0)) / periods
            loss = (loss * (periods - 1) + max(-change, 0.0)) / periods
        if gain + loss > 0:
            strength[session] = 100 * (gain / (gain + loss))
    return strength


def _change(values: NDArray[np.float64], periods: int) -> NDArray[np.float64]:
    changes = np.full(len(values), np.nan)
    changes[periods:] = values[periods:] - values[:-periods]
    return changes


def _windows(values: NDArray[np.float64], periods: int) -> NDArray[np.float64]:
    """Windows as rows of their own memory: then each is summed in the same order, however many there are."""
    return (
        np.ascontiguousarray(sliding_window_view(values, periods)) if len(values) >= periods else np.empty((0, periods))
    )


def _after_warm_up(figures: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    return np.concatenate([np.full(length - len(figures), np.nan), figures])


def _moving_mean(values: NDArray[np.float64], periods: int) -> NDArray[np.float64]:
    return _after_warm_up(_windows(values, periods).mean(axis=1), len(values))


def _realised_volatility(log_close: NDArray[np.float64], periods: int) -> NDArray[np.float64]:
    """Root of the yearly sum of squared returns, without taking off their mean."""
    squares = np.diff(log_close) ** 2
    return _after_warm_up(np.sqrt(SESSIONS_PER_YEAR * _windows(squares, periods).mean(axis=1)), len(log_close))


def _volume_zscore(volume: NDArray[np.float64], periods: int) -> NDArray[np.float64]:
    """Log volume against the last `periods` recorded ones, its own included, in their standard deviations."""
    scores = np.full(len(volume), np.nan)
    recorded = volume > 0
    log_volume = np.log(volume[recorded])
    windows = _windows(log_volume, periods)
    deviation = windows.std(axis=1, ddof=1)
    moves = deviation > 1e-12
    defined = np.full(len(log_volume), np.nan)
    defined[len(log_volume) - len(windows) :][moves] = (windows[moves, -1] - windows[moves].mean(axis=1)) / deviation[
        moves
    ]
    scores[recorded] = defined
    return scores
