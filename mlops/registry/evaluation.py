"""Per-row evaluations: what a version said for each row, what came of it, what trading on it would have returned."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package.npz import read_arrays, write_arrays
from tickserve.errors import RegistryArgumentError

#: The kind of attachment that evaluations are stored as.
KIND = "evaluation"
_COLUMNS = ("time", "prediction", "outcome", "return")

#: Arrays of one length by column: `time` (int64, Unix nanoseconds, ascending), `prediction`, `outcome`, `return`.
Table = Mapping[str, NDArray[Any]]


def write_table(table: Table) -> bytes:
    """The bytes that a table is stored as; equal tables give equal bytes.

    Parameters
    ----------
    table : Mapping[str, ndarray]
        `time` (datetime64 in UTC, or int64 in Unix nanoseconds) and `prediction`; `outcome` and `return` where known.

    Raises
    ------
    RegistryArgumentError
        Where a column is missing, unknown, no number, of another length, or times do not ascend.
    """
    unknown = table.keys() - set(_COLUMNS)
    if unknown or not {"time", "prediction"} <= table.keys():
        raise RegistryArgumentError(
            f"an evaluation has the columns {', '.join(sorted(table))}; time and prediction are needed, outcome and "
            "return may follow",
            field="evaluation",
        )
    columns = {name: np.asarray(table[name]) for name in _COLUMNS if name in table}
    time = columns["time"]
    if time.dtype.kind not in "Mi":
        raise RegistryArgumentError(f"time is {time.dtype}; datetime64 or int64 nanoseconds are expected", field="time")
    if time.dtype.kind == "M" and np.isnat(time).any():
        raise RegistryArgumentError("a row of the evaluation has no time (NaT)", field="time")
    columns["time"] = time = (time.astype("datetime64[ns]") if time.dtype.kind == "M" else time).astype(np.int64)
    for name, column in columns.items():
        if column.ndim != 1 or len(column) != len(time) or column.dtype.kind not in "iufb":
            raise RegistryArgumentError(
                f"{name} is {column.dtype} of shape {list(column.shape)}; one number for each of the {len(time)} "
                "rows is expected",
                field=name,
            )
    if len(time) == 0 or (np.diff(time) < 0).any():
        raise RegistryArgumentError("an evaluation needs rows, in ascending order of time", field="time")
    floats = {name: column.astype(np.float64) for name, column in columns.items() if name != "time"}
    return write_arrays({"time": columns["time"]} | floats)


def read_table(data: bytes, what: str) -> dict[str, NDArray[Any]]:
    """The table that `write_table` wrote."""
    return read_arrays(data, what)
