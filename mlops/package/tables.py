"""Reference rows from a file: CSV with a header, Parquet, or .npz, one column a feature, perhaps one of times."""

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from mlops.package.datatypes import Array, Counts, numpy_dtype
from mlops.package.export import require
from mlops.package.manifest import TensorSpec
from mlops.package.npz import read_arrays
from mlops.package.reference import ReferenceRows
from tickserve.errors import DataError, PackageError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MISSING = frozenset({"", "nan", "na", "null", "none"})
#: Prefix of whole tensors in an .npz file, as in golden.npz.
_TENSOR = "input:"


@dataclass(frozen=True, eq=False)
class Table:
    """A file's columns in order, or whole tensors by name; `times` in Unix nanoseconds where a column was named."""

    path: Path
    columns: Mapping[str, Array]
    tensors: Mapping[str, Array]
    times: Counts | None

    def rows(self, dataset: str, inputs: tuple[TensorSpec, ...], feature_names: Sequence[str]) -> ReferenceRows:
        """The rows as tensors of this schema: columns go into its one input in the order of `feature_names`.

        Raises
        ------
        DataError
            Where a feature has no column, a column no feature, or columns cannot make up the inputs.
        """
        if self.tensors:
            return ReferenceRows(dataset, self.tensors, self.times)
        if len(inputs) != 1 or len(inputs[0].shape) != 2 or inputs[0].datatype == "BYTES":
            raise DataError(
                f"{self.path} has columns, but the model's inputs are no single table of numbers; "
                f"give an .npz file with {', '.join(_TENSOR + spec.name for spec in inputs)}",
                field=str(self.path),
            )
        datatype = numpy_dtype(inputs[0].datatype)
        return ReferenceRows(dataset, {inputs[0].name: self.matrix(feature_names, datatype)}, self.times)

    def matrix(self, feature_names: Sequence[str], dtype: np.dtype[Any]) -> Array:
        """The columns side by side in this order; DataError where one is missing or is no feature."""
        missing = [name for name in feature_names if name not in self.columns]
        extra = [name for name in self.columns if name not in feature_names]
        if missing or extra:
            raise DataError(
                f"{self.path}: columns missing: {', '.join(missing) or 'none'}; columns that are no feature: "
                f"{', '.join(extra) or 'none'} (--time-column names the one that holds times)",
                field=str(self.path),
            )
        return np.column_stack([self.columns[name] for name in feature_names]).astype(dtype)


def read_table(path: Path, time_column: str | None = None, *, text_columns: Collection[str] = ()) -> Table:
    """Reads a .csv, .parquet or .npz file.

    Parameters
    ----------
    path : Path
        An .npz file holds one array a column, or whole tensors as `input:NAME`.
    time_column : str, optional
        The column of event times: ISO 8601 (UTC where there is no offset) or Unix nanoseconds.
    text_columns : collection of str
        Columns that stay text: categories of a BYTES tensor.

    Raises
    ------
    DataError
        Where the file cannot be read, or a value is neither number nor missing.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}
    reader = readers.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: {' or '.join(readers)} is expected", field=str(path))
    try:
        columns = reader(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", field=str(path)) from None
    times = None
    if time_column is not None:
        if time_column not in columns:
            raise DataError(f"{path} has no column {time_column!r}, only {', '.join(columns)}", field=time_column)
        times = _times(columns.pop(time_column), f"{path}, column {time_column!r}")
    tensors = {name.removeprefix(_TENSOR): array for name, array in columns.items() if name.startswith(_TENSOR)}
    if tensors and len(tensors) != len(columns):
        raise DataError(f"{path} mixes columns with {_TENSOR} tensors", field=str(path))
    if tensors:
        return Table(path, {}, tensors, times)
    found = {
        name: array if name in text_columns else _numbers(array, f"{path}, column {name!r}")
        for name, array in columns.items()
    }
    return Table(path, found, {}, times)


def _read_csv(path: Path) -> dict[str, Array]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            lines = list(csv.reader(file, strict=True))
        except (ValueError, csv.Error) as error:
            raise DataError(f"{path} is no CSV file with a header: {error}", field=str(path)) from None
    if not lines:
        raise DataError(f"{path} is empty; a header with the names of columns is expected", field=str(path))
    header, *lines = lines
    if len(set(header)) != len(header) or "" in header:
        raise DataError(f"{path}: every column needs a name of its own, have {', '.join(header)}", field=str(path))
    lines = [line for line in lines if line]
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise DataError(f"{path}, row {number}: {len(line)} values under {len(header)} names", field=str(path))
    return {name: np.array([line[column] for line in lines], np.str_) for column, name in enumerate(header)}


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        columns = read_arrays(path.read_bytes(), str(path))
    except PackageError as error:
        raise DataError(error.message, field=str(path)) from None
    flat = {name: array.shape for name, array in columns.items() if not name.startswith(_TENSOR)}
    if len(set(flat.values())) > 1 or any(len(shape) != 1 for shape in flat.values()):
        raise DataError(f"{path}: columns must be one-dimensional and equally long, have {flat}", field=str(path))
    return columns


def _read_parquet(path: Path) -> dict[str, Array]:
    require("pyarrow", "parquet")
    try:
        frame = require("pandas", "train").read_parquet(path)
    except ValueError as error:
        raise DataError(f"{path} is no Parquet file: {str(error).partition(chr(10))[0]}", field=str(path)) from None
    return {str(name): _from_pandas(frame[name]) for name in frame.columns}


def _from_pandas(column: Any) -> Array:
    if column.dtype.kind == "M":
        utc = column if column.dt.tz is None else column.dt.tz_convert("UTC").dt.tz_localize(None)
        return np.asarray(utc.to_numpy(dtype="datetime64[ns]")).astype(np.int64)
    values: Array = column.to_numpy()
    return values.astype(np.str_) if values.dtype.kind == "O" else values


def _numbers(array: Array, place: str) -> Array:
    if array.dtype.kind != "U":
        return array
    return np.array([_number(text, f"{place}, row {row}") for row, text in enumerate(array.tolist(), start=1)])


def _number(text: str, place: str) -> float:
    try:
        return float("nan") if text.strip().lower() in _MISSING else float(text)
    except ValueError:
        raise DataError(
            f"{place}: {text!r} is no number; a column of times is named with --time-column", field=place
        ) from None


def _times(array: Array, place: str) -> Counts:
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    if array.dtype.kind != "U":
        raise DataError(f"{place} holds {array.dtype}; ISO 8601 or Unix nanoseconds as integers are expected")
    return np.array(
        [_unix_ns(text, f"{place}, row {row}") for row, text in enumerate(array.tolist(), start=1)], np.int64
    )


def _unix_ns(text: str, place: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise DataError(f"{place}: {text!r} is neither ISO 8601 nor Unix nanoseconds", field=place) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
