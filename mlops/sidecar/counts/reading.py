"""What of a version's outputs is counted: cells of its baseline's first output column, and the sign of its signal."""

import time
from collections.abc import Callable

import numpy as np
import structlog
from numpy.typing import NDArray

from mlops.drift.columns import Column, Columns, sides_of
from mlops.package import Package
from mlops.prediction_log.batch import Batch
from mlops.sidecar.counts.pairs import Signals
from tickserve.errors import DataError

_log = structlog.get_logger()
#: A package that was not to be had is looked for again after this.
_RETRY_S = 60.0
#: Versions that are remembered.
_MAX_VERSIONS = 64
_Find = Callable[[str, str, str], Package | None]


class OutputReader:
    """Reads batches of one package."""

    def __init__(self, package: Package) -> None:
        sides = sides_of(package.baseline) if package.baseline is not None else ()
        self._side: Columns | None = next((side for side in sides if side.side == "output" and side.columns), None)
        self._signal = package.manifest.signal

    @property
    def column(self) -> Column | None:
        """The column that is binned; None where the package has no baseline of outputs."""
        return None if self._side is None else self._side.columns[0]

    @property
    def width(self) -> int:
        """Cells of that column."""
        return 0 if self.column is None else self.column.cells

    def cells(self, batch: Batch) -> NDArray[np.int64] | None:
        """The cell of each row of the batch's outputs; None where they are not those of the baseline."""
        side, column = self._side, self.column
        if side is None or column is None:
            return None
        try:
            values = side.newest_steps(batch.outputs, batch.shapes)[column.tensor]
        except DataError as error:
            _log.warning("outputs_not_counted", model=batch.model, version=batch.version, reason=error.message)
            return None
        return column.codes(values[:, column.place]).astype(np.int64)

    def signals(self, batch: Batch, chosen: NDArray[np.bool_]) -> Signals | None:
        """The signals of the chosen records; None where the package defines none, or the log has none of them."""
        output = None if self._signal is None else batch.outputs.get(self._signal.output)
        if self._signal is None or output is None or output.dtype == object:
            return None
        values = output.reshape(len(output), -1).astype(np.float64)
        column = values.max(axis=1) if self._signal.column is None else values[:, self._signal.column]
        signal = self._signal.scale * column + self._signal.offset
        sign = np.where(np.isfinite(signal), np.sign(signal), 0).astype(np.int8)
        first = np.searchsorted(batch.output_records, np.arange(len(batch)), side="left")
        after = np.searchsorted(batch.output_records, np.arange(len(batch)), side="right")
        kept = chosen & (after > first)
        if not kept.any():
            return None
        return Signals(
            batch.version,
            batch.boot[kept],
            batch.request_id[kept],
            batch.time_ns[kept],
            batch.key_bucket[kept],
            first[kept],
            after[kept],
            sign,
        )


class OutputReaders:
    """The readers of versions, by their packages; one that cannot be had is looked for again."""

    def __init__(self, find: _Find, clock: Callable[[], float] = time.monotonic) -> None:
        self._find, self._clock = find, clock
        self._found: dict[tuple[str, str, str], OutputReader] = {}
        self._missing: dict[tuple[str, str, str], float] = {}

    def __call__(self, model: str, version: str, digest: str) -> OutputReader | None:
        """The reader of a version; None where its package cannot be had now."""
        key = model, version, digest
        if key in self._found:
            return self._found[key]
        if self._clock() - self._missing.get(key, -_RETRY_S) < _RETRY_S:
            return None
        package = self._find(*key)
        if package is None:
            self._missing[key] = self._clock()
            return None
        self._missing.pop(key, None)
        self._found[key] = OutputReader(package)
        while len(self._found) > _MAX_VERSIONS:
            self._found.pop(next(iter(self._found)))
        return self._found[key]
