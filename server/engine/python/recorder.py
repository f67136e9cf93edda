"""The tap of the python engine: what it records and counts of each request that it has seen to its end."""

import struct
import time
from collections.abc import Sequence
from typing import Any

from mlops.routing import key_bucket
from mlops.tap import BrokenRule, Finding, Flag, Record, RingWriter, Tallier, Tensor, Why
from mlops.tap.counters import Page
from mlops.tap.layout import (
    DATATYPE_NUMBER,
    ERRORS,
    FAILURES,
    OUTPUT_VIOLATIONS,
    OVER_BUDGET,
    OVER_EDGE,
    POLICY_NUMBER,
    VIOLATIONS,
)
from server.engine.python.call import Asked, Call
from server.engine.python.job import Job
from server.engine.python.rules import Array, Findings
from server.engine.python.serving import Serving
from server.tap import Tap
from tickserve.errors import Code, Reason, TickserveError

_REASON_NUMBER = {reason: number for number, reason in enumerate(Reason, 1)}
_KIND_NUMBER = {kind: number for number, kind in enumerate(("CLIPPED", "FLAGGED", "FALLBACK", "STALE", "DEFAULTED"), 1)}
#: The client's own: everything else that is refused after routing is a failure.
_NOT_FAILURES = (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION)
_NO_DURATIONS: tuple[int, ...] = (0,) * 6
_EXECUTED, _READ, _RAN, _DRAWN = Flag.EXECUTED.value, Flag.READ.value, Flag.RAN.value, Flag.DRAWN.value
_BYTES = DATATYPE_NUMBER["BYTES"]
_SPLIT, _PIN = Why.SPLIT.value, Why.PIN.value
_MIN_I64, _MAX_I64 = -(1 << 63), (1 << 63) - 1


class Recorder:
    """Writes to the one ring of this engine, and to its rows of the counters page. On the engine's thread only."""

    def __init__(self, tap: Tap) -> None:
        self._ring = RingWriter(tap.rings[0])
        self._counts = Tallier(Page(tap.counters), 0)

    def record(
        self,
        serving: Serving,
        asked: Asked,
        drawn_id: str,
        job: Job[Any, Any] | None,
        wait_ns: int,
        refusal: TickserveError | None,
    ) -> None:
        """Records and counts a request that reached a version; `job` is None where its shape was refused."""
        tapped = serving.tapped
        if tapped is None:
            return
        own_id, routing_key, is_pinned, entities = asked
        flags = 0 if own_id else _DRAWN
        request_id = (own_id or drawn_id).encode()
        key = routing_key.encode() if routing_key else request_id
        bucket = key_bucket(serving.model.split.salt, key)
        call = outputs = None
        rows, durations = 0, _NO_DURATIONS
        if job is not None:
            call, outputs, rows = job.call, job.outputs, job.shape.rows
        if tapped.block is not None and not is_pinned:
            self._counts.count(tapped.block, bucket, _columns(serving, tapped.latency_edge_ns, job, refusal))
        status = reason = 0
        if refusal is not None:
            status = int(refusal.code)
            reason = _REASON_NUMBER[refusal.reason] if refusal.reason is not None else 0
            if refusal.executed:
                flags |= _EXECUTED
        else:
            flags |= _EXECUTED
            if job is not None:
                durations = (wait_ns, *job.durations)
        event_time, findings, runtime = 0, _NOTHING_FOUND, serving.runtime
        given: Sequence[Tensor] = ()
        if call is not None:
            flags |= _READ
            findings, event_time = call.findings, call.event_time_unix_ns
            if not _MIN_I64 <= event_time <= _MAX_I64:
                event_time = min(max(event_time, _MIN_I64), _MAX_I64)
            given = _tensors(runtime.input_datatypes, _received(call))
        gave: Sequence[Tensor] = ()
        if outputs is not None:
            flags |= _RAN
            gave = _tensors(runtime.output_datatypes, outputs)
        self._ring.write(
            Record(
                time.time_ns(),
                event_time,
                serving.generation,
                tapped.split_generation,
                durations,
                tapped.version,
                rows,
                status,
                reason,
                serving.role,
                _PIN if is_pinned else _SPLIT,
                bucket,
                flags,
                request_id,
                key if routing_key else b"",
                given,
                gave,
                [entity.encode() for entity in entities] if call is not None and entities else (),
                _findings(findings) if findings.kept else (),
                _broken_rules(findings) if findings.violations else (),
                findings.left_out,
            )
        )


_NOTHING_FOUND = Findings()


def _columns(
    serving: Serving, edge_ns: int, job: Job[Any, Any] | None, refusal: TickserveError | None
) -> Sequence[int]:
    """What to count of a request beside that it was one."""
    columns = []
    if refusal is not None:
        columns.append(ERRORS)
        if refusal.code not in _NOT_FAILURES:
            columns.append(FAILURES)
    if job is None:
        return columns
    if job.call is not None and job.call.findings.violations:
        columns.append(VIOLATIONS)
        if job.has_broken_output:
            columns.append(OUTPUT_VIOLATIONS)
    if refusal is None:
        total_ns = sum(job.durations)
        budget_us = serving.version.limits.latency_budget_us
        if budget_us and total_ns > budget_us * 1000:
            columns.append(OVER_BUDGET)
        if edge_ns and total_ns > edge_ns:
            columns.append(OVER_EDGE)
    return columns


def _received(call: Call) -> Sequence[Array]:
    return call.arrays if call.received is None else [call.received, *call.arrays[1:]]


def _tensors(datatypes: Sequence[int], arrays: Sequence[Array]) -> list[Tensor]:
    return [
        Tensor(datatype, array.shape, _text(array) if datatype == _BYTES else array.tobytes())
        for datatype, array in zip(datatypes, arrays, strict=True)
    ]


def _text(array: Array) -> bytes:
    elements = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def _findings(findings: Findings) -> list[Finding]:
    return [Finding(_KIND_NUMBER[found.kind], found.row, found.column, found.rule) for found in findings.kept]


def _broken_rules(findings: Findings) -> list[BrokenRule]:
    return [BrokenRule(rule, POLICY_NUMBER[policy], times) for (rule, policy), times in findings.violations.items()]
