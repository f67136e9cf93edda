"""The rows of one evaluation: what was predicted, what came of it, and which rows share a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows in time order.

    Parameters
    ----------
    time : numpy.ndarray
        int64 of shape (n,): Unix nanoseconds, ascending.
    prediction : numpy.ndarray
        float64 of shape (n,).
    outcome, returns : numpy.ndarray or None
        float64 of shape (n,); None where the evaluation has no such column.
    """

    time: Integers
    prediction: Floats
    outcome: Floats | None
    returns: Floats | None

    def __len__(self) -> int:
        return len(self.time)

    @property
    def period(self) -> Integers:
        """For each row the place of its time among the distinct times, from 0."""
        return np.unique(self.time, return_inverse=True)[1].astype(np.int64)

    @property
    def periods(self) -> int:
        """How many distinct times there are."""
        return len(np.unique(self.time))

    @property
    def ordinal(self) -> Integers:
        """For each row its place among the rows of its time, from 0: with the time it names the row."""
        places = np.arange(len(self))
        is_first = np.diff(self.time, prepend=self.time[:1] - 1) != 0
        return places - np.maximum.accumulate(np.where(is_first, places, 0))

    def take(self, chosen: NDArray[Any]) -> "Rows":
        """Some of the rows: a mask, or places in ascending order."""
        return Rows(
            self.time[chosen],
            self.prediction[chosen],
            None if self.outcome is None else self.outcome[chosen],
            None if self.returns is None else self.returns[chosen],
        )

    def realised(self) -> "Rows":
        """Those whose outcome and return, as far as there are such columns, are known by now."""
        is_known = np.ones(len(self), np.bool_)
        for column in (self.outcome, self.returns):
            if column is not None:
                is_known &= ~np.isnan(column)
        return self.take(is_known)


def read_rows(table: Mapping[str, NDArray[Any]]) -> Rows:
    """The rows of an evaluation's table."""

    def column(name: str) -> Floats | None:
        return np.asarray(table[name], np.float64) if name in table else None

    prediction = np.asarray(table["prediction"], np.float64)
    return Rows(np.asarray(table["time"], np.int64), prediction, column("outcome"), column("return"))
