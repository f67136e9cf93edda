"""Features know nothing of later sessions, forget old ones, and are what their names say."""

import math
from itertools import pairwise
from statistics import fmean, stdev

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlops.training.data import Bars
from mlops.training.features import FEATURES, WARM_UP, compute_features

LENGTH = WARM_UP + 40


def bars_of(close: NDArray[np.float64], volume: NDArray[np.float64]) -> Bars:
    sessions = np.datetime64("2001-01-01", "D") + np.arange(len(close))
    return Bars("made", sessions, close * 0.999, close * 1.01, close * 0.99, close, volume)


@st.composite
def random_bars(draw: st.DrawFn) -> Bars:
    """Random walks with jumps, stretches without any move, and sessions without volume."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = generator.normal(0, draw(st.sampled_from([1e-4, 0.01, 0.1])), LENGTH)
    steps[generator.random(LENGTH) < draw(st.sampled_from([0.0, 0.3]))] = 0
    start = draw(st.sampled_from([0.01, 100.0, 50_000.0]))
    volume = np.rint(np.exp(generator.normal(15, 1, LENGTH)))
    volume[generator.random(LENGTH) < draw(st.sampled_from([0.0, 0.02]))] = 0
    return bars_of(start * np.exp(np.cumsum(steps)), volume)


def row_by_hand(bars: Bars, session: int) -> list[float]:
    """One row, straight from the definitions; NaN where one has no value."""
    close = [float(price) for price in bars.close[: session + 1]]
    volume = [float(traded) for traded in bars.volume[: session + 1]]
    row = [math.log(close[-1] / close[-1 - days]) for days in (1, 5, 21, 63)]
    row += [close[-1] / fmean(close[-days:]) - 1 for days in (10, 50, 200)]
    moves = [after - before for before, after in pairwise(close)]
    gain = fmean(max(move, 0) for move in moves[:14])
    loss = fmean(max(-move, 0) for move in moves[:14])
    for move in moves[14:]:
        gain, loss = (gain * 13 + max(move, 0)) / 14, (loss * 13 + max(-move, 0)) / 14
    row.append(100 - 100 / (1 + gain / loss) if loss else math.nan if not gain else 100.0)
    returns = [math.log(close[place] / close[place - 1]) for place in range(len(close) - 21, len(close))]
    row.append(math.sqrt(252 / 21 * math.fsum(move**2 for move in returns)))
    recorded = [math.log(traded) for traded in volume if traded > 0][-21:]
    row.append((recorded[-1] - fmean(recorded)) / stdev(recorded) if volume[-1] else math.nan)
    return row


@given(bars=random_bars(), session=st.integers(WARM_UP, LENGTH - 2), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_changing_later_sessions_leaves_a_row_bit_equal(bars: Bars, session: int, seed: int) -> None:
    before = compute_features(bars)[: session + 1].tobytes()
    factors = np.ones(LENGTH)
    factors[session + 1 :] = np.random.default_rng(seed).uniform(0.2, 5, LENGTH - session - 1)
    changed = bars_of(bars.close * factors, np.where(factors > 4, 0, np.rint(bars.volume * factors)))
    assert compute_features(changed)[: session + 1].tobytes() == before


@given(bars=random_bars(), session=st.integers(WARM_UP, LENGTH - 2))
@settings(max_examples=20)
def test_rows_do_not_depend_on_whether_later_sessions_exist(bars: Bars, session: int) -> None:
    cut = bars_of(bars.close[: session + 1], bars.volume[: session + 1])
    assert compute_features(cut).tobytes() == compute_features(bars)[: session + 1].tobytes()


@given(bars=random_bars())
@settings(max_examples=20)
def test_features_equal_a_row_by_row_computation(bars: Bars) -> None:
    features = compute_features(bars)
    assert features.dtype == np.float32
    assert features.shape == (LENGTH, len(FEATURES))
    assert np.isnan(features[:WARM_UP]).all()
    for session in range(WARM_UP, LENGTH, 7):
        # float32 holds 6e-8 of a figure; differences of nearly equal prices lose a few digits more.
        np.testing.assert_allclose(features[session], row_by_hand(bars, session), rtol=2e-6, atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_last_bars_alone_give_the_same_row(seed: int) -> None:
    generator = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(generator.normal(0, 0.01, 1000)))
    volume = np.rint(np.exp(generator.normal(15, 1, 1000)))
    whole = compute_features(bars_of(close, volume))[-1]
    recent = compute_features(bars_of(close[-WARM_UP - 1 :], volume[-WARM_UP - 1 :]))[-1]
    np.testing.assert_allclose(recent, whole, rtol=1e-6)
