"""How each column of a version was distributed, day by day: counts on the bins of its package's baseline."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import Baseline, CategoricalColumn, NumericColumn, bin_counts, category_counts, tensor_columns
from mlops.prediction_log import Batch
from mlops.report.facts import Distribution
from mlops.statistics.rows import Integers

Column = NumericColumn | CategoricalColumn
Counts = NDArray[np.int64]
#: Fewer rows than this on the day itself, and the days before are added.
LEAST_ROWS = 250


class DayCounts:
    """Counts by day, which add up: a distribution over several days is their sum."""

    def __init__(self, baseline: Baseline) -> None:
        self._columns: list[tuple[str, Column]] = [("input", column) for column in baseline.inputs.columns]
        if baseline.outputs is not None:
            self._columns += [("output", column) for column in baseline.outputs.columns]
        self._days: dict[int, list[Counts]] = {}

    def add(self, batch: Batch, day_of_record: Integers) -> None:
        """Counts the rows of the records; `day_of_record` says the day of each, in days since 1970."""
        for place, (side, column) in enumerate(self._columns):
            tensors: Mapping[str, Any] = batch.inputs if side == "input" else batch.outputs
            owners = batch.input_records if side == "input" else batch.output_records
            if column.tensor not in tensors or not len(owners):
                continue
            shape = batch.shapes.get(column.tensor, ())
            tensor = np.asarray(tensors[column.tensor]).reshape(len(owners), *shape[1:] if len(shape) > 1 else (-1,))
            values = _column(tensor, column.column)
            days = day_of_record[owners]
            for day in np.unique(days).tolist():
                held = self._days.setdefault(day, [np.zeros(0, np.int64)] * len(self._columns))
                counts = _count(values[days == day], column)
                held[place] = counts if not len(held[place]) else held[place] + counts

    def up_to(self, day: int) -> tuple[int, list[Distribution]]:
        """The distributions of a day, with as many days before it as make 250 rows; the first of these days."""
        chosen: list[int] = []
        rows = 0
        for each in sorted((known for known in self._days if known <= day), reverse=True):
            if rows >= LEAST_ROWS:
                break
            chosen.append(each)
            rows += max((int(counts.sum()) for counts in self._days[each]), default=0)
        return min(chosen, default=day), list(self._distributions(chosen))

    def _distributions(self, days: list[int]) -> Iterator[Distribution]:
        for place, (side, column) in enumerate(self._columns):
            held = [self._days[day][place] for day in days if len(self._days[day][place])]
            if not held:
                continue
            seen, reference = np.sum(held, axis=0), column.total()
            yield Distribution(
                side,
                column.name,
                _labels(column),
                tuple((reference / max(reference.sum(), 1)).tolist()),
                tuple((seen / max(seen.sum(), 1)).tolist()),
                int(seen.sum()),
            )


def _column(tensor: NDArray[Any], number: int) -> NDArray[Any]:
    if tensor.ndim == 1:
        return tensor
    return list(tensor_columns(tensor))[number]


def _count(values: NDArray[Any], column: Column) -> Counts:
    if isinstance(column, NumericColumn):
        return bin_counts(values, column.edge_array())
    if values.dtype == object:
        values = np.array([value.decode(errors="replace") for value in values], np.str_)
    return category_counts(values, np.array(column.categories, np.str_ if values.dtype.kind == "U" else np.int64))


def _labels(column: Column) -> tuple[str, ...]:
    if isinstance(column, CategoricalColumn):
        return (*map(str, column.categories), "other", "missing")
    edges = [f"{edge:.4g}" for edge in column.edges]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return (f"below {edges[0]}", *between, f"from {edges[-1]}", "missing") if edges else ("all", "missing")
