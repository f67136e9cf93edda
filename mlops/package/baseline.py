"""The baseline of a package: how inputs and outputs were distributed in reference data, on frozen bins.

Counts are kept for each contiguous time-ordered block, because totals alone say nothing about how far counts stray from
window to window in autocorrelated data. Written as baseline.json; see docs/formats/package.md.
"""

from typing import Annotated, Literal, get_args

import numpy as np
import rfc8785
from pydantic import Field, ValidationError, model_validator

from mlops.package import binning
from mlops.package.datatypes import Array, Counts, numpy_dtype
from mlops.package.manifest import (
    BASELINE_FILE,
    Count,
    Datatype,
    Frozen,
    Manifest,
    Name,
    explain,
)
from tickserve.errors import PackageError

_NUMBERS = frozenset(get_args(Datatype)) - {"BYTES", "BOOL"}
#: An integer of up to 128 bits.
Integer = Annotated[str, Field(pattern=r"^-?(0|[1-9][0-9]{0,38})$")]


class Block(Frozen):
    """A contiguous run of rows; the event times of its first and last row in Unix nanoseconds, where known."""

    rows: Annotated[int, Field(ge=1)]
    first_unix_ns: Integer | None = None
    last_unix_ns: Integer | None = None


class _Column(Frozen):
    name: Name
    tensor: Name
    column: Count
    datatype: Datatype
    counts: tuple[tuple[Count, ...], ...]

    def total(self) -> Counts:
        """Counts over all blocks, int64."""
        return np.asarray(np.sum(self.counts, axis=0, dtype=np.int64))


class NumericColumn(_Column):
    """A column on bins between edges.

    For m edges each block has m + 2 counts: the bins, then missing. `sums` are of q in each bin over all blocks, and
    `sum_squares` is of q^2; q and the bins are those of `mlops.package.binning`.
    """

    kind: Literal["numeric"] = "numeric"
    edges: tuple[float, ...]
    scale_exponent: Annotated[int, Field(ge=-1100, le=1200)]
    sums: tuple[Integer, ...]
    sum_squares: Integer

    @model_validator(mode="after")
    def _fits(self) -> "NumericColumn":
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges of {self.name!r} do not increase")
        if self.datatype not in _NUMBERS or self.edge_array().tolist() != list(self.edges):
            raise ValueError(f"edges of {self.name!r} are no {self.datatype} values")
        if len(self.sums) != len(self.edges) + 1 or any(len(block) != len(self.edges) + 2 for block in self.counts):
            raise ValueError(
                f"{self.name!r} needs {len(self.edges) + 1} sums, and {len(self.edges) + 2} counts a block"
            )
        return self

    def edge_array(self) -> Array:
        """The edges in the tensor's dtype, for `bin_counts`."""
        return np.array(self.edges).astype(numpy_dtype(self.datatype))

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the reference."""
        sums = [int(value) for value in self.sums]
        return binning.moments(self.total(), sums, int(self.sum_squares), self.scale_exponent)


class CategoricalColumn(_Column):
    """A column of k categories: each block has k + 2 counts, the categories, then other, then missing."""

    kind: Literal["categorical"] = "categorical"
    categories: tuple[int | str, ...]

    @model_validator(mode="after")
    def _fits(self) -> "CategoricalColumn":
        if len(set(self.categories)) != len(self.categories):
            raise ValueError(f"a category of {self.name!r} appears twice")
        if any(len(block) != len(self.categories) + 2 for block in self.counts):
            raise ValueError(f"{self.name!r} needs {len(self.categories) + 2} counts a block")
        return self


class Reference(Frozen):
    """All columns of the inputs, or of the outputs, over the blocks of one data set."""

    dataset: Name
    order: Literal["time", "unknown"]
    blocks: Annotated[tuple[Block, ...], Field(min_length=1)]
    columns: tuple[Annotated[NumericColumn | CategoricalColumn, Field(discriminator="kind")], ...]

    @model_validator(mode="after")
    def _fits(self) -> "Reference":
        rows = [block.rows for block in self.blocks]
        for column in self.columns:
            if [sum(counts) for counts in column.counts] != rows:
                raise ValueError(f"counts of {column.name!r} do not add up to the rows of the blocks")
        if self.order == "time" and any(
            block.first_unix_ns is None or block.last_unix_ns is None for block in self.blocks
        ):
            raise ValueError("blocks in time order need their first and last time")
        return self


class Baseline(Frozen):
    """The whole file; outputs are absent where no out-of-sample rows were given."""

    format: Literal[1] = 1
    inputs: Reference
    outputs: Reference | None = None


def write_baseline(baseline: Baseline) -> bytes:
    """The bytes of baseline.json, canonical."""
    return rfc8785.dumps(baseline.model_dump(mode="json"))


def read_baseline(data: bytes) -> Baseline:
    """Reads baseline.json; PackageError where it is malformed or contradicts itself."""
    try:
        return Baseline.model_validate_json(data)
    except ValidationError as error:
        raise explain(error, BASELINE_FILE) from None


def check_baseline(baseline: Baseline, manifest: Manifest) -> None:
    """Raises PackageError where the baseline is not of the manifest's tensors and data sets."""
    for place, reference, dataset, specs in (
        ("inputs", baseline.inputs, manifest.baseline_inputs, manifest.inputs),
        ("outputs", baseline.outputs, manifest.baseline_outputs, manifest.outputs),
    ):
        if (reference.dataset if reference else "") != dataset:
            raise PackageError(f"{BASELINE_FILE}: {place} are not of data set {dataset!r}", field=place)
        datatypes = {spec.name: spec.datatype for spec in specs}
        for column in reference.columns if reference else ():
            if datatypes.get(column.tensor) != column.datatype:
                raise PackageError(
                    f"{BASELINE_FILE}: {place} have {column.datatype} column {column.name!r} of tensor "
                    f"{column.tensor!r}, which the schema has not",
                    field=place,
                )
