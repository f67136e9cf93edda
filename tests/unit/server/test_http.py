"""The HTTP port: bounded in connections and time, quiet about peers that hang up, loud about faults of its own."""

import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from structlog.testing import capture_logs

from tickserve.errors import ConfigurationError
from tickserve.listening.http import HttpServer

BOUND_S = 60.0
REQUEST = b"GET /metrics HTTP/1.0\r\n\r\n"
#: More than the buffers of a loopback connection hold.
BODY_BYTES = 32 << 20

Start = Callable[..., HttpServer]


class Figures(Collector):
    """Answers one figure with a long text; asks `during` first."""

    def __init__(self, text: str = "", during: Callable[[], object] = lambda: None) -> None:
        self._text, self._during = text, during

    def collect(self) -> Iterator[Metric]:
        self._during()
        yield GaugeMetricFamily("figure", self._text, value=1.0)


@pytest.fixture
def start() -> Iterator[Start]:
    # Tests count threads, and those of an ended server end by themselves.
    wait_until(lambda: http_threads() == 0)
    with ExitStack() as servers:

        def start(figures: Collector | None = None, address: str = "127.0.0.1:0", **bounds: float) -> HttpServer:
            registry = CollectorRegistry()
            if figures is not None:
                registry.register(figures)
            server = HttpServer(address, registry, lambda: True, **bounds)  # type: ignore[arg-type]
            server.start()
            servers.callback(server.stop)
            return server

        yield start


def connect(server: HttpServer) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=BOUND_S)


def get(server: HttpServer, path: str = "/livez") -> int:
    try:
        with urllib.request.urlopen(f"http://{server.address}{path}", timeout=BOUND_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        threading.Event().wait(0.02)


def http_threads() -> int:
    return sum("process_request" in thread.name for thread in threading.enumerate())


def test_connections_are_bounded_and_room_comes_back(start: Start) -> None:
    server = start(max_connections=3)
    before = http_threads()
    silent = [connect(server) for _ in range(3)]
    wait_until(lambda: http_threads() == before + 3)
    with connect(server) as refused:
        assert refused.recv(1024).startswith(b"HTTP/1.0 503 ")
    assert http_threads() == before + 3
    for each in silent:
        each.close()
    wait_until(lambda: get(server) == 200)


def test_request_that_trickles_in_is_ended_at_the_deadline(start: Start) -> None:
    server = start(deadline_s=0.2)
    ended = threading.Event()
    with connect(server) as slow:

        def read() -> None:
            try:
                while slow.recv(1024):
                    pass
            except OSError:
                pass
            ended.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        end = time.monotonic() + BOUND_S
        # Always something new, well within any bound on silence.
        while not ended.wait(0.02):
            assert time.monotonic() < end, "it was not ended"
            try:
                slow.send(b"G")
            except OSError:
                ended.set()
        reader.join(BOUND_S)


def test_answer_that_is_not_read_is_ended_at_the_deadline(start: Start) -> None:
    server = start(Figures("x" * BODY_BYTES), deadline_s=0.2)
    before = http_threads()
    with connect(server) as deaf:
        deaf.send(REQUEST)
        wait_until(lambda: http_threads() == before + 1)
        wait_until(lambda: http_threads() == before)


def test_peer_that_hangs_up_is_no_event(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def during() -> None:
        asked.set()
        assert go_on.wait(BOUND_S)

    server = start(Figures("x" * BODY_BYTES, during))
    before = http_threads()
    with capture_logs() as logs:
        with connect(server) as gone:
            gone.send(REQUEST)
            assert asked.wait(BOUND_S)
            # Closed with a reset, while the answer is being made.
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        go_on.set()
        wait_until(lambda: http_threads() == before)
    assert logs == []
    assert capfd.readouterr().err == ""


def test_fault_of_ours_is_logged(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    server = start(Figures(during=fail))
    with capture_logs() as logs:
        assert get(server, "/metrics") == 0
        wait_until(lambda: bool(logs))
    assert [entry["event"] for entry in logs] == ["http_fault"]
    assert capfd.readouterr().err == ""


def test_listens_on_ipv6(start: Start) -> None:
    server = start(address="[::1]:0")
    assert server.address.startswith("[::1]:")
    assert get(server) == 200


def test_address_in_use_is_named(start: Start) -> None:
    server = start()
    with pytest.raises(ConfigurationError, match=f"http: cannot listen on {server.address}: "):
        HttpServer(server.address, CollectorRegistry(), lambda: True)
