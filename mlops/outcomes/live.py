"""Live figures as metrics of a version in the registry, under the data set `live`."""

from collections.abc import Iterable

from mlops.outcomes.figure import OutcomeFigure
from mlops.package import Metric

DATASET = "live"
_DAY_NS = 86_400_000_000_000


def live_metrics(figures: Iterable[OutcomeFigure]) -> tuple[dict[str, Metric], int]:
    """The figures of one version that may be relied on, by name, and the step: the day of the last row, since 1970.

    A horizon other than the first is named, as `ic:5d`.
    """
    chosen = [each for each in figures if each.state == "ok" and each.value is not None]
    first = chosen[0].horizon if chosen else ""
    metrics = {
        each.figure if each.horizon == first else f"{each.figure}:{each.horizon}": Metric(
            value=each.value, standard_error=each.standard_error, n=each.n
        )
        for each in chosen
        if each.value is not None
    }
    return metrics, max((each.end_ns for each in chosen), default=0) // _DAY_NS
