"""What one stream has asked and not been answered yet, however its bytes travel."""

import math
from collections import deque
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote

from google.protobuf.message import DecodeError

from tickserve.client.core import Call, Outcome
from tickserve.client.failure import EXECUTED_KEY, FIELD_KEY, REASON_KEY
from tickserve.client.transport import CallError
from tickserve.errors import Code, InvalidInputError, Reason
from tickserve.v1 import prediction_pb2 as pb
from tickserve.varint import varint

DEFAULT_WINDOW = 64

# Key of a length-delimited field: number << 3 | 2.
_PREDICT_KEY = bytes([pb.PredictStreamRequest.PREDICT_FIELD_NUMBER << 3 | 2])
# Thirty years, which no server's arithmetic overflows with.
_MAX_TIMEOUT_US = 10**15
_REASON_PREFIX = "REASON_"
_CODES = frozenset(Code) - {Code.OK}
_REASONS = frozenset(pb.Reason.values())


class Ticket(Protocol):
    """Where the outcome of a request will be: a future of the caller's kind, set once and never cancelled."""

    def set_result(self, result: Outcome, /) -> None:
        """Hands the outcome over."""


_TicketT = TypeVar("_TicketT", bound=Ticket)


class Exchange(Generic[_TicketT]):
    """Numbers requests and matches answers. Not for two threads at once.

    Invariant: the server answers in order, so that the next answer is the oldest ticket's; whoever gave up waiting
    leaves its ticket here until the answer has come, so at most `window` requests are ever under way.
    """

    def __init__(self, window: int) -> None:
        if window < 1:
            raise InvalidInputError(f"window is {window}; expected at least 1 request under way", field="window")
        self._window = window
        self._sequence = 0
        self._unanswered: deque[tuple[int, _TicketT]] = deque()
        self._ended: CallError | None = None

    @property
    def is_idle(self) -> bool:
        """Whether every request has its answer."""
        return not self._unanswered

    def in_the_way(self) -> _TicketT | None:
        """The ticket to wait for before another request may go; None where one may go now."""
        return self._unanswered[0][1] if len(self._unanswered) >= self._window else None

    def ask(self, call: Call, ticket: _TicketT) -> bytes | None:
        """The message to send; None where the stream has ended, which is then the outcome."""
        if self._ended is not None:
            ticket.set_result(_not_executed(self._ended))
            return None
        self._sequence += 1
        self._unanswered.append((self._sequence, ticket))
        # The stream has no deadline of its own, and 0 would mean none.
        timeout_us = min(max(1, math.ceil(call.left_s * 1e6)), _MAX_TIMEOUT_US)
        timeout = pb.PredictRequest(timeout_us=timeout_us).SerializeToString()
        head = pb.PredictStreamRequest(sequence=self._sequence).SerializeToString()
        size = varint(len(call.request) + len(timeout))
        return b"".join((head, _PREDICT_KEY, size, call.request, timeout))

    def take(self, data: bytes) -> bool:
        """Hands an answer to whom it belongs; False where it can be no one's, which ends and breaks the stream."""
        try:
            message = pb.PredictStreamResponse.FromString(data)
        except DecodeError:
            return self._break("the server's answer is no PredictStreamResponse: its bytes do not decode")
        if not self._unanswered:
            return self._break(f"the server answered request {message.sequence} of the stream, where none was open")
        expected, ticket = self._unanswered[0]
        if message.sequence != expected:
            return self._break(
                f"the server answered request {message.sequence} of the stream, where {expected} was next"
            )
        which = message.WhichOneof("result")
        if which is None:
            return self._break(f"the server's answer to request {expected} of the stream is empty")
        self._unanswered.popleft()
        ticket.set_result(message.answer if which == "answer" else _refusal(message.error))
        return True

    def end(self, why: CallError | None) -> None:
        """Nothing more will come: `why` is the outcome of all that is unanswered; None stands for an end in good order.

        The first end counts.
        """
        if self._ended is None:
            self._ended = why or _broken("the server ended the stream")
        while self._unanswered:
            self._unanswered.popleft()[1].set_result(self._ended)

    def _break(self, message: str) -> bool:
        self.end(_broken(message))
        return False


def late() -> CallError:
    """The outcome of a request that waited for its answer until its deadline."""
    return CallError(Code.DEADLINE_EXCEEDED, "the stream goes on")


def too_late_to_send() -> CallError:
    """The outcome of a request that waited for its turn until its deadline."""
    return _not_executed(CallError(Code.DEADLINE_EXCEEDED, "too many requests of the stream wait for theirs"))


def closed() -> CallError:
    """The outcome of requests on a stream that its own side has closed."""
    return CallError(Code.CANCELLED, "the stream is closed; open a new one")


def _refusal(error: pb.Error) -> CallError:
    """The same as a unary call says in its status and trailers."""
    trailers = {
        REASON_KEY: pb.Reason.Name(error.reason).removeprefix(_REASON_PREFIX) if error.reason in _REASONS else "",
        EXECUTED_KEY: "1" if error.executed else "0",
        FIELD_KEY: quote(error.field),
    }
    return CallError(Code(error.code) if error.code in _CODES else Code.UNKNOWN, error.message, trailers=trailers)


def _broken(message: str) -> CallError:
    return CallError(Code.INTERNAL, message, trailers={REASON_KEY: Reason.INTERNAL.value})


def _not_executed(failed: CallError) -> CallError:
    trailers = {**failed.trailers, EXECUTED_KEY: "0"}
    return CallError(failed.code, failed.message, trailers=trailers, never_left=failed.never_left)
