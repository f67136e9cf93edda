"""The tap of the python engine: what its threads record and count of each request that they have seen to its end."""

import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mlops.routing import key_bucket
from mlops.tap import BrokenRule, Finding, Flag, Form, Record, RingWriter, Tallier, Tensor, Why
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
from mlops.tap.record import encode_entities
from server.engine.python.call import Asked, Call
from server.engine.python.job import Job
from server.engine.python.rules import Array, Findings
from server.engine.python.serving import Serving, Tapped
from server.plan import Role
from server.tap import Tap
from tickserve.errors import Code, Reason, TickserveError

_REASON_NUMBER = {reason: number for number, reason in enumerate(Reason, 1)}
_KIND_NUMBER = {kind: number for number, kind in enumerate(("CLIPPED", "FLAGGED", "FALLBACK", "STALE", "DEFAULTED"), 1)}
#: The client's own: everything else that is refused after routing is a failure.
_NOT_FAILURES = (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION)
_NO_DURATIONS: tuple[int, ...] = (0,) * 6
_EXECUTED, _READ, _RAN, _DRAWN = Flag.EXECUTED.value, Flag.READ.value, Flag.RAN.value, Flag.DRAWN.value
_ANSWERED = _EXECUTED | _READ | _RAN
_BYTES = DATATYPE_NUMBER["BYTES"]
_SPLIT, _PIN = Why.SPLIT.value, Why.PIN.value
#: In these roles a version is not what the request was routed to.
_WHY = {Role.FALLBACK: Why.FALLBACK.value, Role.SHADOW: Why.SHADOW.value}
_MIN_I64, _MAX_I64 = -(1 << 63), (1 << 63) - 1


class Recorder:
    """Writes to one ring, and to its rows of the counters page. On one thread only.

    Parameters
    ----------
    producer : int
        Which of the tap's: 0 is the engine's own thread, 1 that of shadows.
    """

    def __init__(self, tap: Tap, producer: int) -> None:
        self._ring = RingWriter(tap.rings[producer])
        self._counts = Tallier(Page(tap.counters), producer)

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
        bucket = _bucket(serving, asked, drawn_id)
        if tapped.block is not None and not asked.is_pinned:
            times = () if refusal is not None else _latency(serving, tapped.latency_edge_ns, job)
            self._counts.count(tapped.block, bucket, (*outcome(job, refusal), *times))
        self._write(tapped, bucket, serving, asked, drawn_id, job, wait_ns, refusal)

    def record_copy(
        self,
        compared: int | None,
        live_columns: Sequence[int],
        shadow: Serving,
        columns: Sequence[int],
        asked: Asked,
        drawn_id: str,
        job: Job[Any, Any] | None,
        wait_ns: int,
        refusal: TickserveError | None,
    ) -> None:
        """Records what a shadow made of a copy, and counts that beside what the version made of it that answered.

        The latter in block `compared` and in these columns.
        """
        if shadow.tapped is None:
            return
        bucket, block = _bucket(shadow, asked, drawn_id), shadow.tapped.block
        if compared is not None and block is not None:
            # Both or none, so that they are counts of the same requests.
            self._counts.count(compared, bucket, live_columns)
            self._counts.count(block, bucket, columns)
        self._write(shadow.tapped, bucket, shadow, asked, drawn_id, job, wait_ns, refusal)

    def _write(
        self,
        tapped: Tapped,
        bucket: int,
        serving: Serving,
        asked: Asked,
        drawn_id: str,
        job: Job[Any, Any] | None,
        wait_ns: int,
        refusal: TickserveError | None,
    ) -> None:
        own_id, routing_key, is_pinned, entities = asked
        flags = 0 if own_id else _DRAWN
        request_id = (own_id or drawn_id).encode()
        call = outputs = None
        rows, durations = 0, _NO_DURATIONS
        if job is not None:
            call, outputs, rows = job.call, job.outputs, job.shape.rows
        why = _WHY.get(serving.role) or (_PIN if is_pinned else _SPLIT)
        if (
            refusal is None
            and job is not None
            and tapped.form is not None
            and self._write_usual(tapped.form, job, wait_ns, why, bucket, flags, request_id, routing_key, entities)
        ):
            return
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
                why,
                bucket,
                flags,
                request_id,
                routing_key.encode(),
                given,
                gave,
                [entity.encode() for entity in entities] if call is not None and entities else (),
                _findings(findings) if findings.kept else (),
                _broken_rules(findings) if findings.violations else (),
                findings.left_out,
            )
        )

    def _write_usual(
        self,
        form: Form,
        job: Job[Any, Any],
        wait_ns: int,
        why: int,
        bucket: int,
        flags: int,
        request_id: bytes,
        routing_key: str,
        entities: Sequence[str],
    ) -> bool:
        """Writes the record of an answer to one row where it is nothing but that; says whether it is."""
        call, bound = job.call, job.serving.runtime.session.bound_outputs
        # Only the bound buffers have the form's shapes and datatypes for sure.
        if call is None or bound is None or job.outputs is not bound:
            return False
        findings, event_time = call.findings, call.event_time_unix_ns
        if findings.kept or findings.violations or not _MIN_I64 <= event_time <= _MAX_I64:
            return False
        names = encode_entities([entity.encode() for entity in entities]) if entities else b""
        if form.payload_bytes + len(names) > self._ring.room:
            return False
        self._ring.write_usual(
            form,
            time.time_ns(),
            event_time,
            wait_ns,
            job.durations,
            why,
            bucket,
            flags | _ANSWERED,
            request_id,
            routing_key.encode(),
            (*call.arrays, *bound),
            names,
            len(entities),
        )
        return True


_NOTHING_FOUND = Findings()


def outcome(job: Job[Any, Any] | None, refusal: TickserveError | None) -> tuple[int, ...]:
    """What a request counts in beside that it was one, its time left out."""
    columns: tuple[int, ...] = ()
    if refusal is not None:
        columns = (ERRORS,) if refusal.code in _NOT_FAILURES else (ERRORS, FAILURES)
    if job is not None and job.call is not None and job.call.findings.violations:
        columns += (VIOLATIONS, OUTPUT_VIOLATIONS) if job.has_broken_output else (VIOLATIONS,)
    return columns


def _latency(serving: Serving, edge_ns: int, job: Job[Any, Any] | None) -> Iterator[int]:
    if job is None:
        return
    budget_us = serving.version.limits.latency_budget_us
    if budget_us and job.total_ns > budget_us * 1000:
        yield OVER_BUDGET
    if edge_ns and job.total_ns > edge_ns:
        yield OVER_EDGE


def _bucket(serving: Serving, asked: Asked, drawn_id: str) -> int:
    key = asked.routing_key or asked.request_id or drawn_id
    return key_bucket(serving.model.split.salt, key.encode())


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
