"""Rows to try a package on: its golden ones, and ones at the edges of what it says may come in."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from mlops.package import CategoricalColumn, Manifest, NumericColumn, Package
from mlops.package.datatypes import Array
from mlops.package.runtime import Run

Tensors = dict[str, Array]
_REFUSING = ("reject", "clip")


def takes_any_rows(manifest: Manifest) -> bool:
    """Whether every tensor has a first axis of any size: rows can be asked for one by one and together."""
    return all(spec.shape[:1] == (-1,) for spec in (*manifest.inputs, *manifest.outputs))


def take(tensors: Mapping[str, Array], chosen: slice | Array) -> Tensors:
    """Some rows of each tensor."""
    return {name: np.ascontiguousarray(array[chosen]) for name, array in tensors.items()}


def run_one_by_one(run: Run, tensors: Mapping[str, Array]) -> Tensors:
    """The outputs of each row asked for alone, together again."""
    answers = [run(take(tensors, slice(place, place + 1))) for place in range(len(next(iter(tensors.values()))))]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def edge_rows(package: Package) -> Tensors | None:
    """The first golden row with one column at a time at an edge, then with all columns at their lower and upper ones.

    Edges are the least and greatest value of the reference, the bounds of the input rules, every category, and NaN
    where the package takes it. A value that the server would refuse or clip is moved to the bound. None where rows have
    no first axis to put them on.
    """
    golden, baseline = package.golden, package.baseline
    if golden is None or baseline is None or not takes_any_rows(package.manifest):
        return None
    base = take(golden.inputs, slice(0, 1))
    rows: list[Tensors] = []
    lowest = highest = base
    for column in baseline.inputs.columns:
        values = list(_edges(package.manifest, column))
        rows += [_with(base, column, value) for value in values]
        numbers = [value for value in values if not isinstance(value, str) and not math.isnan(value)]
        if numbers:
            lowest, highest = _with(lowest, column, min(numbers)), _with(highest, column, max(numbers))
    rows += [lowest, highest]
    return {name: np.concatenate([row[name] for row in rows]) for name in base}


def _edges(manifest: Manifest, column: NumericColumn | CategoricalColumn) -> Iterator[float | int | str]:
    if isinstance(column, CategoricalColumn):
        yield from column.categories
        return
    bounds = manifest.input_rules.bounds.get(column.name)
    low = bounds.minimum if bounds is not None else None
    high = bounds.maximum if bounds is not None else None
    # The last edge is the next value above the greatest one.
    found = [*column.edges[:1], *column.edges[-2:-1], *(bound for bound in (low, high) if bound is not None)]
    if bounds is not None and bounds.policy in _REFUSING:
        least, most = (-math.inf if low is None else low), (math.inf if high is None else high)
        found = [min(max(value, least), most) for value in found]
    yield from sorted(set(found))
    if not manifest.input_rules.finite and column.datatype in ("FP16", "FP32", "FP64"):
        yield float("nan")


def _with(row: Tensors, column: NumericColumn | CategoricalColumn, value: float | int | str) -> Tensors:
    """The row with one column at this value, at every step of a sequence."""
    array = row[column.tensor]
    # Text has the width of the longest value so far, and would be cut.
    changed = array.astype(np.result_type(array, np.array(value))) if isinstance(value, str) else array.copy()
    if changed.ndim > 1:
        changed[..., column.column] = value
    else:
        changed[...] = value
    return row | {column.tensor: changed}
