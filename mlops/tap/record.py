"""One record: what a request was, what became of it, and its payload as bytes."""

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from mlops.tap import layout

_TENSOR = struct.Struct("<IBBH")
_SIZE = struct.Struct("<I")
_FINDING = struct.Struct("<IIBxxxI")
_BROKEN = struct.Struct("<QBxxxI")
_CUT_TENSOR = 1
#: Heads of tensors by rank.
_HEADS = [struct.Struct(f"<IBBH{rank}q") for rank in range(256)]
_PADDING = [bytes(-size % 8) for size in range(8)]

_Item = TypeVar("_Item")


class Tensor(NamedTuple):
    """One tensor: the number of its datatype, its shape, its elements row-major and little-endian.

    `data` of BYTES has each element after its size, u32. A tensor that was cut has no data.
    """

    datatype: int
    shape: tuple[int, ...]
    data: bytes
    is_cut: bool = False


class Finding(NamedTuple):
    """One place that a rule found; `kind` is numbered as `tickserve.v1.FindingKind`."""

    kind: int
    row: int
    column: int
    rule: str


class BrokenRule(NamedTuple):
    """How often a rule was broken; `policy` is its place in `layout.POLICIES`, from 1."""

    rule: str
    policy: int
    times: int


class Record(NamedTuple):
    """What was recorded of one request; the fields are explained in docs/formats/tap.md."""

    time_unix_ns: int
    event_time_unix_ns: int
    plan_generation: int
    split_generation: int
    durations_ns: tuple[int, ...]
    version: int
    rows: int
    status: int
    reason: int
    role: int
    why: int
    key_bucket: int
    flags: int
    request_id: bytes
    routing_key: bytes
    inputs: Sequence[Tensor] = ()
    outputs: Sequence[Tensor] = ()
    entities: Sequence[bytes] = ()
    findings: Sequence[Finding] = ()
    broken_rules: Sequence[BrokenRule] = ()
    findings_left_out: int = 0
    trace_id: bytes = layout.NO_TRACE


class Body(NamedTuple):
    """A record's payload, how many of each are in it, and where the parts after the inputs begin."""

    data: bytes
    inputs: int
    outputs: int
    entities: int
    findings: int
    broken_rules: int
    findings_left_out: int
    outputs_at: int
    entities_at: int
    findings_at: int
    broken_rules_at: int
    is_cut: bool


class Damage(Exception):  # noqa: N818 - says what was found, and never leaves the package
    """Bytes that are no record."""


def encode(record: Record, capacity: int) -> Body:
    """The payload of a record, cut where it is larger than `capacity` bytes."""
    inputs, outputs, entities, findings, broken = record[15:20]
    data_in, data_out = _tensors(inputs), _tensors(outputs)
    data_entities = _entities(entities) if entities else b""
    data = data_in + data_out + data_entities
    size = len(data)
    if not (findings or broken) and size <= capacity:
        # What nearly every request is.
        at, counts = len(data_in), (len(inputs), len(outputs), len(entities), 0, 0, record[20])
        return Body(data, *counts, at, at + len(data_out), size, size, False)
    lists = data_entities, _list(_findings, findings), _list(_broken, broken)
    if size + len(lists[1]) + len(lists[2]) > capacity:
        return _cut(record, lists, capacity)
    return _body(record, data_in, data_out, lists, is_cut=False)


def decode(fields: tuple[Any, ...], payload: bytes) -> Record:
    """The record of a first slot's fields (`layout.FIXED`) and its whole payload. Raises Damage."""
    _, _, _, _, time, event_time, generation, split, *rest = fields
    *durations, version, rows, status, reason, role, why, bucket, id_bytes, key_bytes = rest[:15]
    flags, inputs, outputs, findings, broken, entities, left_out, *places, trace, request_id, key = rest[15:]
    if id_bytes > layout.ID_BYTES or key_bytes > layout.ID_BYTES:
        raise Damage("an id is longer than its field")
    bounds = [0, *places, len(payload)]
    if any(start > end for start, end in pairwise(bounds)):
        raise Damage("a part ends before it begins")
    parts = [payload[start:end] for start, end in pairwise(bounds)]
    try:
        return Record(
            time_unix_ns=time,
            event_time_unix_ns=event_time,
            plan_generation=generation,
            split_generation=split,
            durations_ns=tuple(durations),
            version=version,
            rows=rows,
            status=status,
            reason=reason,
            role=role,
            why=why,
            key_bucket=bucket,
            flags=flags,
            request_id=request_id[:id_bytes],
            routing_key=key[:key_bytes],
            inputs=_read_tensors(parts[0], inputs),
            outputs=_read_tensors(parts[1], outputs),
            entities=tuple(data for _, data in _read_list(parts[2], entities, _SIZE)),
            findings=tuple(
                Finding(kind, row, column, rule.decode())
                for (row, column, kind), rule in _read_list(parts[3], findings, _FINDING)
            ),
            broken_rules=tuple(
                BrokenRule(rule.decode(), policy, times)
                for (times, policy), rule in _read_list(parts[4], broken, _BROKEN)
            ),
            findings_left_out=left_out,
            trace_id=trace,
        )
    except (struct.error, UnicodeDecodeError) as error:
        raise Damage(str(error)) from None


def _tensors(tensors: Sequence[Tensor]) -> bytes:
    encoded = b""
    for datatype, shape, data, is_cut in tensors:
        rank, size = len(shape), len(data)
        encoded += _HEADS[rank].pack(size, datatype, rank, is_cut, *shape) + data + _PADDING[size & 7]
    return encoded


def _list(encode_items: Callable[[Sequence[_Item]], Iterator[bytes]], items: Sequence[_Item]) -> bytes:
    if not items:
        return b""
    data = b"".join(encode_items(items))
    return data + _PADDING[len(data) & 7]


def _entities(entities: Sequence[bytes]) -> bytes:
    data = b"".join([_SIZE.pack(len(entity)) + entity for entity in entities])
    return data + _PADDING[len(data) & 7]


def _findings(findings: Sequence[Finding]) -> Iterator[bytes]:
    for kind, row, column, rule in findings:
        name = rule.encode()
        yield _FINDING.pack(row, column, kind, len(name))
        yield name


def _broken(broken_rules: Sequence[BrokenRule]) -> Iterator[bytes]:
    for rule, policy, times in broken_rules:
        name = rule.encode()
        yield _BROKEN.pack(times, policy, len(name))
        yield name


def _body(record: Record, inputs: bytes, outputs: bytes, lists: tuple[bytes, bytes, bytes], *, is_cut: bool) -> Body:
    entities, findings, broken = lists
    outputs_at = len(inputs)
    entities_at = outputs_at + len(outputs)
    findings_at = entities_at + len(entities)
    return Body(
        data=b"".join((inputs, outputs, *lists)),
        inputs=len(record.inputs) if inputs else 0,
        outputs=len(record.outputs) if outputs else 0,
        entities=len(record.entities) if entities else 0,
        findings=len(record.findings) if findings else 0,
        broken_rules=len(record.broken_rules) if broken else 0,
        findings_left_out=record.findings_left_out + (0 if findings else len(record.findings)),
        outputs_at=outputs_at,
        entities_at=entities_at,
        findings_at=findings_at,
        broken_rules_at=findings_at + len(findings),
        is_cut=is_cut,
    )


def _cut(record: Record, lists: tuple[bytes, bytes, bytes], capacity: int) -> Body:
    """The same with what has no room left out, in the order that the format says."""
    entities, findings, broken = lists
    left = capacity - sum(_HEADS[len(tensor.shape)].size for tensor in (*record.inputs, *record.outputs))
    has_tensors = left >= 0
    if not has_tensors:
        left = capacity

    def take(size: int) -> bool:
        nonlocal left
        if size > left:
            return False
        left -= size
        return True

    def fit(tensors: Sequence[Tensor]) -> bytes:
        kept = []
        for tensor in tensors:
            is_kept = take(len(tensor.data) + len(_PADDING[len(tensor.data) & 7]))
            kept.append(tensor if is_kept else tensor._replace(data=b"", is_cut=True))
        return _tensors(kept)

    broken = broken if take(len(broken)) else b""
    findings = findings if take(len(findings)) else b""
    outputs = fit(record.outputs) if has_tensors else b""
    inputs = fit(record.inputs) if has_tensors else b""
    entities = entities if take(len(entities)) else b""
    return _body(record, inputs, outputs, (entities, findings, broken), is_cut=True)


def _read_tensors(data: bytes, count: int) -> tuple[Tensor, ...]:
    tensors, at = [], 0
    for _ in range(count):
        size, datatype, rank, cut = _TENSOR.unpack_from(data, at)
        dimensions = struct.unpack_from(f"<{rank}q", data, at + _TENSOR.size)
        at += _TENSOR.size + 8 * rank
        if not 1 <= datatype <= len(layout.DATATYPES) or size > len(data) - at:
            raise Damage("a tensor has no such datatype or size")
        tensors.append(Tensor(datatype, dimensions, data[at : at + size], cut == _CUT_TENSOR))
        at += size + -size % 8
    if at != len(data):
        raise Damage("tensors do not fill their part")
    return tuple(tensors)


def _read_list(data: bytes, count: int, head: struct.Struct) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    at = 0
    for _ in range(count):
        *fields, size = head.unpack_from(data, at)
        at += head.size
        if size > len(data) - at:
            raise Damage("an item is longer than its part")
        yield tuple(fields), data[at : at + size]
        at += size
    if at + -at % 8 != len(data):
        raise Damage("items do not fill their part")
