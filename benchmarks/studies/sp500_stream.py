"""The S&P 500 of 2007 to 2009 as it would have been asked for, whole and with two faults injected."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlops.training import Bars, close_times, compute_features, load_bars
from mlops.training.features import FEATURES
from mlops.training.split import forward_returns

TRAINED_UNTIL = np.datetime64("2006-12-31")
STREAM_FROM, STREAM_TO = np.datetime64("2007-01-01"), np.datetime64("2009-12-31")
#: When a fault begins, and how long the price stands still.
FAULT_FROM, STALE_SESSIONS = np.datetime64("2007-07-02"), 40
SCENARIOS = ("as it was", "stale price", "unit error")


@dataclass(frozen=True, eq=False)
class Stream:
    """Rows to ask for, oldest first: event times in Unix nanoseconds, features float32 (n, 10), realised returns."""

    scenario: str
    sessions: NDArray[np.datetime64]
    time_ns: NDArray[np.int64]
    features: NDArray[np.float32]
    returns: NDArray[np.float64]


def training_bars() -> Bars:
    """What was known at the end of 2006."""
    bars = load_bars("sp500")
    return cut(bars, bars.sessions <= TRAINED_UNTIL)


def make_stream(scenario: str) -> Stream:
    """The rows of 2007 to 2009. What came of them is what came of them, whatever the features said.

    `stale price`: from July 2007 the close that features are computed from stands still for 40 sessions, as when a feed
    hangs and nobody looks; then it is right again. `unit error`: from July 2007 volatility comes in percent.
    """
    bars = load_bars("sp500")
    seen = stale(bars) if scenario == "stale price" else bars
    features = compute_features(seen)
    if scenario == "unit error":
        features[bars.sessions >= FAULT_FROM, FEATURES.index("realised_volatility_21d")] *= 100
    returns = forward_returns(bars)
    chosen = (bars.sessions >= STREAM_FROM) & (bars.sessions <= STREAM_TO)
    # A window in which nothing moves has no RSI and no z-score of volume: such rows are asked for with the last known.
    features = last_known(features)
    return Stream(
        scenario,
        bars.sessions[chosen],
        close_times(bars.sessions[chosen]).astype(np.int64),
        np.ascontiguousarray(features[chosen]),
        returns[chosen],
    )


def stale(bars: Bars) -> Bars:
    """The closes that a hanging feed gives."""
    start = int(np.searchsorted(bars.sessions, FAULT_FROM))
    close = bars.close.copy()
    close[start : start + STALE_SESSIONS] = close[start - 1]
    return replace(bars, close=close)


def last_known(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each value that is not there replaced by the one before it."""
    filled = features.copy()
    for column in filled.T:
        known = np.flatnonzero(np.isfinite(column))
        place = np.searchsorted(known, np.arange(len(column)), side="right") - 1
        column[place >= 0] = column[known[place[place >= 0]]]
    return filled


def cut(bars: Bars, chosen: NDArray[np.bool_]) -> Bars:
    """Some of the sessions."""
    return Bars(
        name=bars.name,
        sessions=bars.sessions[chosen],
        open=bars.open[chosen],
        high=bars.high[chosen],
        low=bars.low[chosen],
        close=bars.close[chosen],
        volume=bars.volume[chosen],
    )


def publish_model(models: Path) -> Path:
    """Trains on 1999 to 2006 and puts the package where a server finds it."""
    from mlops.training import publish, train_on

    return publish(train_on(training_bars(), "forest"), models)[1]
