"""Where everything lies in the files of the tap: docs/formats/tap.md as data."""

import struct
from enum import IntEnum, IntFlag

import numpy as np

FORMAT = 1
HEADER_BYTES = 4096
RING_MAGIC = b"TSTAPRNG"
PAGE_MAGIC = b"TSTAPCNT"

#: magic, format, header bytes, boot id, ring, rings, slot bytes, max parts, slots, producer's pid, created.
RING_HEADER = struct.Struct("<8sII16sIIIIQQq")
#: Words of 8 bytes in a ring's header, by their index: of the producer, then of the consumer.
HEAD, NEXT_SEQUENCE, DROPPED, CUT = 16, 17, 18, 19
TAIL, TAIL_SEQUENCE, CONSUMER_PID = 32, 33, 34

#: What every slot begins with: sequence, part, parts, size of the payload.
PART = struct.Struct("<QHHI")
#: The first slot of a record, up to its payload.
FIXED = struct.Struct("<QHHIqqQQ6QII7Bx5H2x6I12x16s64s64s")
PAYLOAD_AT = FIXED.size
ID_BYTES = 64
TRACE_BYTES = 16
NO_TRACE = bytes(TRACE_BYTES)
SLOT_ALIGNMENT = 64

#: magic, format, header bytes, boot id, blocks, writers, block bytes, producer's pid, created.
PAGE_HEADER = struct.Struct("<8sII16sIIIxxxxQq")
#: Words in the page's header.
UNPLACED, FINAL = 16, 32
BLOCK_HEADER_BYTES = 128
#: version, role, state, budget, edge, allotted, left; after the epoch.
BLOCK_HEADER = struct.Struct("<IBBxxQQqq")
BUCKETS = 256
COLUMNS = 8
WRITER_BYTES = BUCKETS * COLUMNS * 8
REQUESTS, ERRORS, FAILURES, VIOLATIONS, OUTPUT_VIOLATIONS, OVER_BUDGET, OVER_EDGE, RUN_OVER_EDGE = range(COLUMNS)
#: Blocks of requests that clients had answers to.
STABLE_ROLE, CANARY_ROLE = 1, 2
#: Blocks of copied requests: what the shadow made of them, and what the version that answered them had made of them.
SHADOW_ROLE, COMPARED_ROLE = 3, 6

#: Numbers of datatypes, from 1.
DATATYPES = (
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
)
DATATYPE_NUMBER = {name: number for number, name in enumerate(DATATYPES, 1)}
POLICIES = ("reject", "clip", "flag", "fallback")
POLICY_NUMBER = {name: number for number, name in enumerate(POLICIES, 1)}


class Flag(IntFlag):
    """What is true of a record."""

    EXECUTED = 1
    READ = 2
    RAN = 4
    CUT = 8
    DRAWN = 16


class Why(IntEnum):
    """Why a version got a request."""

    SPLIT = 1
    PIN = 2
    FALLBACK = 3
    SHADOW = 4
    SMOKE = 5


class State(IntEnum):
    """Who has a block of counters."""

    FREE = 0
    PLANNED = 1
    LEFT = 2


def slot_dtype(slot_bytes: int) -> np.dtype[np.void]:
    """One slot of a ring as NumPy sees it: the fields of a record's first slot, by the names of `Record`."""
    return np.dtype(
        [
            ("sequence", "<u8"),
            ("part", "<u2"),
            ("parts", "<u2"),
            ("size", "<u4"),
            ("time_unix_ns", "<i8"),
            ("event_time_unix_ns", "<i8"),
            ("plan_generation", "<u8"),
            ("split_generation", "<u8"),
            ("durations_ns", "<u8", (6,)),
            ("version", "<u4"),
            ("rows", "<u4"),
            ("status", "u1"),
            ("reason", "u1"),
            ("role", "u1"),
            ("why", "u1"),
            ("key_bucket", "u1"),
            ("request_id_bytes", "u1"),
            ("routing_key_bytes", "u1"),
            ("_zero_1", "V1"),
            ("flags", "<u2"),
            ("inputs", "<u2"),
            ("outputs", "<u2"),
            ("findings", "<u2"),
            ("broken_rules", "<u2"),
            ("_zero_2", "V2"),
            ("entities", "<u4"),
            ("findings_left_out", "<u4"),
            ("outputs_at", "<u4"),
            ("entities_at", "<u4"),
            ("findings_at", "<u4"),
            ("broken_rules_at", "<u4"),
            ("_zero_3", "V12"),
            ("trace_id", f"V{TRACE_BYTES}"),
            ("request_id", f"S{ID_BYTES}"),
            ("routing_key", f"S{ID_BYTES}"),
            ("payload", "u1", (slot_bytes - PAYLOAD_AT,)),
        ]
    )


def slot_bytes_for(payload_bytes: int) -> int:
    """The size of a slot that takes records of `payload_bytes` whole, where that is not too large: 384 to 4096."""
    wanted = -(-(PAYLOAD_AT + payload_bytes) // SLOT_ALIGNMENT) * SLOT_ALIGNMENT
    return min(max(wanted, 384), 4096)


def capacity(slot_bytes: int, max_parts: int) -> int:
    """The largest payload that a record may have."""
    return slot_bytes - PAYLOAD_AT + (max_parts - 1) * (slot_bytes - PART.size)


def parts_for(size: int, slot_bytes: int) -> int:
    """How many slots a payload of this size takes."""
    beyond = size - (slot_bytes - PAYLOAD_AT)
    return 1 if beyond <= 0 else 1 + -(-beyond // (slot_bytes - PART.size))
