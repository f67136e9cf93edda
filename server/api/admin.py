"""The admin listener: Control and the repository calls of OIP on threads of its own, the same for every engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from server.api.control import ControlService
from server.api.repository import RepositoryService
from server.engine import texts
from server.engine.status import grpc_status
from tickserve.errors import TickserveError
from tickserve.listening.connections import DEFAULT_BOUNDS, ConnectionBounds
from tickserve.listening.listeners import Listeners, Tls
from tickserve.listening.tls import Certificates
from tickserve.v1 import control_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

_log = structlog.get_logger()
#: A call holds one while its message is awaited, so a few idle ones must not keep an operator out.
_THREADS = 24
#: Of them, those that may follow events.
_STREAMS = 8
_SOCKET_MODE = 0o600
_Request = TypeVar("_Request", bound=Message)


class AdminServer:
    """Serves Control on one address until stopped. A Unix socket is for its owner alone.

    With `certificates` that name who vouches for operators, a TCP listener asks for an operator's certificate.
    """

    def __init__(
        self,
        address: str,
        control: ControlService,
        repository: RepositoryService,
        *,
        connections: ConnectionBounds = DEFAULT_BOUNDS,
        certificates: Certificates | None = None,
    ) -> None:
        self.address = address
        self._control = control
        self._repository_service = repository
        self._streams = threading.BoundedSemaphore(_STREAMS)
        tls = None
        if certificates is not None and certificates.current.admin_client_ca is not None:
            tls = Tls(certificates, lambda identity: identity.admin_client_ca)
        self._listeners = Listeners("admin", [address], connections, _SOCKET_MODE, tls)
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="admin"), options=self._listeners.options()
        )

    def start(self) -> None:
        """Opens the listener. Raises ConfigurationError where it cannot be bound or another server holds it."""
        self._server.add_generic_rpc_handlers((self._handlers(), self._repository()))
        (self.address,) = self._listeners.open(self._server)
        self._server.start()

    def stop(self) -> None:
        """Closes the listener."""
        self._server.stop(grace=1.0).wait()

    def _handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        control = self._control
        calls = {
            "Status": _handler(pb.StatusRequest, control.status),
            "SetDesired": _handler(pb.SetDesiredRequest, control.set_desired),
            "Rollback": _handler(pb.RollbackRequest, control.rollback),
            "Follow": _handler(pb.FollowRequest, control.follow),
            "Halt": _handler(pb.HaltRequest, control.halt),
            "Resume": _handler(pb.ResumeRequest, control.resume),
            "Counters": _handler(pb.CountersRequest, control.counters),
            "Drain": _handler(pb.DrainRequest, control.drain),
            "Events": self._events(),
        }
        return grpc.method_handlers_generic_handler("tickserve.v1.Control", calls)

    def _repository(self) -> grpc.GenericRpcHandler[Any, Any]:
        return grpc.method_handlers_generic_handler(
            "inference.GRPCInferenceService",
            {
                "RepositoryModelLoad": _peer_handler(oip.RepositoryModelLoadRequest, self._repository_service.load),
                "RepositoryModelUnload": _peer_handler(
                    oip.RepositoryModelUnloadRequest, self._repository_service.unload
                ),
            },
        )

    def _events(self) -> grpc.RpcMethodHandler[Any, Any]:
        def stream(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            # Streams hold a thread each for as long as they last; a few are let in, and the calls keep theirs.
            if not self._streams.acquire(blocking=False):
                context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_STREAMS} event streams are open, more are not served"
                )
            try:
                try:
                    request = pb.EventsRequest.FromString(data)
                except DecodeError:
                    _refuse(texts.MALFORMED.error(message="EventsRequest"), context)
                    return
                try:
                    for event in self._control.events(request, context.is_active):
                        yield event.SerializeToString()
                except TickserveError as error:
                    _refuse(error, context)
            finally:
                self._streams.release()

        return grpc.unary_stream_rpc_method_handler(stream)


def _peer_handler(
    request_type: type[_Request], answer: Callable[[_Request, str], Message]
) -> grpc.RpcMethodHandler[Any, Any]:
    """For calls whose message does not say who asks."""

    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        subjects = context.auth_context().get("x509_subject", ())
        subject = b"".join(bytes(part) for part in subjects if not isinstance(part, int))
        actor = texts.bounded(subject.decode(errors="replace") or str(context.peer()), 100)
        return _answered(request_type, lambda request: answer(request, actor), data, context)

    return grpc.unary_unary_rpc_method_handler(handle)


def _handler(request_type: type[_Request], answer: Callable[[_Request], Message]) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(lambda data, context: _answered(request_type, answer, data, context))


def _answered(
    request_type: type[_Request],
    answer: Callable[[_Request], Message],
    data: bytes,
    context: grpc.ServicerContext,
) -> bytes:
    refusal: TickserveError
    try:
        # Here and not in grpc, which answers INTERNAL to bytes that are no message.
        return answer(request_type.FromString(data)).SerializeToString()
    except DecodeError:
        refusal = texts.MALFORMED.error(message=request_type.DESCRIPTOR.name)
    except TickserveError as error:
        refusal = error
    except Exception:  # noqa: BLE001 - an operator gets a status, the log the traceback
        _log.exception("control_call_failed")
        refusal = texts.INTERNAL.error()
    _refuse(refusal, context)
    raise AssertionError("abort does not return")


def _refuse(refusal: TickserveError, context: grpc.ServicerContext) -> None:
    # Always, also where it names nothing: it tells a refusal of ours from what gRPC says where nobody answers.
    context.set_trailing_metadata((("tickserve-field", quote(refusal.field)),))
    context.abort(grpc_status(refusal), texts.bounded(refusal.message))
