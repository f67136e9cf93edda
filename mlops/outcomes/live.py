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
    known = list(figures)
    # Whether or not it may be relied on yet: a name must not mean one horizon today and another one tomorrow.
    first = known[0].horizon if known else ""
    chosen = [each for each in known if each.state == "ok" and each.value is not None]
    metrics = {
        each.figure if each.horizon == first else f"{each.figure}:{each.horizon}": Metric(
            value=each.value, standard_error=each.standard_error, n=each.n
        )
        for each in chosen
        if each.value is not None
    }
    return metrics, max((each.end_ns for each in chosen), default=0) // _DAY_NS
