"""One case: what is sent, as bytes, to what is installed, and everything that must come of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from server.engine import texts
from server.engine.texts import Text
from tests.conformance.served import Served
from tickserve.errors import Code

TIMEOUT_S = 60.0
#: Stands in a text for a figure that time decides.
VARIES = "<varies>"
#: Counted once for each internal error, with a traceback for the log.
FAULTS = "faults"
#: What the engine counts, by (who: "model/version role", "model", or "" for nobody known; what).
Counts = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Reply:
    """One message of the server. The fields in `varies`, wherever they are in it, must be set, to whatever value."""

    message: Message
    varies: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Expected:
    """What comes of a call: the replies in order, the status with its trailers, and what is counted.

    `text` is None where gRPC itself words the refusal. `table` holds the entries of the table of texts that are met.
    """

    replies: tuple[Reply, ...] = ()
    status: str = "OK"
    text: str | None = ""
    reason: str = ""
    executed: str = ""
    field: str = ""
    counts: Counts = dataclasses.field(default_factory=dict)
    table: tuple[Text, ...] = ()


@dataclass(frozen=True)
class Case:
    """Messages to one method of one server. A unary call is a stream of one message."""

    name: str
    served: Served
    method: str
    messages: tuple[bytes, ...]
    expected: Expected
    metadata: tuple[tuple[str, str], ...] = ()
    timeout_s: float = TIMEOUT_S
    compression: grpc.Compression = grpc.Compression.NoCompression

    def __str__(self) -> str:
        return f"{self.method.rpartition('/')[2]}: {self.name}"


def told(message: Message, *table: Text) -> Expected:
    """One message, with these texts in it, and nothing counted."""
    return Expected(replies=(Reply(message),), table=table)


def refused(text: Text, *, by: str = "echo/1 stable", at: str = "", also: Sequence[str] = (), **facts: Any) -> Expected:
    """A refusal of the table with these facts, about the field `at`.

    It is counted once by its reason, where it has one: on the version `by`, or on a model or nobody ("") where it
    reached no version. `also` names what else is counted there.
    """
    error = text.error(at=at, **facts)
    counts = {(by, what): 1 for what in (text.reason, *also) if what}
    if text is texts.INTERNAL:
        counts["", FAULTS] = 1
    return Expected(
        status=error.code.name,
        text=error.message,
        reason=text.reason or "",
        executed="1" if text.executed else "0",
        field=error.field,
        counts=counts,
        table=(text,),
    )


def refused_by_grpc(code: Code) -> Expected:
    """A status that gRPC itself makes: engines agree in its code only."""
    return Expected(status=code.name, text=None)
