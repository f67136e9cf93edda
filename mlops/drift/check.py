"""A whole data set against a package: the same counting and judging as the live windows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.drift.columns import Array, Integers
from mlops.drift.defaults import default_spec
from mlops.drift.monitor import DriftMonitor
from mlops.drift.result import WindowResult
from mlops.drift.spec import MIN_SUB_BLOCKS, DriftSpec
from mlops.package import Baseline, Manifest, Package, TensorSpec
from mlops.package.datatypes import numpy_dtype
from mlops.tap import Why
from tickserve.errors import DataError, PackageError


@dataclass(frozen=True, eq=False)
class DataRows:
    """Rows that came from no log, one record each, as a monitor takes them."""

    digest: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    event_time_ns: Integers
    shapes: Mapping[str, tuple[int, ...]]
    version: str = ""
    position: Integers = field(init=False)
    time_ns: Integers = field(init=False)
    why: NDArray[np.uint8] = field(init=False)
    plan_generation: NDArray[np.uint64] = field(init=False)
    missed: Integers = field(init=False)
    input_records: Integers = field(init=False)
    output_records: Integers = field(init=False)

    def __post_init__(self) -> None:
        rows = len(self.event_time_ns)
        numbers = np.arange(rows, dtype=np.int64)
        for name, array in (
            ("position", numbers),
            ("time_ns", np.zeros(rows, np.int64)),
            ("why", np.full(rows, Why.SPLIT, np.uint8)),
            ("plan_generation", np.zeros(rows, np.uint64)),
            ("missed", np.zeros(rows, np.int64)),
            ("input_records", numbers if self.inputs else numbers[:0]),
            ("output_records", numbers if self.outputs else numbers[:0]),
        ):
            object.__setattr__(self, name, array)


def check(
    data: Any, package: Package, *, time_column: str | None = None, spec: DriftSpec | None = None
) -> list[WindowResult]:
    """Compares rows with the baseline of a package.

    Parameters
    ----------
    data : pandas.DataFrame, or mapping of str to array
        A column for each feature, by name, in any order. Columns named as outputs of the baseline, such as
        `probabilities[1]`, are compared with it too. Other columns are refused.
    package : Package
        As `mlops.package.read_package` gives it.
    time_column : str, optional
        The column of event times: datetime64 (UTC where it names no zone) or Unix nanoseconds. Without it a
        DataFrame's DatetimeIndex is taken, and without that the rows are in time order as they come.
    spec : DriftSpec, optional
        Windows and thresholds; one window of all rows where not given.

    Returns
    -------
    list of WindowResult
        One for each window; the last may be incomplete.

    Raises
    ------
    DataError
        Where a feature has no column, a column is neither feature nor output, or holds what is no number.
    PackageError
        Where the package has no baseline.

    Examples
    --------
    >>> results = check(frame, read_package(Path("models/sp500-forest/1")))  # doctest: +SKIP
    >>> [decision.column for decision in results[0].decisions if decision.state == "critical"]  # doctest: +SKIP
    ['return_63d']
    """
    if time_column and time_column not in data:
        raise DataError(f"there is no column {time_column!r} of times", field=time_column)
    times = _times(data[time_column] if time_column else getattr(data, "index", None), time_column or "index")
    columns = {str(name): np.asarray(data[name]) for name in data if name != time_column}
    return check_columns(columns, times, package, spec)


def check_columns(
    columns: Mapping[str, Array], times: Integers | None, package: Package, spec: DriftSpec | None = None
) -> list[WindowResult]:
    """As `check`, with columns as arrays, and event times in Unix nanoseconds or None for rows in time order."""
    manifest, baseline = package.manifest, package.baseline
    if baseline is None:
        raise PackageError(f"{package.path} has no baseline, so there is nothing to compare with", field="baseline")
    inputs, outputs = _tensors(columns, manifest, baseline)
    tensors = {**inputs, **outputs}
    rows = len(next(iter(tensors.values())))
    if times is not None and len(times) != rows:
        raise DataError(f"{len(times)} times for {rows} rows", field="times")
    if rows < MIN_SUB_BLOCKS:
        # Too few to divide: still counted, and then said to be insufficient.
        chosen = default_spec(manifest, baseline, kind="count", rows=MIN_SUB_BLOCKS, sub_blocks=MIN_SUB_BLOCKS)
    else:
        chosen = spec or default_spec(manifest, baseline, kind="count", rows=rows, sub_blocks=MIN_SUB_BLOCKS)
    order = np.arange(rows) if times is None else np.argsort(times, kind="stable")
    moments = np.arange(1, rows + 1) if times is None else times[order]
    compared = baseline if outputs else baseline.model_copy(update={"outputs": None})
    monitor = DriftMonitor(manifest, compared, chosen, is_dated=times is not None)
    batch = DataRows(
        manifest.digest,
        {name: array[order] for name, array in inputs.items()},
        {name: array[order] for name, array in outputs.items()},
        moments.astype(np.int64),
        {},
    )
    return [*monitor.add(batch), *monitor.close()]


def _tensors(
    columns: Mapping[str, Array], manifest: Manifest, baseline: Baseline
) -> tuple[dict[str, Array], dict[str, Array]]:
    features = {column.name: column for column in baseline.inputs.columns}
    answers = {column.name: column for column in (baseline.outputs.columns if baseline.outputs else ())}
    missing = [name for name in features if name not in columns]
    extra = [name for name in columns if name not in features and name not in answers]
    if missing or extra:
        raise DataError(
            f"columns missing: {', '.join(missing) or 'none'}; columns that are neither feature nor output: "
            f"{', '.join(extra) or 'none'} (name the one that holds times)",
            field=(missing or extra)[0],
        )
    given = [name for name in answers if name in columns]
    if given and len(given) != len(answers):
        absent = [name for name in answers if name not in columns]
        raise DataError(f"outputs missing: {', '.join(absent)}; give all of them or none", field=absent[0])
    sides: list[dict[str, Array]] = []
    for wanted, specs in ((features, manifest.inputs), (answers if given else {}, manifest.outputs)):
        tensors: dict[str, Array] = {}
        for spec in specs:
            own = sorted((c for c in wanted.values() if c.tensor == spec.name), key=lambda c: c.column)
            if own:
                tensors[spec.name] = np.column_stack([_values(c.name, columns[c.name], spec) for c in own])
        sides.append(tensors)
    if not next(iter(sides[0].values())).shape[0]:
        raise DataError("the data has no rows", field="rows")
    return sides[0], sides[1]


def _values(name: str, values: Array, spec: TensorSpec) -> Array:
    if spec.datatype == "BYTES":
        return np.array([str(each) for each in values], np.str_)
    try:
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(np.float64).astype(numpy_dtype(spec.datatype))
    except (TypeError, ValueError):
        raise DataError(f"column {name!r} holds what is no number; {spec.datatype} is expected", field=name) from None


def _times(source: Any, name: str) -> Integers | None:
    """Unix nanoseconds; None for an index that holds no times."""
    if source is None:
        return None
    if str(getattr(source, "dtype", "")).startswith("datetime64"):
        # Only pandas has zones: a column's methods are under `dt`, an index has them itself.
        moments = getattr(source, "dt", source)
        times = np.asarray(source if getattr(moments, "tz", None) is None else moments.tz_convert(None))
        if np.isnat(times).any():
            raise DataError("a row has no time (NaT)", field=name)
        return np.asarray(times).astype("datetime64[ns]").astype(np.int64)
    if name == "index":
        return None
    numbers = np.asarray(source)
    if numbers.dtype.kind not in "iu":
        raise DataError(
            f"column {name!r} holds {numbers.dtype}; datetime64 or Unix nanoseconds are expected", field=name
        )
    return numbers.astype(np.int64)
