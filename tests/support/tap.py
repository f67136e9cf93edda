"""Rings in a folder of the test's own, and records as JSON: what the shared vectors hold."""

from pathlib import Path
from typing import Any

import numpy as np

from mlops.tap import layout
from mlops.tap.files import allocate
from mlops.tap.record import BrokenRule, Finding, Record, Tensor
from mlops.tap.ring import Shape, create_ring

BOOT = bytes(range(16))
TEXTS = ("request_id", "routing_key")


def new_ring(folder: Path, *, slot_bytes: int = 384, slots: int = 8, max_parts: int = 4) -> Path:
    """An empty ring."""
    path = folder / "ring-0"
    create_ring(path, Shape(slot_bytes, slots, max_parts), BOOT, 0, 1)
    return path


def given_ring(path: Path, ring: dict[str, Any]) -> Path:
    """The empty ring that a vector describes."""
    header = layout.RING_HEADER.pack(
        layout.RING_MAGIC,
        layout.FORMAT,
        layout.HEADER_BYTES,
        bytes.fromhex(ring["boot"]),
        ring["ring"],
        ring["rings"],
        ring["slot_bytes"],
        ring["max_parts"],
        ring["slots"],
        ring["pid"],
        ring["created"],
    )
    allocate(path, layout.HEADER_BYTES + ring["slots"] * ring["slot_bytes"], header)
    return path


def record(**fields: Any) -> Record:
    """A record of one row that was answered, but for these fields."""
    usual: dict[str, Any] = {
        "time_unix_ns": 1_700_000_000_000_000_001,
        "event_time_unix_ns": 0,
        "plan_generation": 3,
        "split_generation": 2,
        "durations_ns": (1, 2, 3, 4, 5, 6),
        "version": 0,
        "rows": 1,
        "status": 0,
        "reason": 0,
        "role": 1,
        "why": 1,
        "key_bucket": 7,
        "flags": 7,
        "request_id": b"request",
        "routing_key": b"",
    }
    return Record(**(usual | fields))


def floats(*values: float) -> Tensor:
    """One row of FP32."""
    return Tensor(layout.DATATYPE_NUMBER["FP32"], (1, len(values)), np.array(values, "<f4").tobytes())


def to_json(item: Record) -> dict[str, Any]:
    """A record as the vectors hold it: bytes as hex, ids as text, datatypes and policies by name."""
    fields = item._asdict()
    fields |= {name: fields[name].decode() for name in TEXTS}
    fields["durations_ns"] = list(item.durations_ns)
    fields["trace_id"] = item.trace_id.hex()
    for name in ("inputs", "outputs"):
        fields[name] = [
            {
                "datatype": layout.DATATYPES[each.datatype - 1],
                "shape": list(each.shape),
                "data": each.data.hex(),
                "is_cut": each.is_cut,
            }
            for each in fields[name]
        ]
    fields["entities"] = [each.decode() for each in item.entities]
    fields["findings"] = [each._asdict() for each in item.findings]
    fields["broken_rules"] = [
        {"rule": each.rule, "policy": layout.POLICIES[each.policy - 1], "times": each.times}
        for each in item.broken_rules
    ]
    return fields


def from_json(fields: dict[str, Any]) -> Record:
    """The other way round."""
    fields = fields | {name: fields[name].encode() for name in TEXTS}
    fields["durations_ns"] = tuple(fields["durations_ns"])
    fields["trace_id"] = bytes.fromhex(fields["trace_id"])
    for name in ("inputs", "outputs"):
        fields[name] = tuple(
            Tensor(
                layout.DATATYPE_NUMBER[each["datatype"]],
                tuple(each["shape"]),
                bytes.fromhex(each["data"]),
                each["is_cut"],
            )
            for each in fields[name]
        )
    fields["entities"] = tuple(each.encode() for each in fields["entities"])
    fields["findings"] = tuple(Finding(**each) for each in fields["findings"])
    fields["broken_rules"] = tuple(
        BrokenRule(each["rule"], layout.POLICY_NUMBER[each["policy"]], each["times"]) for each in fields["broken_rules"]
    )
    return Record(**fields)
