"""Slots of a ring as whole records: which chains hold together, and where their figures lie. All of them at once."""

import bisect
import itertools
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.tap import layout
from mlops.tap.layout import FIXED, PART, PAYLOAD_AT
from mlops.tap.record import Damage, Record, decode

#: Offsets in a first slot.
_REQUEST_ID_AT = 176
_ROUTING_KEY_AT = 240
_TENSOR = struct.Struct("<IBBH")
_CUT_TENSOR = 1
_KEY = ("version", "rows", "parts", "inputs", "outputs", "outputs_at", "entities_at")


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the data of one tensor lies in a payload."""

    datatype: str
    shape: tuple[int, ...]
    is_cut: bool
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Group:
    """Records of one version with one shape: their figures lie at one offset.

    `records` are rising indices into `Scan.starts`; `payload` (records, bytes) ends where the entities begin.
    """

    version: int
    rows: int
    records: NDArray[np.int64]
    payload: NDArray[np.uint8]
    inputs: tuple[Placed, ...]
    outputs: tuple[Placed, ...]


@dataclass(slots=True)
class Scan:
    """Whole records among slots.

    Parameters
    ----------
    slots : structured array (`layout.slot_dtype`)
        What was looked at; those from `length` on belong to a chain that goes on behind them.
    starts : int64
        The first slot of each record, in order.
    damaged : int
        Slots that are no part of a whole record.
    texts : dict
        Entities, findings and broken rules of the records, by index, that have more than one entity.
    entity : tuple
        Of the others that have one entity: their rising indices, and it.
    """

    slots: Any
    length: int
    starts: NDArray[np.int64]
    kept: NDArray[np.bool_]
    damaged: int
    groups: list[Group]
    texts: dict[int, Record] = field(default_factory=dict)
    entity: tuple[NDArray[np.int64], list[bytes]] = field(default_factory=lambda: (np.empty(0, np.int64), []))

    def __len__(self) -> int:
        return len(self.starts)

    def column(self, name: str) -> NDArray[Any]:
        """A field of the first slots, one a record."""
        return np.ascontiguousarray(self.slots[name][self.starts])

    def ids(self, name: str) -> list[bytes]:
        """Request ids or routing keys, one a record."""
        sizes = self.column(f"{name}_bytes")
        found: list[bytes] = self.column(name).tolist()
        # NumPy takes zeros off the end; they are an id's own where its size says so.
        at = _REQUEST_ID_AT if name == "request_id" else _ROUTING_KEY_AT
        raw = _raw(self.slots)
        last = raw[self.starts, at + np.maximum(sizes.astype(np.int64), 1) - 1]
        for index in np.flatnonzero((last == 0) & (sizes > 0)):
            found[index] = raw[self.starts[index], at : at + int(sizes[index])].tobytes()
        return found

    def good(self) -> Any:
        """The slots of whole records, and no others."""
        if len(self.slots) == self.length and not self.damaged:
            return self.slots
        return self.slots[: self.length][self.kept[: self.length]]


def scan(
    slots: Any,
    *,
    max_parts: int,
    expected: int,
    next_sequence: int,
    versions: Collection[int],
    is_end: bool,
) -> Scan:
    """Finds the whole records among consecutive slots.

    Parameters
    ----------
    slots : structured array
        A copy: nobody may write to it any more.
    expected, next_sequence : int
        Sequences are from `expected` up to below `next_sequence`, and rise.
    versions : collection of int
        Numbers that the catalog knows; a record of any other is damage.
    is_end : bool
        Whether a chain that goes on behind the last slot is damage, or just not looked at in full.
    """
    length = len(slots)
    fields = _Fields(slots, max_parts, versions)
    first = fields.first & (fields.sequence >= expected) & (fields.sequence < next_sequence)
    candidates = np.flatnonzero(first)
    if not is_end and len(candidates):
        last = int(candidates[-1])
        if last and last + fields.parts[last] > length:
            length = last
    kept = _whole(fields, first, length)
    starts = np.flatnonzero(kept & first)
    starts = starts[_rising(fields.sequence[starts])]
    groups, texts, entity, is_good = _read(slots, starts, fields.parts)
    if not is_good.all():
        # Indices are of good records from here on.
        groups, texts, entity, _ = _read(slots, starts := starts[is_good], fields.parts)
    kept = _slots_of(starts, fields.parts, len(slots))
    return Scan(slots, length, starts, kept, length - int(kept.sum()), groups, texts, entity)


class _Fields:
    """What says whether slots hold together; one entry a slot."""

    def __init__(self, slots: Any, max_parts: int, versions: Collection[int]) -> None:
        slot_bytes = slots.dtype.itemsize
        self.sequence = np.ascontiguousarray(slots["sequence"])
        self.part = slots["part"].astype(np.int64)
        self.parts = slots["parts"].astype(np.int64)
        self.size = slots["size"].astype(np.int64)
        beyond = self.size - (slot_bytes - PAYLOAD_AT)
        needed = np.where(beyond <= 0, 1, 1 - (-beyond // (slot_bytes - PART.size)))
        first = (self.part == 0) & (self.parts >= 1) & (self.parts <= max_parts) & (self.parts == needed)
        bounds = [slots[name] for name in ("outputs_at", "entities_at", "findings_at", "broken_rules_at")]
        bounds.append(slots["size"])
        for before, after in itertools.pairwise(bounds):
            first &= before <= after
        first &= (slots["request_id_bytes"] <= layout.ID_BYTES) & (slots["routing_key_bytes"] <= layout.ID_BYTES)
        first &= np.isin(slots["version"], np.fromiter(versions, np.uint32, len(versions)))
        self.first = first


def _whole(fields: _Fields, first: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Which slots belong to chains that are there in full."""
    if length == len(first) and (first & (fields.parts == 1)).all():
        return first
    index = np.arange(len(first))
    start = index - fields.part
    is_part = (start >= 0) & (fields.part < fields.parts) & (index < length)
    start = np.where(is_part, start, 0)
    is_part &= first[start] & (fields.sequence == fields.sequence[start])
    is_part &= (fields.parts == fields.parts[start]) & (fields.size == fields.size[start])
    found = np.bincount(start[is_part], minlength=len(first))
    is_whole: NDArray[np.bool_] = first & (found == fields.parts)
    held: NDArray[np.bool_] = is_part & is_whole[start]
    return held


def _rising(sequences: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Indices of the longest run of rising sequences: a slot that lies about its own is alone against many."""
    if (sequences[1:] > sequences[:-1]).all():
        return np.arange(len(sequences))
    ends: list[int] = []
    at: list[int] = []
    before = np.full(len(sequences), -1, np.int64)
    for index, sequence in enumerate(sequences.tolist()):
        place = bisect.bisect_left(ends, sequence)
        before[index] = at[place - 1] if place else -1
        if place == len(ends):
            ends.append(sequence)
            at.append(index)
        else:
            ends[place], at[place] = sequence, index
    chosen, index = [], at[-1]
    while index >= 0:
        chosen.append(index)
        index = int(before[index])
    return np.array(chosen[::-1], np.int64)


def _slots_of(starts: NDArray[np.int64], parts: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    kept = np.zeros(length + 1, np.int64)
    kept[starts] += 1
    np.subtract.at(kept, starts + parts[starts], 1)
    is_kept: NDArray[np.bool_] = np.cumsum(kept[:-1]) > 0
    return is_kept


_Entity = tuple[NDArray[np.int64], list[bytes]]
_Read = tuple[list[Group], dict[int, Record], _Entity, NDArray[np.bool_]]


def _read(slots: Any, starts: NDArray[np.int64], parts: NDArray[np.int64]) -> _Read:
    """Where figures and texts of records lie, and which records say what cannot be."""
    is_good = np.ones(len(starts), np.bool_)
    heads = slots[list(_KEY)][starts]
    groups: list[Group] = []
    for members in _alike(heads):
        groups += _groups(slots, starts, members, is_good)
    texts, entity = _texts(slots, starts, parts, is_good)
    return groups, texts, entity, is_good


def _alike(heads: Any) -> Iterator[NDArray[np.int64]]:
    """Indices of records whose sizes are the same."""
    if not len(heads):
        return
    columns = np.stack([heads[name].astype(np.uint32) for name in _KEY], axis=1)
    if (columns == columns[0]).all():
        yield np.arange(len(heads))
        return
    keys = np.ascontiguousarray(columns).view(f"V{columns.shape[1] * 4}")[:, 0]
    _, inverse = np.unique(keys, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)


def _groups(
    slots: Any, starts: NDArray[np.int64], members: NDArray[np.int64], is_good: NDArray[np.bool_]
) -> Iterator[Group]:
    """Cuts records of the same sizes into those with the same heads of tensors."""
    head = slots[starts[members[0]]]
    payload = _payload(slots, starts[members], int(head["parts"]), int(head["entities_at"]))
    outputs_at = int(head["outputs_at"])
    while len(members):
        try:
            inputs = _tensors(payload[0, :outputs_at].tobytes(), int(head["inputs"]), 0)
            outputs = _tensors(payload[0, outputs_at:].tobytes(), int(head["outputs"]), outputs_at)
        except (Damage, struct.error):
            is_good[members[0]] = False
            members, payload = members[1:], payload[1:]
            continue
        is_head = np.ones(payload.shape[1], np.bool_)
        for tensor in (*inputs, *outputs):
            is_head[tensor.offset : tensor.offset + tensor.size] = False
        same = (payload[:, is_head] == payload[0, is_head]).all(axis=1)
        chosen = payload if same.all() else payload[same]
        yield Group(int(head["version"]), int(head["rows"]), members[same], chosen, inputs, outputs)
        members, payload = members[~same], payload[~same]


def _tensors(data: bytes, count: int, begin: int) -> tuple[Placed, ...]:
    tensors, at = [], 0
    for _ in range(count):
        size, datatype, rank, cut = _TENSOR.unpack_from(data, at)
        shape = struct.unpack_from(f"<{rank}q", data, at + _TENSOR.size)
        at += _TENSOR.size + 8 * rank
        if not 1 <= datatype <= len(layout.DATATYPES) or size > len(data) - at:
            raise Damage("a tensor has no such datatype or size")
        tensors.append(Placed(layout.DATATYPES[datatype - 1], shape, cut == _CUT_TENSOR, begin + at, size))
        at += size + -size % 8
    if at != len(data):
        raise Damage("tensors do not fill their part")
    return tuple(tensors)


def _payload(slots: Any, starts: NDArray[np.int64], parts: int, end: int) -> NDArray[np.uint8]:
    """The first `end` bytes of the payloads of records that take `parts` slots each."""
    raw = _raw(slots)
    room = raw.shape[1] - PAYLOAD_AT
    if len(starts) and end <= room:
        is_dense = int(starts[-1]) - int(starts[0]) + 1 == len(starts)
        rows = slice(int(starts[0]), int(starts[-1]) + 1) if is_dense else starts
        return raw[rows, PAYLOAD_AT : PAYLOAD_AT + end]
    pieces = [raw[starts, PAYLOAD_AT:]]
    pieces += [raw[starts + part, PART.size :] for part in range(1, parts)]
    return np.concatenate(pieces, axis=1)[:, :end]


def _texts(
    slots: Any, starts: NDArray[np.int64], parts: NDArray[np.int64], is_good: NDArray[np.bool_]
) -> tuple[dict[int, Record], _Entity]:
    """Entities, findings and broken rules: of most records none, or one entity."""
    heads = {
        name: slots[name][starts]
        for name in ("entities", "findings", "broken_rules", "entities_at", "findings_at", "size")
    }
    plain = (heads["findings"] == 0) & (heads["broken_rules"] == 0)
    none = plain & (heads["entities"] == 0) & (heads["entities_at"] == heads["size"])
    plain &= (heads["entities"] == 1) & (heads["findings_at"] == heads["size"])
    one, words = _one_entity(slots, starts, np.flatnonzero(plain), heads)
    rest = ~none
    rest[one] = False
    texts: dict[int, Record] = {}
    for index in np.flatnonzero(rest).tolist():
        try:
            texts[index] = _record(slots, int(starts[index]), int(parts[starts[index]]))
        except Damage:
            is_good[index] = False
    return texts, (one, words)


def _one_entity(
    slots: Any, starts: NDArray[np.int64], members: NDArray[np.int64], heads: dict[str, NDArray[Any]]
) -> _Entity:
    """The entity of those that have one and nothing else, where it lies in the first slot; the others are left out."""
    raw = _raw(slots)
    size = heads["size"][members].astype(np.int64)
    begin = heads["entities_at"][members].astype(np.int64)
    is_here = (size <= raw.shape[1] - PAYLOAD_AT) & (size - begin >= 8)
    members, size, begin = members[is_here], size[is_here], begin[is_here]
    indices: list[NDArray[np.int64]] = []
    words: list[bytes] = []
    for at in np.unique(begin).tolist():
        here = begin == at
        chosen, room = members[here], size[here] - at
        rows = starts[chosen]
        is_dense = int(rows[-1]) - int(rows[0]) + 1 == len(rows)
        places: Any = slice(int(rows[0]), int(rows[-1]) + 1) if is_dense else rows
        block = np.ascontiguousarray(raw[places, PAYLOAD_AT + at : PAYLOAD_AT + at + int(room.max())])
        length = block[:, :4].copy().view("<u4")[:, 0].astype(np.int64)
        text = block[:, 4:]
        # Texts that end in a zero go the long way, as NumPy would take it off; so do sizes that cannot be.
        fits = (length + 4 + -(length + 4) % 8 == room) & (length > 0)
        fits &= text[np.arange(len(text)), np.clip(length, 1, text.shape[1]) - 1] != 0
        text = np.ascontiguousarray(np.where(np.arange(text.shape[1]) < length[:, None], text, np.uint8(0)))
        found = text.view(f"S{text.shape[1]}")[:, 0]
        indices.append(chosen[fits])
        words += found[fits].tolist()
    if not indices:
        return np.empty(0, np.int64), []
    if len(indices) == 1:
        return indices[0], words
    together = np.concatenate(indices)
    order = np.argsort(together)
    return together[order], [words[index] for index in order.tolist()]


def _record(slots: Any, start: int, parts: int) -> Record:
    raw = _raw(slots)[start : start + parts]
    data = raw[0].tobytes()
    fields = FIXED.unpack_from(data)
    payload = data[PAYLOAD_AT:] + b"".join(raw[part, PART.size :].tobytes() for part in range(1, parts))
    return decode(fields, payload[: fields[3]])


def _raw(slots: Any) -> NDArray[np.uint8]:
    raw: NDArray[np.uint8] = slots.view(np.uint8).reshape(len(slots), slots.dtype.itemsize)
    return raw
