"""The log as Parquet: a folder for each date, model and version; a file for each segment that it came from.

Columns and file names are docs/formats/prediction_log.md. Files appear whole or not at all, and the same segment always
gives the same files.
"""

import contextlib
import itertools
import json
import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops.prediction_log.batch import STAGES, Batch, concatenate
from mlops.tap import BrokenRule, Finding
from tickserve.errors import DamagedLogError

FORMAT = 1
_META = b"tickserve.prediction_log"
DAY_NS = 86_400 * 10**9
_FINDING = pa.list_(
    pa.struct([("kind", pa.uint8()), ("row", pa.uint32()), ("column", pa.uint32()), ("rule", pa.string())])
)
_BROKEN = pa.list_(pa.struct([("rule", pa.string()), ("policy", pa.uint8()), ("times", pa.uint64())]))
_TIME = pa.timestamp("ns", tz="UTC")
#: Columns that are one number a record, by their names in a batch.
_NUMBERS = (
    "position",
    "ring",
    "sequence",
    "missed",
    "rows",
    "status",
    "reason",
    "role",
    "why",
    "flags",
    "key_bucket",
    "plan_generation",
    "split_generation",
)
_TEXTS = ("boot", "request_id", "routing_key")
_PREFIX = {"input": "in_", "output": "out_"}
#: Is told of a file that is none of the log; raises where it cannot be passed over.
OnDamaged = Callable[[Path, DamagedLogError], None]


@dataclass(frozen=True, slots=True)
class Part:
    """One file: where it lies, and the positions of its first and last record."""

    path: Path
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Group:
    """Files whose ranges of positions overlap; groups do not."""

    parts: tuple[Part, ...]
    first: int
    last: int


def write(folder: Path, batches: Iterable[Batch]) -> list[Path]:
    """Writes batches in position order as files, all on disk when this returns. Raises OSError."""
    pieces: dict[tuple[date, str, str], list[list[Batch]]] = {}
    for batch in batches:
        for day, piece in _by_day(batch):
            runs = pieces.setdefault((day, batch.model, batch.version), [])
            if runs and piece.can_follow(runs[-1][-1]):
                runs[-1].append(piece)
            else:
                runs.append([piece])
    written = []
    for (day, model, version), runs in pieces.items():
        place = folder / f"date={day.isoformat()}" / f"model={_quoted(model)}" / f"version={_quoted(version)}"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for run in runs:
            batch = concatenate(run)
            path = place / f"part-{batch.position[0]:020d}-{batch.position[-1]:020d}.parquet"
            _write_file(path, to_table(batch))
            written.append(path)
        _sync(place)
    for parent in {path.parents[depth] for path in written for depth in (1, 2, 3)}:
        _sync(parent)
    return written


def parts(folder: Path, model: str | None = None, version: str | None = None, day: date | None = None) -> list[Part]:
    """The files of a model, of a version of it, of a day, by their first positions."""
    when = "*" if day is None else day.isoformat()
    names = ["*" if name is None else _quoted(name) for name in (model, version)]
    found = []
    for path in folder.glob(f"date={when}/model={names[0]}/version={names[1]}/part-*.parquet"):
        _, first, last = path.stem.split("-")
        found.append(Part(path, int(first), int(last)))
    return sorted(found, key=lambda part: (part.first, part.path))


def groups(
    folder: Path,
    *,
    before: int | None,
    after: int,
    model: str | None = None,
    version: str | None = None,
    day: date | None = None,
) -> list[Group]:
    """The files that begin before a position and end behind another, those that overlap together."""
    found: list[list[Part]] = []
    last = -1
    for part in parts(folder, model, version, day):
        if (before is not None and part.first >= before) or part.last <= after:
            continue
        if found and part.first <= last:
            found[-1].append(part)
        else:
            found.append([part])
        last = max(last, part.last)
    return [Group(tuple(group), group[0].first, max(part.last for part in group)) for group in found]


def raise_damaged(path: Path, error: DamagedLogError) -> None:
    """For readers that do without no file."""
    raise error


def read_group(group: Group, on_damaged: OnDamaged = raise_damaged) -> list[Batch]:
    """The records of a group, of each version in position order. Raises DamagedLogError, FileNotFoundError.

    A file that `on_damaged` returns from is passed over.
    """
    by_version: dict[tuple[str, str], list[Batch]] = {}
    for part in group.parts:
        try:
            batch = read(part.path)
        except DamagedLogError as error:
            on_damaged(part.path, error)
            continue
        by_version.setdefault((batch.model, batch.version), []).append(batch)
    return [batch for found in by_version.values() for batch in _in_order(found)]


def read(path: Path) -> Batch:
    """One file. Raises DamagedLogError where it is none, FileNotFoundError."""
    try:
        table = pq.ParquetFile(path).read()
        about = json.loads(table.schema.metadata[_META])
        if about["format"] != FORMAT:
            raise ValueError(f"it has format {about['format']}, this program reads format {FORMAT}")
        return from_table(table, about)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedLogError(f"{path} is no file of the prediction log: {error}", field=str(path)) from None


def count(path: Path) -> int:
    """Records in a file; 0 where it is none."""
    try:
        return int(pq.ParquetFile(path).metadata.num_rows)
    except (pa.ArrowException, OSError):
        return 0


def to_table(batch: Batch) -> pa.Table:
    """A batch as a table."""
    columns: dict[str, pa.Array] = {name: pa.array(getattr(batch, name)) for name in _NUMBERS}
    columns |= {name: pa.array(getattr(batch, name), pa.string()) for name in _TEXTS}
    columns["time"] = pa.array(batch.time_ns, _TIME)
    columns["event_time"] = pa.array(batch.event_time_ns, _TIME, mask=batch.event_time_ns == 0)
    columns["digest"] = pa.array([batch.digest] * len(batch), pa.string())
    columns["entities"] = pa.array(batch.entities, pa.list_(pa.string()))
    for number, stage in enumerate(STAGES):
        columns[f"{stage}_ns"] = pa.array(batch.stage_ns[:, number])
    tensors = []
    for side in ("input", "output"):
        owners = getattr(batch, f"{side}_records")
        for name, rows in getattr(batch, f"{side}s").items():
            columns[_PREFIX[side] + name] = _lists(rows, owners, len(batch))
            shape = list(batch.shapes[name])
            tensors.append(
                {"side": side, "name": name, "dtype": rows.dtype.str, "shape": shape, "columns": rows.shape[1]}
            )
    columns["findings"] = _items(batch.findings, len(batch), _FINDING)
    columns["broken_rules"] = _items(batch.broken_rules, len(batch), _BROKEN)
    about = {
        "format": FORMAT,
        "model": batch.model,
        "version": batch.version,
        "digest": batch.digest,
        "tensors": tensors,
    }
    return pa.table(columns).replace_schema_metadata({_META: json.dumps(about).encode()})


def from_table(table: pa.Table, about: Mapping[str, Any]) -> Batch:
    """The other way round. Raises KeyError, ValueError where it is no such table."""
    table = table.combine_chunks()
    count = table.num_rows

    def numbers(name: str) -> NDArray[Any]:
        found: NDArray[Any] = table.column(name).to_numpy()
        return found

    def objects(name: str) -> NDArray[Any]:
        found = np.empty(count, object)
        found[:] = table.column(name).to_pylist()
        return found

    sides: dict[str, Any] = {}
    shapes = {}
    for side in ("input", "output"):
        tensors, owners = {}, np.empty(0, np.int64)
        for tensor in about["tensors"]:
            if tensor["side"] == side:
                rows, owners = _rows(table.column(_PREFIX[side] + tensor["name"]), tensor)
                tensors[tensor["name"]] = rows
                shapes[tensor["name"]] = tuple(tensor["shape"])
        sides[f"{side}s"], sides[f"{side}_records"] = tensors, owners
    columns: dict[str, Any] = {name: numbers(name) for name in _NUMBERS} | {name: objects(name) for name in _TEXTS}
    columns |= {
        "time_ns": table.column("time").cast(pa.int64()).to_numpy(),
        "event_time_ns": table.column("event_time").cast(pa.int64()).fill_null(0).to_numpy(),
    }
    return Batch(
        model=about["model"],
        version=about["version"],
        digest=about["digest"],
        **columns,
        entities=[tuple(names) for names in table.column("entities").to_pylist()],
        stage_ns=np.stack([numbers(f"{stage}_ns") for stage in STAGES], axis=1),
        **sides,
        shapes=shapes,
        findings=_unpacked(table, "findings", Finding),
        broken_rules=_unpacked(table, "broken_rules", BrokenRule),
    )


def _by_day(batch: Batch) -> Iterator[tuple[date, Batch]]:
    days = batch.time_ns // DAY_NS
    for day in np.unique(days).tolist():
        # A clock that is set back gives a day records that are not in one piece; they stay in order.
        chosen = days == day
        piece = batch if chosen.all() else batch.take(chosen)
        yield datetime.fromtimestamp(day * 86_400, UTC).date(), piece


def _lists(rows: NDArray[Any], owners: NDArray[np.int64], count: int) -> pa.Array:
    """The figures of each record as a list, row-major; null where it has none in full."""
    held = np.bincount(owners, minlength=count)
    offsets = np.concatenate(([0], np.cumsum(held * rows.shape[1])))
    values = pa.array(rows.reshape(-1).tolist(), pa.binary()) if rows.dtype.kind == "O" else pa.array(rows.reshape(-1))
    return pa.LargeListArray.from_arrays(pa.array(offsets), values, mask=pa.array(held == 0))


def _rows(column: pa.ChunkedArray, tensor: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    lists = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    width = tensor["columns"]
    dtype = np.dtype(tensor["dtype"])
    flat = lists.flatten()
    if dtype.kind == "O":
        rows = np.empty(len(flat), object)
        rows[:] = flat.to_pylist()
    else:
        rows = flat.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    held = lists.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    owners = np.repeat(np.arange(len(lists)), held // max(1, width))
    return rows.reshape(-1, width), owners


def _items(found: Mapping[int, tuple[Any, ...]], count: int, kind: pa.DataType) -> pa.Array:
    if not found:
        return pa.nulls(count, kind)
    return pa.array(
        [[item._asdict() for item in found[index]] if index in found else None for index in range(count)], kind
    )


def _unpacked(table: pa.Table, name: str, kind: Any) -> dict[int, tuple[Any, ...]]:
    column = table.column(name)
    if column.null_count == len(column):
        return {}
    return {
        index: tuple(kind(**item) for item in items)
        for index, items in enumerate(column.to_pylist())
        if items is not None
    }


def _in_order(found: list[Batch]) -> Iterator[Batch]:
    """Batches of one version in position order, cut where their ranges interleave."""
    found = sorted(found, key=lambda batch: int(batch.position[0]))
    if all(int(a.position[-1]) < int(b.position[0]) for a, b in itertools.pairwise(found)):
        yield from found
        return
    positions = np.concatenate([batch.position for batch in found])
    owners = np.repeat(np.arange(len(found)), [len(batch) for batch in found])
    order = np.argsort(positions)
    for run in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
        batch = found[owners[run[0]]]
        yield batch.take(np.searchsorted(batch.position, positions[run]))


def _write_file(path: Path, table: pa.Table) -> None:
    staged = path.with_suffix(".new")
    # Figures are seldom the same twice, and their bits must not depend on when two of them count as equal.
    figures = [name for name in table.column_names if name.startswith(tuple(_PREFIX.values()))]
    words = [name for name in table.column_names if name not in figures and name != "position"]
    try:
        with open(staged, "wb") as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=words)
            file.flush()
            os.fsync(file.fileno())
        staged.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        raise


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
