"""Taking a baseline from reference rows: every column of every tensor, counted on bins block by block."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from mlops.package import binning
from mlops.package.baseline import Baseline, Block, CategoricalColumn, NumericColumn, Reference
from mlops.package.datatypes import Array, Counts, datatype_of
from mlops.package.manifest import MAX_INTEGER, TensorSpec
from mlops.package.reference import ReferenceRows, Rows
from tickserve.errors import DataError


def make_baseline(
    manifest_inputs: tuple[TensorSpec, ...],
    manifest_outputs: tuple[TensorSpec, ...],
    inputs: ReferenceRows,
    outputs: ReferenceRows | None,
    *,
    feature_names: tuple[str, ...] = (),
    categorical: Collection[str] = (),
) -> Baseline:
    """Bins reference rows.

    Parameters
    ----------
    manifest_inputs, manifest_outputs : tuple of TensorSpec
        The schema that the rows must have.
    inputs : ReferenceRows
        Input rows of the training period.
    outputs : ReferenceRows or None
        The model's outputs on rows that it was not trained on.
    feature_names : tuple of str
        Names of the input's columns; otherwise a column is named TENSOR[COLUMN].
    categorical : collection of str
        Columns of whole numbers to count by value. Text, booleans, and integers with at most 64 distinct values are so
        anyway.

    Raises
    ------
    DataError
        Where rows do not fit the schema, are infinite, or a column has no value at all.
    """
    named = _bin_rows(manifest_inputs, inputs, feature_names, categorical)
    unnamed = _bin_rows(manifest_outputs, outputs, (), categorical) if outputs else None
    found = {column.name for side in (named, unnamed) if side for column in side.columns}
    if unknown := set(categorical) - found:
        raise DataError(f"categorical names unknown columns: {', '.join(sorted(unknown))}", field="categorical")
    return Baseline(inputs=named, outputs=unnamed)


def tensor_columns(array: Array) -> Iterator[Array]:
    """The columns of a tensor, one value a row: its last axis, at the last place of every axis between.

    For a sequence of steps that is the newest step, so that overlapping sequences count no value twice.
    """
    if array.ndim == 1:
        yield array
        return
    newest = array.reshape(len(array), -1, array.shape[-1])[:, -1, :]
    for column in range(array.shape[-1]):
        yield newest[:, column]


def _bin_rows(
    specs: tuple[TensorSpec, ...], rows: ReferenceRows, feature_names: tuple[str, ...], categorical: Collection[str]
) -> Reference:
    if set(rows.tensors) != {spec.name for spec in specs}:
        raise DataError(
            f"data set {rows.dataset!r} has tensors {sorted(rows.tensors)}, "
            f"the model {sorted(spec.name for spec in specs)}",
            field=rows.dataset,
        )
    if feature_names and (len(specs) != 1 or rows.tensors[specs[0].name].shape[-1] != len(feature_names)):
        raise DataError(
            f"{len(feature_names)} feature_names do not name the columns of one input "
            f"{[list(rows.tensors[spec.name].shape) for spec in specs]}",
            field="feature_names",
        )
    blocks = rows.in_time_order()
    columns: list[NumericColumn | CategoricalColumn] = []
    for spec in specs:
        array = rows.tensors[spec.name]
        _check_tensor(rows.dataset, spec, array)
        for number, values in enumerate(tensor_columns(array)):
            unnamed = f"{spec.name}[{number}]" if array.ndim > 1 else spec.name
            place = _Place(feature_names[number] if feature_names else unnamed, spec, number)
            columns.append(_bin_column(place, values, blocks, categorical))
    return Reference(
        dataset=rows.dataset,
        order="unknown" if rows.times is None else "time",
        blocks=tuple(_block(rows, block) for block in blocks),
        columns=tuple(columns),
    )


class _Place(NamedTuple):
    name: str
    spec: TensorSpec
    column: int

    def entries(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "tensor": self.spec.name,
            "column": self.column,
            "datatype": self.spec.datatype,
        }


def _check_tensor(dataset: str, spec: TensorSpec, array: Array) -> None:
    if not spec.shape:
        raise DataError(f"tensor {spec.name!r} has no axis for rows, so it has no baseline", field=spec.name)
    fits = len(array.shape) == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits or datatype_of(array.dtype) != spec.datatype or array.size == 0:
        raise DataError(
            f"data set {dataset!r}: {spec.name!r} is {array.dtype} of shape {list(array.shape)}, "
            f"the model's is {spec.datatype} of shape {list(spec.shape)}",
            field=spec.name,
        )


def _bin_column(
    place: _Place, values: Array, blocks: list[Rows], categorical: Collection[str]
) -> NumericColumn | CategoricalColumn:
    if values.dtype.kind == "f":
        if np.isinf(values).any():
            row = int(np.flatnonzero(np.isinf(values))[0])
            raise DataError(f"column {place.name!r} is infinite in row {row}; leave such rows out", field=place.name)
        if np.isnan(values).all():
            raise DataError(f"column {place.name!r} has no value in any row", field=place.name)
    if _is_categorical(place, values, categorical):
        categories = binning.common_categories(values)
        return CategoricalColumn(
            **place.entries(),
            categories=tuple(str(c) if categories.dtype.kind == "U" else int(c) for c in categories),
            counts=_by_block(blocks, lambda block: binning.category_counts(values[block], categories)),
        )
    edges = binning.quantile_edges(values)
    exponent = binning.scale_exponent(values)
    return NumericColumn(
        **place.entries(),
        edges=tuple(float(edge) for edge in edges),
        counts=_by_block(blocks, lambda block: binning.bin_counts(values[block], edges)),
        scale_exponent=exponent,
        sums=tuple(str(total) for total in binning.bin_sums(values, edges, exponent)),
        sum_squares=str(binning.square_sum(values, exponent)),
    )


def _is_categorical(place: _Place, values: Array, categorical: Collection[str]) -> bool:
    if values.dtype.kind in "Ub":
        return True
    whole = values[~np.isnan(values)].astype(np.float64)
    is_whole = bool((whole == np.rint(whole)).all() and (np.abs(whole) <= MAX_INTEGER).all())
    if place.name in categorical:
        if not is_whole:
            raise DataError(f"column {place.name!r} is categorical, but holds fractions", field=place.name)
        return True
    return values.dtype.kind != "f" and is_whole and len(np.unique(whole)) <= binning.MAX_CATEGORIES


def _by_block(blocks: list[Rows], count: Callable[[Rows], Counts]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(count(block).tolist()) for block in blocks)


def _block(rows: ReferenceRows, block: Rows) -> Block:
    if rows.times is None:
        return Block(rows=len(block))
    times = rows.times[block]
    return Block(rows=len(block), first_unix_ns=str(times[0]), last_unix_ns=str(times[-1]))
