"""What gates judge a version by: its package, its metrics and its predictions row by row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mlops.package import Manifest, Metric


@dataclass(frozen=True, eq=False)
class VersionFacts:
    """One version as the registry knows it.

    Parameters
    ----------
    manifest : Manifest
        As registered: the package in `path` must have its digest.
    metrics : mapping
        By data set, then by name.
    evaluations : mapping
        Tables by data set; the columns, arrays of one length, are `time` (int64, Unix nanoseconds, ascending),
        `prediction` (probability of up, or the predicted figure), and where they are known `outcome` (1 or 0, or the
        figure that came) and `return` (simple, of one period).
    path : Path
        The package's folder.
    tried : mapping
        By data set the Sharpe ratios a year of every version of the model so far, this one included: how many were
        tried is what a good one has to be held against.
    """

    manifest: Manifest
    metrics: Mapping[str, Mapping[str, Metric]]
    evaluations: Mapping[str, Mapping[str, NDArray[Any]]]
    path: Path
    tried: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
