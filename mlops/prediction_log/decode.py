"""Whole records as batches: one for each version, cut where its tensors change their shapes."""

import contextlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import TensorSpec
from mlops.prediction_log.batch import Batch
from mlops.prediction_log.scan import Group, Placed, Scan
from mlops.tap import Version

#: How figures lie in a record, by datatype; BYTES lie element by element.
_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_OBJECT = np.dtype(object)

#: By tensor: its shape in a record, and its columns.
_Form = tuple[tuple[tuple[int, ...], int], ...]


def text(data: bytes) -> str:
    """An id or a name as text; bytes that are none are escaped, so that different ones stay different."""
    return data.decode("utf-8", "backslashreplace")


def all_text(found: Sequence[bytes]) -> list[str]:
    """The same for many, in less time."""
    joined = b"\0".join(found)
    if joined.count(b"\0") == len(found) - 1:
        with contextlib.suppress(UnicodeDecodeError):
            return joined.decode().split("\0")
    return [text(data) for data in found]


def dtype_of(datatype: str) -> np.dtype[Any]:
    """How a tensor of this datatype is held in a batch."""
    return _DTYPES.get(datatype, _OBJECT)


def batches(
    scan: Scan, versions: Mapping[int, Version], boot: str, ring: int, first_position: int, missed: int
) -> list[Batch]:
    """The records as batches of one version each, each in the order of its positions.

    Parameters
    ----------
    versions : mapping of int to Version
        The catalog of the boot.
    first_position : int
        The position of the first record; the others follow.
    missed : int
        Sequences of the whole log that had gone missing up to the last record.
    """
    columns = _columns(scan, boot, ring, first_position) | {"missed": _missed(scan.column("sequence"), missed)}
    found: list[Batch] = []
    numbers = scan.column("version")
    for number in np.unique(numbers).tolist():
        groups = [group for group in scan.groups if group.version == number]
        members = np.arange(len(numbers)) if len(groups) == len(scan.groups) else np.flatnonzero(numbers == number)
        found += _of_version(columns, members, groups, versions[number])
    return found


def _missed(sequence: NDArray[np.uint64], last: int) -> NDArray[np.int64]:
    """What had gone missing up to each record, from what had up to the last: the gaps behind it are not there yet."""
    numbers = sequence.astype(np.int64)
    missed: NDArray[np.int64] = last - (numbers[-1:] - numbers - np.arange(len(numbers))[::-1])
    return missed


def _columns(scan: Scan, boot: str, ring: int, first_position: int) -> dict[str, Any]:
    count = len(scan)
    indices, words = scan.entity
    names = {word: (text(word),) for word in set(words)}
    entities: list[tuple[str, ...]] = [names[word] for word in words]
    if len(entities) < count:
        spread: list[tuple[str, ...]] = [()] * count
        for index, entity in zip(indices.tolist(), entities, strict=True):
            spread[index] = entity
        entities = spread
    for index, record in scan.texts.items():
        entities[index] = tuple(text(entity) for entity in record.entities)
    return {
        "position": first_position + np.arange(count, dtype=np.int64),
        "time_ns": scan.column("time_unix_ns"),
        "event_time_ns": scan.column("event_time_unix_ns"),
        "rows": scan.column("rows"),
        "status": scan.column("status"),
        "reason": scan.column("reason"),
        "role": scan.column("role"),
        "why": scan.column("why"),
        "flags": scan.column("flags"),
        "key_bucket": scan.column("key_bucket"),
        "request_id": _objects(all_text(scan.ids("request_id"))),
        "routing_key": _objects(all_text(scan.ids("routing_key"))),
        "entities": entities,
        "plan_generation": scan.column("plan_generation"),
        "split_generation": scan.column("split_generation"),
        "stage_ns": scan.column("durations_ns"),
        "boot": _objects([boot] * count),
        "ring": np.full(count, ring, np.uint32),
        "sequence": scan.column("sequence"),
        "findings": {index: record.findings for index, record in scan.texts.items() if record.findings},
        "broken_rules": {index: record.broken_rules for index, record in scan.texts.items() if record.broken_rules},
    }


def _of_version(
    columns: dict[str, Any], members: NDArray[np.int64], groups: Sequence[Group], version: Version
) -> Iterator[Batch]:
    forms = [
        (_form(group, group.inputs, version.inputs), _form(group, group.outputs, version.outputs)) for group in groups
    ]
    inputs = {form for form, _ in forms if form is not None}
    outputs = {form for _, form in forms if form is not None}
    if len(inputs) <= 1 and len(outputs) <= 1:
        yield _batch(columns, members, groups, forms, version)
        return
    for run in _runs(members, groups, forms):
        yield _batch(columns, run, groups, forms, version)


def _runs(
    members: NDArray[np.int64], groups: Sequence[Group], forms: Sequence[tuple[_Form | None, _Form | None]]
) -> Iterator[NDArray[np.int64]]:
    """Records in order, cut where a tensor's shape is another than before."""
    by_record = {int(index): form for group, form in zip(groups, forms, strict=True) for index in group.records}
    begin = 0
    now: list[_Form | None] = [None, None]
    for at, index in enumerate(members.tolist()):
        form = by_record[index]
        if any(new is not None and old is not None and new != old for new, old in zip(form, now, strict=True)):
            yield members[begin:at]
            begin, now = at, [None, None]
        now = [old if new is None else new for new, old in zip(form, now, strict=True)]
    yield members[begin:]


def _batch(
    columns: dict[str, Any],
    members: NDArray[np.int64],
    groups: Sequence[Group],
    forms: Sequence[tuple[_Form | None, _Form | None]],
    version: Version,
) -> Batch:
    count = len(columns["position"])
    is_all = len(members) == count
    place = np.full(count, -1, np.int64)
    place[members] = np.arange(len(members))
    taken: dict[str, Any] = {}
    for name, values in columns.items():
        if isinstance(values, dict):
            taken[name] = {int(place[index]): items for index, items in values.items() if place[index] >= 0}
        elif is_all:
            taken[name] = values
        elif isinstance(values, list):
            taken[name] = [values[index] for index in members]
        else:
            taken[name] = values[members]
    shapes: dict[str, tuple[int, ...]] = {}
    for side, specs in (("input", version.inputs), ("output", version.outputs)):
        number = 0 if side == "input" else 1
        chosen = [(group, form[number]) for group, form in zip(groups, forms, strict=True) if form[number] is not None]
        chosen = [(group, form) for group, form in chosen if (place[group.records] >= 0).any()]
        tensors, owners, found = _side(chosen, side, specs, place)
        taken[f"{side}s"], taken[f"{side}_records"] = tensors, owners
        shapes |= found
    return Batch(version.model, version.version, version.digest.hex(), **taken, shapes=shapes)


def _side(
    chosen: Sequence[tuple[Group, _Form | None]],
    side: str,
    specs: Sequence[TensorSpec],
    place: NDArray[np.int64],
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64], dict[str, tuple[int, ...]]]:
    """The rows of all inputs (outputs), which record each is of, and the shapes."""
    if not chosen or chosen[0][1] is None:
        empty = {spec.name: np.empty((0, _width(spec.shape)), dtype_of(spec.datatype)) for spec in specs}
        return empty, np.empty(0, np.int64), {spec.name: spec.shape for spec in specs}
    form = chosen[0][1]
    shapes = {spec.name: shape for spec, (shape, _) in zip(specs, form, strict=True)}
    owners, kept = [], []
    for group, _ in chosen:
        here = place[group.records]
        kept.append(here >= 0)
        owners.append(np.repeat(here[here >= 0], group.rows))
    owner = owners[0] if len(owners) == 1 else np.concatenate(owners)
    order = None if len(owners) == 1 else np.argsort(owner, kind="stable")
    tensors = {}
    for number, (spec, (_, width)) in enumerate(zip(specs, form, strict=True)):
        pieces = []
        for (group, _), mask in zip(chosen, kept, strict=True):
            placed = (group.inputs if side == "input" else group.outputs)[number]
            payload = group.payload if mask.all() else group.payload[mask]
            pieces.append(_figures(payload, placed, width))
        rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        tensors[spec.name] = rows if order is None else rows[order]
    return tensors, owner if order is None else owner[order], shapes


def _figures(payload: NDArray[np.uint8], placed: Placed, width: int) -> NDArray[Any]:
    """The rows of one tensor of all records, (sum of rows, columns)."""
    data = np.ascontiguousarray(payload[:, placed.offset : placed.offset + placed.size])
    if placed.datatype != "BYTES":
        return data.view(_DTYPES[placed.datatype]).reshape(-1, width)
    elements = [element for row in data for element in _elements(row.tobytes())]
    return _objects(elements).reshape(-1, width)


def _form(group: Group, placed: Sequence[Placed], specs: Sequence[TensorSpec]) -> _Form | None:
    """Shapes and widths of the tensors of a group; None where they are not there in full, as the model has them."""
    if group.rows == 0 or len(placed) != len(specs) or not placed:
        return None
    found = []
    for tensor, spec in zip(placed, specs, strict=True):
        elements = 1
        for size in tensor.shape:
            elements *= size
        is_whole = not tensor.is_cut and tensor.datatype == spec.datatype and elements > 0
        if not is_whole or elements % group.rows or not _has_size(group, tensor, elements):
            return None
        is_rows = bool(spec.shape) and spec.shape[0] == -1 and tensor.shape[:1] == (group.rows,)
        shape = (-1, *tensor.shape[1:]) if is_rows else tensor.shape
        found.append((shape, elements // group.rows))
    return tuple(found)


def _has_size(group: Group, tensor: Placed, elements: int) -> bool:
    if tensor.datatype != "BYTES":
        return elements * _DTYPES[tensor.datatype].itemsize == tensor.size
    data = group.payload[:, tensor.offset : tensor.offset + tensor.size]
    return all(_counts(row.tobytes()) == elements for row in data)


def _counts(data: bytes) -> int:
    try:
        return len(_elements(data))
    except struct.error:
        return -1


def _elements(data: bytes) -> list[bytes]:
    """The elements of BYTES. Raises struct.error where they do not fill the data."""
    found, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(data):
        raise struct.error("an element is longer than its tensor")
    return found


def _width(shape: Sequence[int]) -> int:
    width = 1
    for size in shape[1:]:
        width *= max(1, size)
    return width


def _objects(items: Sequence[Any]) -> NDArray[Any]:
    array = np.empty(len(items), object)
    array[:] = items
    return array
