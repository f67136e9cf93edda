"""Reference rows: the data that a model's baseline is taken from, with the time of each row where that is known."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlops.package.datatypes import Array, Counts
from mlops.package.manifest import DatasetInfo
from tickserve.errors import DataError

#: Row numbers.
Rows = np.ndarray[Any, np.dtype[np.intp]]

#: Fewest time-ordered blocks from which a null level can be estimated.
BLOCKS = 50


@dataclass(frozen=True, eq=False)
class ReferenceRows:
    """Rows of one data set.

    Parameters
    ----------
    dataset : str
        Its name in the manifest, such as `train`.
    tensors : Mapping[str, ndarray]
        By tensor name, in the tensor's datatype, rows along the first axis.
    times : ndarray or None
        Event time of each row: datetime64 (UTC), or int64 in Unix nanoseconds. None where rows have no known order;
        drift cannot be decided then.

    Raises
    ------
    DataError
        Where there are no rows, tensors differ in their number, or times are missing or of another kind.
    """

    dataset: str
    tensors: Mapping[str, Array]
    times: Array | None = None

    def __post_init__(self) -> None:
        sizes = {name: array.shape[0] if array.ndim else 0 for name, array in self.tensors.items()}
        if len(set(sizes.values())) != 1 or not all(sizes.values()):
            raise DataError(
                f"data set {self.dataset!r}: every tensor needs the same number of rows, at least one, have {sizes}",
                field=self.dataset,
            )
        if self.times is not None:
            object.__setattr__(self, "times", self._unix_ns(np.asarray(self.times)))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.tensors.values())))

    def _unix_ns(self, times: Array) -> Counts:
        if times.dtype.kind not in "Mi" or times.shape != (self.rows,):
            raise DataError(
                f"data set {self.dataset!r}: times are {times.dtype} of shape {list(times.shape)}; one datetime64 "
                f"(UTC) or int64 (Unix nanoseconds) for each of the {self.rows} rows is expected",
                field=self.dataset,
            )
        if times.dtype.kind == "M":
            if np.isnat(times).any():
                raise DataError(f"data set {self.dataset!r}: a row has no time (NaT)", field=self.dataset)
            times = times.astype("datetime64[ns]")
        return times.astype(np.int64)

    def in_time_order(self) -> list[Rows]:
        """Row numbers of 50 contiguous blocks in time order, or one block of all rows where times are unknown.

        Blocks hold equally many distinct times, so that rows of one time are never parted.

        Raises
        ------
        DataError
            Where there are fewer than 50 distinct times.
        """
        if self.times is None:
            return [np.arange(self.rows)]
        order = np.argsort(self.times, kind="stable")
        ordered = self.times[order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        if len(starts) < BLOCKS:
            raise DataError(
                f"data set {self.dataset!r} has {len(starts)} distinct times, a time-ordered baseline needs {BLOCKS}; "
                "give more rows, or leave the times out and the order is unknown",
                field=self.dataset,
            )
        bounds = starts[np.arange(1, BLOCKS) * len(starts) // BLOCKS]
        return np.split(order, bounds)

    def describe(self) -> DatasetInfo:
        """The manifest's entry for these rows: fingerprint, number, first and last time."""
        if self.times is None:
            return DatasetInfo(fingerprint=self.fingerprint(), rows=self.rows, order="unknown")
        first, last = int(self.times.min()), int(self.times.max())
        return DatasetInfo(
            fingerprint=self.fingerprint(), rows=self.rows, order="time", first=iso(first), last=iso(last)
        )

    def fingerprint(self) -> str:
        """SHA-256, in hex, over names, datatypes, shapes and values of the tensors (by name), then the times."""
        digest = hashlib.sha256()
        arrays = {f"tensor:{name}": array for name, array in sorted(self.tensors.items())}
        if self.times is not None:
            arrays["times"] = self.times
        for name, array in arrays.items():
            little = array.astype(array.dtype.newbyteorder("<"), order="C")
            digest.update(f"{name}\0{little.dtype.str}\0{list(little.shape)}\0".encode())
            digest.update(little.tobytes())
        return digest.hexdigest()


def iso(unix_ns: int) -> str:
    """A time as ISO 8601 in UTC, a date alone where it is midnight."""
    moment = np.datetime64(unix_ns, "ns")
    day = moment.astype("datetime64[D]")
    return str(day) if day == moment else f"{np.datetime_as_string(moment, unit='auto')}Z"
