"""Rows that were predicted and whose outcome is known: what every figure is a pure function of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.outcomes.packing import texts
from mlops.statistics.rows import Floats, Integers


@dataclass(frozen=True, eq=False)
class JoinedRows:
    """Rows of one version at one horizon, ordered by event time, entity, then request and row.

    The order is one of content, so figures do not depend on the order in which predictions or outcomes came.

    Parameters
    ----------
    time_ns : numpy.ndarray
        int64 of shape (n,): event time, or when it was answered where the client gave none.
    entity : numpy.ndarray
        str objects of shape (n,); empty where the client named none.
    key : numpy.ndarray
        str objects of shape (n,): the request and the row in it.
    prediction : numpy.ndarray
        float64 of shape (n,): the column of the output that the signal is taken from, such as a probability of up; NaN
        where the package names none.
    signal : numpy.ndarray
        float64 of shape (n,): the package's signal, before any position scale.
    value : numpy.ndarray
        float64 of shape (n,): what was realised, such as a simple return.
    features : numpy.ndarray
        float64 of shape (n, features); NaN in rows whose inputs the log does not hold in full.
    """

    time_ns: Integers
    entity: NDArray[Any]
    key: NDArray[Any]
    prediction: Floats
    signal: Floats
    value: Floats
    features: Floats
    feature_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.time_ns)

    def take(self, chosen: NDArray[Any]) -> "JoinedRows":
        """The rows of a mask, or of rising places."""
        return JoinedRows(
            self.time_ns[chosen],
            self.entity[chosen],
            self.key[chosen],
            self.prediction[chosen],
            self.signal[chosen],
            self.value[chosen],
            self.features[chosen],
            self.feature_names,
        )


def joined_rows(
    time_ns: Sequence[int] | Integers,
    entity: Sequence[str],
    key: Sequence[str],
    prediction: Sequence[float] | Floats,
    signal: Sequence[float] | Floats,
    value: Sequence[float] | Floats,
    features: Floats | None = None,
    feature_names: tuple[str, ...] = (),
) -> JoinedRows:
    """Rows in any order, put into the order of `JoinedRows`."""
    n = len(time_ns)
    order = np.array(sorted(range(n), key=lambda place: (int(time_ns[place]), entity[place], key[place])), np.int64)
    matrix = np.empty((n, 0)) if features is None else np.asarray(features, np.float64)
    return JoinedRows(
        np.asarray(time_ns, np.int64)[order],
        texts(entity)[order],
        texts(key)[order],
        np.asarray(prediction, np.float64)[order],
        np.asarray(signal, np.float64)[order],
        np.asarray(value, np.float64)[order],
        matrix[order],
        feature_names,
    )
