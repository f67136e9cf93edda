"""The columns of a baseline as counting needs them, and the counting of rows into cells."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.drift.result import Side
from mlops.package import Baseline, CategoricalColumn, NumericColumn, Reference, binning
from tickserve.errors import DataError

Array = NDArray[Any]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Column:
    """One column: its cells are the bins or categories in order, `other` for categories, and missing last.

    Parameters
    ----------
    blocks : int64, shape (blocks, cells)
        The reference's counts.
    """

    side: Side
    name: str
    tensor: str
    place: int
    baseline: NumericColumn | CategoricalColumn
    blocks: Integers

    @cached_property
    def cells(self) -> int:
        """Number of cells, missing included."""
        return int(self.blocks.shape[1])

    @cached_property
    def edges(self) -> Array:
        """Edges of a numeric column in the tensor's dtype."""
        return self._numeric.edge_array()

    @property
    def is_numeric(self) -> bool:
        """Whether the cells are bins that have an order."""
        return isinstance(self.baseline, NumericColumn)

    @cached_property
    def reference(self) -> Integers:
        """Counts of the cells over all blocks."""
        return np.asarray(self.blocks.sum(axis=0))

    @cached_property
    def deviation(self) -> float:
        """Standard deviation of the reference's values; 0 where there are none."""
        return self._numeric.moments()[1] if self.is_numeric and self.reference[:-1].sum() else 0.0

    @property
    def exponent(self) -> int:
        """Values of a numeric column enter sums times 2 to this power."""
        return self._numeric.scale_exponent

    @cached_property
    def sums(self) -> list[int]:
        """Exact sums by bin of a numeric column's reference."""
        return [int(total) for total in self._numeric.sums]

    @cached_property
    def content(self) -> bytes:
        """SHA-256 over what figures depend on."""
        return hashlib.sha256(self.baseline.model_dump_json().encode()).digest()

    def codes(self, values: Array) -> Integers:
        """The cell of each value."""
        if isinstance(self.baseline, CategoricalColumn):
            return self._categories(values)
        found = np.searchsorted(self.edges, values, side="right")
        if values.dtype.kind == "f":
            # NaN sorts after every edge, into the last bin.
            found[np.isnan(values)] = self.cells - 1
        return found

    def scaled(self, values: Array) -> Integers:
        """The integers that enter sums; missing values are 0."""
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), values.dtype.type(0), values)
        return binning.scale(values, self.exponent)

    def _categories(self, values: Array) -> Integers:
        """As `category_counts` compares; text may come as bytes."""
        if values.dtype.kind in "OS":
            values = np.array([each.decode() if isinstance(each, bytes) else str(each) for each in values], np.str_)
        other = self.cells - 2
        codes = np.full(len(values), other, np.int64)
        for number, category in enumerate(self._category_values(values.dtype)):
            codes[values == category] = number
        if values.dtype.kind == "f":
            codes[np.isnan(values)] = self.cells - 1
        return codes

    def _category_values(self, dtype: "np.dtype[Any]") -> tuple[Any, ...]:
        categories = self.baseline.categories if isinstance(self.baseline, CategoricalColumn) else ()
        return tuple(str(category) for category in categories) if dtype.kind == "U" else categories

    @property
    def _numeric(self) -> NumericColumn:
        if not isinstance(self.baseline, NumericColumn):
            raise TypeError(f"{self.name!r} has categories, no edges")
        return self.baseline


@dataclass(frozen=True, eq=False)
class Columns:
    """All columns of one side, and the reference that they come from."""

    side: Side
    reference: Reference
    columns: tuple[Column, ...]

    @cached_property
    def rows(self) -> int:
        """Rows of the reference."""
        return sum(block.rows for block in self.reference.blocks)

    @property
    def span_ns(self) -> int:
        """Event time from the first row of the reference to its last; 0 where the order is unknown."""
        return self.last_ns - self.first_ns

    @property
    def first_ns(self) -> int:
        """Event time of the reference's first row, 0 where unknown."""
        return int(self.reference.blocks[0].first_unix_ns or 0)

    @property
    def last_ns(self) -> int:
        """Event time of the reference's last row, 0 where unknown."""
        return int(self.reference.blocks[-1].last_unix_ns or 0)

    def newest_steps(self, tensors: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        """Each tensor as (rows, columns), the newest step of sequences; DataError where a column is not there.

        Tensors come flattened after the first axis, as the log has them, so `shapes` says what the last axis was.
        """
        found: dict[str, Array] = {}
        for column in self.columns:
            if column.tensor in found:
                continue
            array = tensors.get(column.tensor)
            if array is None:
                raise DataError(f"{self.side} {column.tensor!r} of the baseline is not in the data", field=column.name)
            flat = array.reshape(len(array), -1)
            width = shapes[column.tensor][-1] if len(shapes.get(column.tensor, ())) > 1 else flat.shape[1]
            found[column.tensor] = flat[:, -width:]
        for column in self.columns:
            if column.place >= found[column.tensor].shape[1]:
                raise DataError(
                    f"{self.side} {column.tensor!r} is {found[column.tensor].shape[1]} wide, the baseline has column "
                    f"{column.place} of it",
                    field=column.name,
                )
        return found


def sides_of(baseline: Baseline) -> tuple[Columns, ...]:
    """The inputs, then the outputs where the baseline has them."""
    found: list[Columns] = []
    for side, reference in (("input", baseline.inputs), ("output", baseline.outputs)):
        if reference is not None:
            found.append(_columns("input" if side == "input" else "output", reference))
    return tuple(found)


def _columns(side: Side, reference: Reference) -> Columns:
    columns = tuple(
        Column(side, column.name, column.tensor, column.column, column, np.array(column.counts, np.int64))
        for column in reference.columns
    )
    return Columns(side, reference, columns)
