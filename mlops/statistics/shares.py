"""Shares of cells on two sides, and the population stability index: one smoothing for all who compare counts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Cells = NDArray[Any]

#: Added to each cell that is not empty on both sides, before shares are taken.
SMOOTHING = 0.5


def psi(reference: Cells, window: Cells) -> float | None:
    """Population stability index, sum of (p - q) ln(p / q) over smoothed shares.

    Parameters
    ----------
    reference, window : array of int, shape (cells,)
        Cells that are empty on both sides are dropped; 0.5 is added to each of the rest, which are renormalised.

    Returns
    -------
    float or None
        At least 0; None where a side has no rows.

    Examples
    --------
    >>> psi(np.array([10, 10]), np.array([10, 10]))
    0.0
    """
    shares = smoothed(reference, window)
    return None if shares is None else float(psi_of(*shares))


def psi_of(p: Floats, q: Floats) -> Floats:
    """PSI of positive shares along the last axis."""
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=-1))


def kept_cells(reference: Cells, window: Cells) -> tuple[Cells, Cells] | None:
    """The cells that are not empty on both sides; None where a side has no rows."""
    if not reference.sum() or not window.sum():
        return None
    occupied = (reference > 0) | (window > 0)
    return reference[occupied], window[occupied]


def smoothed(reference: Cells, window: Cells) -> tuple[Floats, Floats] | None:
    """Shares of the kept cells, `SMOOTHING` added to each; None where a side has no rows."""
    kept = kept_cells(reference, window)
    if kept is None:
        return None
    p, q = (side + SMOOTHING for side in kept)
    return p / p.sum(), q / q.sum()
