"""The admin listener: Control over gRPC on threads of its own, the same for every engine."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from server.api.control import ControlService
from tickserve.errors import ConfigurationError, TickserveError
from tickserve.v1 import control_pb2 as pb

_log = structlog.get_logger()
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_Request = TypeVar("_Request", bound=Message)


class AdminServer:
    """Serves Control on one address until stopped. A Unix socket is for its owner alone."""

    def __init__(self, address: str, control: ControlService) -> None:
        self.address = address
        self._control = control
        self._server = grpc.server(ThreadPoolExecutor(2, thread_name_prefix="admin"))

    def start(self) -> None:
        """Opens the listener. Raises ConfigurationError where it cannot be bound or another server holds it."""
        self._server.add_generic_rpc_handlers((self._handlers(),))
        socket_path = Path(self.address.removeprefix("unix:")) if self.address.startswith("unix:") else None
        if socket_path is not None:
            _make_way(socket_path)
        try:
            port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise ConfigurationError(f"admin: cannot listen on {self.address}: {error}", field="admin") from None
        if socket_path is not None:
            socket_path.chmod(0o600)
        else:
            self.address = f"{self.address.rpartition(':')[0]}:{port}"
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
    def handle(request: _Request, context: grpc.ServicerContext) -> Message:
        try:
            return answer(request)
        except TickserveError as error:
            context.abort(_STATUS[error.code], error.message)
        except Exception:  # noqa: BLE001 - an operator gets a status, the log the traceback
            _log.exception("control_call_failed")
            context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has the details")
        raise AssertionError("abort does not return")

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=request_type.FromString,
        response_serializer=lambda reply: reply.SerializeToString(),
    )


def _make_way(path: Path) -> None:
    """Removes the socket that a killed server left behind; refuses where a server still answers there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigurationError(f"admin: {path} exists and is no socket", field="admin")
        if _answers(path):
            raise ConfigurationError(
                f"admin: another server answers on {path}; stop it, or give this one another TICKSERVE_HOME",
                field="admin",
            )
        path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
