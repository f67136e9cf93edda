"""Labels look exactly two opens ahead, and no part learns from a later one."""

import numpy as np
import pytest

from mlops.training import split
from mlops.training.data import Bars, load_bars
from mlops.training.features import FEATURES, WARM_UP, compute_features
from tickserve.errors import DataError


def bars_of(opens: list[float]) -> Bars:
    prices = np.array(opens, np.float64)
    sessions = np.datetime64("2001-01-01", "D") + np.arange(len(prices))
    return Bars("made", sessions, prices, prices, prices, prices, prices)


def random_bars(length: int) -> Bars:
    return bars_of(list(100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, length)))))


def test_the_return_is_from_the_next_open_to_the_one_after() -> None:
    returns = split.forward_returns(bars_of([10, 20, 30, 15, 15]))
    np.testing.assert_array_equal(returns, [0.5, -0.5, 0.0, np.nan, np.nan])


@pytest.mark.parametrize("length", [1, 2])
def test_the_last_two_sessions_have_no_return(length: int) -> None:
    assert np.isnan(split.forward_returns(bars_of([10.0] * length))).all()


def test_no_row_is_a_phantom_and_none_is_lost() -> None:
    bars = load_bars("sp500")
    parts = split.split_rows(bars)
    assert parts.test.sessions[-1] == bars.sessions[-3]
    assert parts.train.sessions[0] == bars.sessions[WARM_UP]
    purged = 2 * split.LABEL_HORIZON
    assert sum(map(len, parts.parts().values())) == len(bars) - WARM_UP - split.LABEL_HORIZON - purged
    assert str(parts.test.sessions[0])[:4] == "2014"


def test_an_unchanged_open_is_not_up() -> None:
    parts = split.split_rows(load_bars("sp500"))
    for rows in parts.parts().values():
        assert (rows.labels == (rows.returns > 0)).all()
    unchanged = parts.train.returns == 0
    assert unchanged.sum() == 1
    assert parts.train.labels[unchanged].tolist() == [0]


def test_returns_of_an_earlier_part_end_before_the_next_part_begins() -> None:
    bars = load_bars("nasdaq")
    parts = split.split_rows(bars)
    for earlier, later in ((parts.train, parts.validation), (parts.validation, parts.test)):
        reach = np.searchsorted(bars.sessions, earlier.sessions[-1]) + split.LABEL_HORIZON
        assert bars.sessions[reach] < later.sessions[0]
        assert bars.sessions[reach + 1] == later.sessions[0]


def test_rows_keep_their_session_features_and_return_together() -> None:
    bars = load_bars("nasdaq")
    features, returns = compute_features(bars), split.forward_returns(bars)
    for rows in split.split_rows(bars).parts().values():
        places = np.searchsorted(bars.sessions, rows.sessions)
        assert (rows.features == features[places]).all()
        assert (rows.returns == returns[places]).all()


def test_a_session_without_volume_gives_no_row() -> None:
    sessions = split.split_rows(load_bars("nasdaq")).test.sessions
    assert np.datetime64("2015-05-12") not in sessions
    assert np.datetime64("2015-05-13") in sessions


def test_too_short_data_is_refused_with_its_counts() -> None:
    with pytest.raises(DataError, match="500 sessions leave"):
        split.split_rows(random_bars(500))
    with pytest.raises(DataError, match="100 sessions leave 0"):
        split.split_rows(random_bars(100))


def test_test_rows_are_the_part_no_model_has_seen() -> None:
    sessions, features, names, labels, returns = split.test_rows("sp500")
    rows = split.split_rows(load_bars("sp500")).test
    assert names == FEATURES
    assert features.dtype == np.float32
    assert (features == rows.features).all()
    assert (sessions == rows.sessions).all()
    assert (labels == rows.labels).all()
    assert (returns == rows.returns).all()
