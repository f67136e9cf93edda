"""One call over a real socket, bytes in and bytes out: any method, as a stream of messages."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import grpc

from server.engine.base import Counters
from tests.conformance.case import FAULTS, Case


@dataclass(frozen=True)
class Exchange:
    """What a client saw of one call."""

    replies: tuple[bytes, ...]
    status: str
    text: str
    reason: str
    executed: str
    field: str


def exchange(channel: grpc.Channel, case: Case) -> Exchange:
    """Sends the case's messages, half-closes and reads to the end."""
    call = channel.stream_stream(case.method)(
        iter(case.messages), timeout=case.timeout_s, metadata=case.metadata, compression=case.compression
    )
    replies = []
    try:
        for reply in call:
            replies.append(bytes(reply))  # noqa: PERF401 - what came before an error counts
    except grpc.RpcError:
        pass
    trailers = dict(call.trailing_metadata() or ())
    return Exchange(
        tuple(replies),
        call.code().name,
        call.details() or "",
        trailers.get("tickserve-reason", ""),
        trailers.get("tickserve-executed", ""),
        unquote(trailers.get("tickserve-field", "")),
    )


def flat_counts(counters: Counters) -> Mapping[tuple[str, str], int]:
    """Everything counted, as cases name it."""
    found: dict[tuple[str, str], int] = {("", FAULTS): counters.faults}
    found.update(counters.refused)
    for each in counters.versions:
        who = f"{each.model}/{each.version} {each.role.label}"
        found |= {(who, "answered"): each.answered, (who, "rows"): each.rows}
        found |= {(who, reason): count for reason, count in each.errors.items()}
        found |= {(who, f"{rule} {policy}"): count for (rule, policy), count in each.rule_violations.items()}
    return found
