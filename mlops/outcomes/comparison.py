"""Live figures against those that the package itself claims, with the errors of both."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from mlops.outcomes.figure import OutcomeFigure
from mlops.package import Manifest, Metric
from mlops.statistics.directions import HIGHER_IS_BETTER

#: By a package's metric the live figure that is computed alike: trained models register an IC of ranks, and the Sharpe
#: ratio of trading the sign. Figures that grow with the length of the period compare with nothing.
_LIVE = {"ic": "rank_ic", "sharpe": "sharpe_of_sign"}
_GROWING = frozenset({"max_drawdown", "total_return", "turnover"})
_TEST_SET = "test"
#: Of a drop by chance.
LEVEL = 0.025


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of the package beside the same figure live.

    Attributes
    ----------
    worsening : float or None
        How much worse live is, in units of the metric; below 0 where it is better.
    p : float or None
        Of a worsening like this or more by chance; None where either side has no standard error.
    state : str
        `worse` where p is below 2.5%; `insufficient` where nothing can be tested.
    """

    figure: str
    live: float | None
    live_error: float | None
    package: float
    package_error: float | None
    dataset: str
    worsening: float | None
    p: float | None
    state: Literal["ok", "worse", "insufficient"]


def compare_with_package(figures: Iterable[OutcomeFigure], manifest: Manifest) -> tuple[Comparison, ...]:
    """Compares with the metrics on the test set, or else on the data set that the outputs' baseline is of."""
    by_name = {figure.figure: figure for figure in figures}
    dataset = _TEST_SET if _TEST_SET in manifest.metrics else manifest.baseline_outputs
    return tuple(
        _compare(name, by_name[live], metric, dataset)
        for name, metric in sorted(manifest.metrics.get(dataset, {}).items())
        if name in HIGHER_IS_BETTER and name not in _GROWING and (live := _LIVE.get(name, name)) in by_name
    )


def _compare(name: str, live: OutcomeFigure, package: Metric, dataset: str) -> Comparison:
    worsening = p = None
    if live.value is not None:
        worsening = (package.value - live.value) * (1 if HIGHER_IS_BETTER[name] else -1)
        if live.state == "ok" and live.standard_error and package.standard_error:
            z = worsening / math.hypot(live.standard_error, package.standard_error)
            p = 1 - NormalDist().cdf(z)
    return Comparison(
        figure=name,
        live=live.value,
        live_error=live.standard_error,
        package=package.value,
        package_error=package.standard_error,
        dataset=dataset,
        worsening=worsening,
        p=p,
        state="insufficient" if p is None else "worse" if p < LEVEL else "ok",
    )
