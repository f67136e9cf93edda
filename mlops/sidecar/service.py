"""The Outcomes service: checks what is reported, stores it, and acknowledges what is on disk."""

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from mlops.prediction_log.index import LogIndex
from mlops.prediction_log.outcomes import PNL, OutcomeStore, ReportedOutcome
from tickserve.listening.connections import DEFAULT_BOUNDS
from tickserve.listening.listeners import Listeners, Tls
from tickserve.listening.tls import Certificates
from tickserve.v1 import outcomes_pb2 as pb

_log = structlog.get_logger()
MAX_OUTCOMES = 10_000
_MAX_ID_BYTES = 64
_MAX_NAME_BYTES = 256
#: Clocks of reporter and sidecar may be this far apart.
_AHEAD_NS = 300 * 10**9
_MAX_NS = (1 << 63) - 1
_THREADS = 4
#: 10,000 outcomes with every text at its bound.
_MAX_MESSAGE_BYTES = 16 << 20


class RefusedError(Exception):
    """A batch that cannot be taken as it is; nothing of it was stored."""


class OutcomesService:
    """Takes batches of outcomes; any thread.

    Parameters
    ----------
    late_s : float
        An outcome that was known for longer than this before it was reported counts as late.
    """

    def __init__(
        self, store: OutcomeStore, index: LogIndex, late_s: float, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._store = store
        self._index = index
        self._late_ns = int(late_s * 1e9)
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._counts = {"accepted": 0, "duplicate": 0, "unknown": 0, "late": 0}

    @property
    def counts(self) -> dict[str, int]:
        """Outcomes since the start: `accepted` were stored; of those, `unknown` and `late`; `duplicate` were not."""
        with self._lock:
            return dict(self._counts)

    def report(self, request: pb.ReportRequest) -> pb.ReportResponse:
        """Stores a batch and says how many of it were what. Raises RefusedError, sqlite3.Error."""
        now_ns = self._now_ns()
        outcomes = parse(request, now_ns)
        stored = self._store.add(outcomes)
        new = [ReportedOutcome(*each[:9]) for each in stored]
        is_known = self._index.known(new)
        unknown = sum(not known and each.horizon != PNL for each, known in zip(new, is_known, strict=True))
        late = sum(now_ns - each.available_at_ns > self._late_ns for each in new)
        with self._lock:
            self._counts["accepted"] += len(new)
            self._counts["duplicate"] += len(outcomes) - len(new)
            self._counts["unknown"] += unknown
            self._counts["late"] += late
        return pb.ReportResponse(accepted=len(new), duplicate=len(outcomes) - len(new), unknown=unknown)


def parse(request: pb.ReportRequest, now_ns: int) -> list[ReportedOutcome]:
    """The outcomes of a request. Raises RefusedError naming the first that cannot be."""
    if len(request.outcomes) > MAX_OUTCOMES:
        raise RefusedError(f"{len(request.outcomes)} outcomes are more than {MAX_OUTCOMES} a batch; send several")
    return [_parse(f"outcomes[{number}]", each, now_ns) for number, each in enumerate(request.outcomes)]


def _parse(place: str, outcome: pb.Outcome, now_ns: int) -> ReportedOutcome:
    _check_text(f"{place}.outcome_id", outcome.outcome_id, _MAX_ID_BYTES)
    _check_text(f"{place}.horizon", outcome.horizon, _MAX_ID_BYTES)
    if not math.isfinite(outcome.value):
        raise RefusedError(f"{place}.value is {outcome.value}, it must be finite")
    available_at_ns = outcome.available_at_unix_ns
    if not 0 < available_at_ns <= _MAX_NS or available_at_ns > now_ns + _AHEAD_NS:
        raise RefusedError(
            f"{place}.available_at_unix_ns is {available_at_ns}, it must be after 1970 and not in the future"
        )
    request_id, row, model, entity, event_time_ns = "", 0, "", "", 0
    match outcome.WhichOneof("prediction"):
        case "request_row":
            request_id, row = outcome.request_row.request_id, outcome.request_row.row
            _check_text(f"{place}.request_row.request_id", request_id, _MAX_ID_BYTES)
        case "entity_time":
            named = outcome.entity_time
            model, entity, event_time_ns = named.model, named.entity, named.event_time_unix_ns
            _check_text(f"{place}.entity_time.model", model, _MAX_NAME_BYTES)
            _check_text(f"{place}.entity_time.entity", entity, _MAX_NAME_BYTES)
            if not 0 < event_time_ns <= _MAX_NS:
                raise RefusedError(f"{place}.entity_time.event_time_unix_ns is {event_time_ns}, it must be after 1970")
        case _:
            raise RefusedError(f"{place} names no prediction: give request_row or entity_time")
    return ReportedOutcome(
        outcome.outcome_id,
        request_id,
        row,
        model,
        entity,
        event_time_ns,
        outcome.horizon,
        outcome.value,
        available_at_ns,
    )


def _check_text(place: str, text: str, max_bytes: int) -> None:
    size = len(text.encode())
    if not 1 <= size <= max_bytes:
        raise RefusedError(f"{place} has {size} bytes, it must have 1 to {max_bytes}")


class OutcomesServer:
    """The listener of the service, on TCP or a Unix socket; with certificates TCP is TLS."""

    def __init__(
        self,
        addresses: Sequence[str],
        service: OutcomesService,
        *,
        socket_mode: int,
        certificates: Certificates | None,
    ) -> None:
        tls = None if certificates is None else Tls(certificates, lambda identity: identity.client_ca)
        listeners = Listeners("listen", addresses, DEFAULT_BOUNDS, socket_mode, tls)
        options = [*listeners.options(), ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)]
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="outcomes"),
            options=options,
            maximum_concurrent_rpcs=4 * _THREADS,
        )
        handlers = {"Report": grpc.unary_unary_rpc_method_handler(_handler(service))}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("tickserve.v1.Outcomes", handlers),)
        )
        #: Where it listens, with the ports that were chosen where 0 was asked.
        self.addresses = listeners.open(self._server)

    def start(self) -> None:
        """Starts to answer."""
        self._server.start()

    def stop(self) -> None:
        """Answers what is in flight, and closes the listener."""
        self._server.stop(grace=5.0).wait()


def _handler(service: OutcomesService) -> Callable[[bytes, grpc.ServicerContext], Any]:
    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            # Here and not in grpc, which answers INTERNAL to bytes that are no message.
            return service.report(pb.ReportRequest.FromString(data)).SerializeToString()
        except DecodeError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is no tickserve.v1.ReportRequest")
        except RefusedError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except sqlite3.Error as error:
            _log.error("outcomes_not_stored", error=str(error))
            context.abort(
                grpc.StatusCode.UNAVAILABLE, f"the outcomes cannot be stored now: {error}; send the batch again"
            )
        raise AssertionError("abort raises")

    return handle
