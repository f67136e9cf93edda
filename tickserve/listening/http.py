"""The operator's HTTP port: /metrics, /livez and /readyz, on threads of its own, bounded in number and time."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tickserve.address import split_host
from tickserve.errors import ConfigurationError

_log = structlog.get_logger()
#: A scraper, a few probes, and people.
_MAX_CONNECTIONS = 16
_DEADLINE_S = 10.0
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 28\r\n\r\ntoo many open connections.\r\n"


class HttpServer:
    """Serves metrics and probes until stopped.

    Parameters
    ----------
    max_connections : int
        Open connections, each of which holds a thread; further ones get 503.
    deadline_s : float
        Time of one connection from its acceptance to the last byte of the answer; it is closed then.

    Raises
    ------
    ConfigurationError
        Where the address cannot be listened on.
    """

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        is_ready: Callable[[], bool],
        *,
        max_connections: int = _MAX_CONNECTIONS,
        deadline_s: float = _DEADLINE_S,
    ) -> None:
        try:
            self._server = _Server(split_host(address), _handler(registry, is_ready), max_connections, deadline_s)
        except OSError as error:
            raise ConfigurationError(f"http: cannot listen on {address}: {error.strerror}", field="http") from None
        self.address = f"{address.rpartition(':')[0]}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingTCPServer):
    """Invariant: `_deadlines` holds every open connection; the accepting thread alone adds to it."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        max_connections: int,
        deadline_s: float,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._max_connections = max_connections
        self._deadline_s = deadline_s
        self._deadlines: dict[Any, float] = {}
        super().__init__(address, handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for this connection; says so to one that is turned away."""
        if len(self._deadlines) < self._max_connections:
            self._deadlines[request] = time.monotonic() + self._deadline_s
            return True
        # It may have hung up already.
        with contextlib.suppress(OSError):
            request.send(_BUSY)
        return False

    def service_actions(self) -> None:
        """Ends connections whose time is over; their threads see the end of the stream. Called twice a second."""
        now = time.monotonic()
        for connection, deadline in list(self._deadlines.items()):
            if now >= deadline:
                # Its thread may have closed it meanwhile.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Forgets a connection and closes it."""
        self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs a fault of ours; peers that hang up are no events."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("http_fault")


def _handler(registry: CollectorRegistry, is_ready: Callable[[], bool]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, encode(registry), content_type)
                case "/livez":
                    self._answer(200, b"ok\n")
                case "/readyz":
                    self._answer(*((200, b"ok\n") if is_ready() else (503, b"not ready\n")))
                case _:
                    self._answer(404, b"not found; there are /metrics, /livez and /readyz\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Scrapes and probes are no events."""

    return Handler
