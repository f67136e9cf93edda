"""Two versions side by side: figures with intervals, schema, features, data."""

from dataclasses import dataclass

from sqlalchemy import Connection

from mlops.registry.desired import read_manifest, schema_changes
from mlops.registry.figures import last_steps, read_metrics
from mlops.registry.lookup import resolve
from mlops.registry.values import MetricRow, Version
from mlops.statistics.directions import HIGHER_IS_BETTER

#: Half of a 95% interval, in standard errors.
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one version, with its 95% interval where it has a standard error."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class MetricPair:
    """One metric on one data set, of both versions; None where a version lacks it.

    `better` names the side whose interval lies wholly beyond the other's: `left`, `right`, or empty where the
    intervals overlap, or one is missing. The rows are often the same, so the true difference may be clearer than this.
    """

    dataset: str
    name: str
    left: Figure | None
    right: Figure | None
    better: str


@dataclass(frozen=True, slots=True)
class DatasetPair:
    """One data set of both versions: fingerprint, rows and period each."""

    dataset: str
    left: str
    right: str
    is_same: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions of one or two models."""

    left: Version
    right: Version
    metrics: tuple[MetricPair, ...]
    schema: tuple[str, ...]
    datasets: tuple[DatasetPair, ...]


def compare(connection: Connection, left: tuple[str, str | int], right: tuple[str, str | int]) -> Comparison:
    """Compares two versions, each given as model and reference."""
    versions = (resolve(connection, *left), resolve(connection, *right))
    figures = [last_steps(read_metrics(connection, found.model, found.version)) for found in versions]
    places = sorted({(dataset, name) for side in figures for dataset, names in side.items() for name in names})
    pairs = tuple(
        _pair(dataset, name, *(side.get(dataset, {}).get(name) for side in figures)) for dataset, name in places
    )
    old, new = (read_manifest(connection, found.digest) for found in versions)
    data = [
        {
            name: f"{facts.fingerprint[:12]}, {facts.rows} rows, {facts.first or '?'} to {facts.last or '?'}"
            for name, facts in manifest.datasets.items()
        }
        for manifest in (old, new)
    ]
    datasets = tuple(
        DatasetPair(
            name,
            data[0].get(name, "none"),
            data[1].get(name, "none"),
            name in old.datasets and old.datasets.get(name) == new.datasets.get(name),
        )
        for name in sorted(data[0].keys() | data[1].keys())
    )
    return Comparison(*versions, pairs, tuple(schema_changes(old, new)), datasets)


def _pair(dataset: str, name: str, left: MetricRow | None, right: MetricRow | None) -> MetricPair:
    a, b = _figure(left), _figure(right)
    return MetricPair(dataset, name, a, b, _better(HIGHER_IS_BETTER.get(name), a, b))


def _better(is_higher_better: bool | None, left: Figure | None, right: Figure | None) -> str:
    if is_higher_better is None or left is None or right is None:
        return ""
    if left.low is None or left.high is None or right.low is None or right.high is None:
        return ""
    if left.low > right.high:
        return "left" if is_higher_better else "right"
    if right.low > left.high:
        return "right" if is_higher_better else "left"
    return ""


def _figure(row: MetricRow | None) -> Figure | None:
    if row is None:
        return None
    if row.value is None or row.standard_error is None:
        return Figure(row.value, None, None, row.n)
    return Figure(row.value, row.value - _Z * row.standard_error, row.value + _Z * row.standard_error, row.n)
