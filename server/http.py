"""The operator's HTTP port: /metrics, /livez and /readyz, on a thread of its own."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tickserve.errors import ConfigurationError

_TIMEOUT_S = 10.0


class HttpServer:
    """Serves metrics and probes until stopped."""

    def __init__(self, address: str, registry: CollectorRegistry, is_ready: Callable[[], bool]) -> None:
        host, _, port = address.rpartition(":")
        try:
            self._server = _Server((host, int(port)), _handler(registry, is_ready))
        except OSError as error:
            raise ConfigurationError(f"http: cannot listen on {address}: {error.strerror}", field="http") from None
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _handler(registry: CollectorRegistry, is_ready: Callable[[], bool]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

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
