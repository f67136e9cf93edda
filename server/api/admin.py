"""The admin listener: Control over gRPC on threads of its own, the same for every engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from server.api.control import ControlService
from server.connections import DEFAULT_BOUNDS, ConnectionBounds
from server.engine import texts
from server.engine.listeners import Listeners, Tls
from server.engine.status import grpc_status
from server.tls import Certificates
from tickserve.errors import TickserveError
from tickserve.v1 import control_pb2 as pb

_log = structlog.get_logger()
#: A call holds one while its message is awaited, so a few idle ones must not keep an operator out.
_THREADS = 16
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
        *,
        connections: ConnectionBounds = DEFAULT_BOUNDS,
        certificates: Certificates | None = None,
    ) -> None:
        self.address = address
        self._control = control
        tls = None
        if certificates is not None and certificates.current.admin_client_ca is not None:
            tls = Tls(certificates, lambda identity: identity.admin_client_ca)
        self._listeners = Listeners("admin", [address], connections, _SOCKET_MODE, tls)
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="admin"), options=self._listeners.options()
        )

    def start(self) -> None:
        """Opens the listener. Raises ConfigurationError where it cannot be bound or another server holds it."""
        self._server.add_generic_rpc_handlers((self._handlers(),))
        (self.address,) = self._listeners.open(self._server)
        self._server.start()

    def stop(self) -> None:
        """Closes the listener."""
        self._server.stop(grace=1.0).wait()

    def _handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        control = self._control
        calls = {
            "Status": _handler(pb.StatusRequest, control.status),
            "Halt": _handler(pb.HaltRequest, control.halt),
            "Resume": _handler(pb.ResumeRequest, control.resume),
            "Counters": _handler(pb.CountersRequest, control.counters),
            "Drain": _handler(pb.DrainRequest, control.drain),
        }
        return grpc.method_handlers_generic_handler("tickserve.v1.Control", calls)


def _handler(request_type: type[_Request], answer: Callable[[_Request], Message]) -> grpc.RpcMethodHandler[Any, Any]:
    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
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
        context.abort(grpc_status(refusal), refusal.message)
        raise AssertionError("abort does not return")

    return grpc.unary_unary_rpc_method_handler(handle)
