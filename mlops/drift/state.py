"""What a monitor knows, written down and read back: JSON and arrays in one .npz file, nothing pickled."""

import json
from typing import Any

import numpy as np

from mlops.drift.columns import Array, Columns, Integers
from mlops.drift.counts import ColumnCounts, SideCounts, WindowCounts
from mlops.drift.monitor import DriftMonitor, Progress
from mlops.drift.result import Swap
from mlops.package.npz import read_arrays, write_arrays
from tickserve.errors import DataError, PackageError

_FORMAT = 2
_WHAT = "state of a drift monitor"


def save(monitor: DriftMonitor) -> bytes:
    """Everything that the monitor's next results depend on, but for package and specification."""
    known = monitor.progress
    arrays: dict[str, Array] = {}
    windows = []
    for number, (is_open, window) in enumerate(
        [(False, each) for each in known.closed] + [(True, each) for each in known.open]
    ):
        windows.append(
            {
                "open": is_open,
                "start_ns": window.start_ns,
                "end_ns": window.end_ns,
                "first_position": window.first_position,
                "last_position": window.last_position,
                "records": window.records,
                "rows": window.rows,
                "missed": [window.missed_before, window.missed_last],
            }
        )
        arrays |= {f"{number}.first": window.first, f"{number}.last": window.last}
        for side, counts in enumerate(window.sides):
            if counts.columns:
                arrays[f"{number}.{side}.cells"] = np.concatenate([each.cells for each in counts.columns], axis=1)
                arrays[f"{number}.{side}.high"] = np.concatenate([each.high for each in counts.columns])
                arrays[f"{number}.{side}.low"] = np.concatenate([each.low for each in counts.columns])
    header = {
        "format": _FORMAT,
        "digest": monitor.digest,
        "spec": monitor.spec.as_dict(),
        "version": known.version,
        "last_position": known.last_position,
        "watermark_ns": known.watermark_ns,
        "late": known.late,
        "outside": known.outside,
        "tie_ns": known.tie_ns,
        "tie_sub_block": known.tie_sub_block,
        "generation": known.generation,
        "missed": known.missed,
        "swaps": [[swap.generation, swap.time_ns, swap.position] for swap in known.swaps],
        "windows": windows,
    }
    arrays["header"] = np.array([json.dumps(header)])
    return write_arrays(arrays)


def restore(monitor: DriftMonitor, state: bytes) -> None:
    """Puts a new monitor where the saved one was.

    Raises
    ------
    DataError
        Where the state is damaged, or of another package or specification: the counts would not be comparable. The
        monitor is as it was.
    """
    try:
        arrays = read_arrays(state, _WHAT)
        header: dict[str, Any] = json.loads(str(arrays["header"][0]))
        if header["format"] != _FORMAT or header["digest"] != monitor.digest:
            raise DataError(f"{_WHAT}: of another format or package", field="digest")
        if header["spec"] != json.loads(json.dumps(monitor.spec.as_dict())):
            raise DataError(f"{_WHAT}: of another specification", field="spec")
        windows = [
            (entry["open"], _window(monitor, number, entry, arrays)) for number, entry in enumerate(header["windows"])
        ]
        known = Progress(
            version=header["version"],
            last_position=header["last_position"],
            watermark_ns=header["watermark_ns"],
            late=header["late"],
            outside=header["outside"],
            tie_ns=header["tie_ns"],
            tie_sub_block=header["tie_sub_block"],
            generation=header["generation"],
            swaps=[Swap(*each) for each in header["swaps"]],
            open=[window for is_open, window in windows if is_open],
            closed=[window for is_open, window in windows if not is_open],
            missed=header["missed"],
        )
    except (PackageError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{_WHAT}: damaged ({type(error).__name__}: {error})", field="state") from None
    monitor.progress = known


def _window(monitor: DriftMonitor, number: int, entry: dict[str, Any], arrays: dict[str, Array]) -> WindowCounts:
    blocks = monitor.spec.sub_blocks
    sides = [
        _side(columns, f"{number}.{side}", arrays, blocks) if columns.columns else SideCounts([])
        for side, columns in enumerate(monitor.sides)
    ]
    return WindowCounts(
        entry["start_ns"],
        entry["end_ns"],
        sides,
        _shaped(arrays[f"{number}.first"], (blocks,)),
        _shaped(arrays[f"{number}.last"], (blocks,)),
        entry["first_position"],
        entry["last_position"],
        entry["records"],
        entry["rows"],
        *map(int, entry["missed"]),
    )


def _side(columns: Columns, prefix: str, arrays: dict[str, Array], blocks: int) -> SideCounts:
    cells = [column.cells for column in columns.columns]
    bins = [column.cells - 1 if column.is_numeric else 0 for column in columns.columns]
    all_cells = np.split(_shaped(arrays[f"{prefix}.cells"], (blocks, sum(cells))), np.cumsum(cells)[:-1], axis=1)
    high, low = (
        np.split(_shaped(arrays[f"{prefix}.{half}"], (sum(bins),)), np.cumsum(bins)[:-1]) for half in ("high", "low")
    )
    return SideCounts(
        [ColumnCounts(*(part.copy() for part in parts)) for parts in zip(all_cells, high, low, strict=True)]
    )


def _shaped(array: Array, shape: tuple[int, ...]) -> Integers:
    if array.dtype != np.int64 or array.shape != shape:
        raise ValueError(f"an array is {array.dtype} {array.shape}, expected int64 {shape}")
    return np.asarray(array)
