"""Labelled rows, split by time into training, validation and test."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlops.training.data import Bars, load_bars
from mlops.training.features import FEATURES, WARM_UP, compute_features
from tickserve.errors import DataError

#: Sessions after its own that a row's return reaches into: bought at the open of the next, sold at the open after it.
LABEL_HORIZON = 2

#: Shares of all labelled rows, oldest first; the test takes the rest. On the bundled data sets the test starts in 2014.
TRAIN_SHARE = 0.60
VALIDATION_SHARE = 0.15

#: Fewer rows in a part than this cannot fill the 50 blocks of a baseline or tell a model from chance.
MIN_ROWS = 100


@dataclass(frozen=True)
class Rows:
    """Rows of one part, oldest first: `sessions` (m,), `features` float32 (m, 10), `labels` int64 (m,) with 1 for up,
    `returns` float64 (m,), the simple return that the label is the sign of.
    """

    sessions: NDArray[np.datetime64]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    returns: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sessions)


@dataclass(frozen=True)
class Split:
    """Three parts in time order, with a purge gap between each two."""

    train: Rows
    validation: Rows
    test: Rows

    def parts(self) -> dict[str, Rows]:
        """The parts by name, oldest first."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def forward_returns(bars: Bars) -> NDArray[np.float64]:
    """Return from the open of the next session to the open after it, float64 of shape (n,).

    Features are known at the close, so the next open is the first price that can be traded. The last `LABEL_HORIZON`
    sessions have none: NaN.
    """
    returns = np.full(len(bars), np.nan)
    returns[:-LABEL_HORIZON] = bars.open[LABEL_HORIZON:] / bars.open[1 : -LABEL_HORIZON + 1] - 1
    return returns


def split_rows(bars: Bars) -> Split:
    """Rows with all features and a return, split by time.

    A row is labelled 1 where its return is above 0 and 0 otherwise: an unchanged price pays nobody for being long.
    Between two parts, rows whose return reaches into the first session of the later part are purged, so nothing that
    the earlier part learns from is known only later.

    Raises
    ------
    DataError
        Where a part would have fewer than `MIN_ROWS` rows.
    """
    features = compute_features(bars)
    returns = forward_returns(bars)
    usable = np.flatnonzero(np.isfinite(features).all(axis=1) & np.isfinite(returns))
    starts = [int(len(usable) * TRAIN_SHARE), int(len(usable) * (TRAIN_SHARE + VALIDATION_SHARE))]
    train, validation, test = np.split(usable, starts)
    train, validation = _purge(train, validation), _purge(validation, test)
    if min(len(train), len(validation), len(test)) < MIN_ROWS:
        raise DataError(
            f"{bars.name}: {len(bars)} sessions leave {len(train)} rows to train on, {len(validation)} to validate and "
            f"{len(test)} to test, expected at least {MIN_ROWS} each; {WARM_UP} sessions go into the warm-up, so bring "
            "about 1,000"
        )

    def rows(places: NDArray[np.intp]) -> Rows:
        return Rows(
            sessions=bars.sessions[places],
            features=features[places],
            labels=(returns[places] > 0).astype(np.int64),
            returns=returns[places],
        )

    return Split(train=rows(train), validation=rows(validation), test=rows(test))


def test_rows(
    dataset: str | Path,
) -> tuple[NDArray[np.datetime64], NDArray[np.float32], tuple[str, ...], NDArray[np.int64], NDArray[np.float64]]:
    """The rows of a data set that no model here was fitted or chosen on.

    Returns
    -------
    sessions, features, feature_names, labels, returns : tuple
        As in `Rows`, with `FEATURES` in the middle.
    """
    rows = split_rows(load_bars(dataset)).test
    return rows.sessions, rows.features, FEATURES, rows.labels, rows.returns


def _purge(earlier: NDArray[np.intp], later: NDArray[np.intp]) -> NDArray[np.intp]:
    return earlier[earlier + LABEL_HORIZON < later[0]] if len(later) else earlier
