"""Connections: what each is granted, and that one client's connections cannot hurt another's."""

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from tempfile import TemporaryDirectory

import grpc
import pytest

from server.engine import Engine
from tests.conformance.conftest import ENGINES
from tests.conformance.process import descriptors
from tests.conformance.running import OWN_CONNECTION
from tickserve.errors import ConfigurationError
from tickserve.listening.connections import ConnectionBounds

BOUND_S = 60.0
LIVE = "/inference.GRPCInferenceService/ServerLive"
SETTINGS, PING, GOAWAY = 4, 6, 7
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Start = Callable[..., tuple[Engine, list[str]]]


@pytest.fixture
def start(engine_name: str) -> Iterator[Start]:
    """Starts engines on the addresses given, with these bounds of connections."""
    with ExitStack() as engines:

        def start(*addresses: str, socket_mode: int = 0o660, **bounds: float) -> tuple[Engine, list[str]]:
            connections = ConnectionBounds(**bounds)  # type: ignore[arg-type]
            engine = ENGINES[engine_name](*addresses, connections=connections, socket_mode=socket_mode)
            opened = engine.start()
            engines.callback(engine.stop, 0.0)
            return engine, list(opened)

        yield start


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a Unix socket."""
    with TemporaryDirectory(prefix="ts-") as name:
        yield Path(name)


@contextmanager
def connection(address: str) -> Iterator[Callable[[], bytes]]:
    """A gRPC connection of its own; calling what it yields asks whether the server lives."""
    with grpc.insecure_channel(address, options=OWN_CONNECTION) as channel:
        yield lambda: channel.unary_unary(LIVE)(b"", timeout=BOUND_S)


def ask_until_there_is_room(address: str) -> None:
    end = time.monotonic() + BOUND_S
    while True:
        with connection(address) as ask:
            try:
                ask()
            except grpc.RpcError:
                if time.monotonic() > end:
                    raise
            else:
                return


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=BOUND_S)


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


def frames(raw: socket.socket) -> Iterator[int]:
    """Types of the HTTP/2 frames that the server sends, until it closes; nothing but its settings is acknowledged."""
    stream = raw.makefile("rb")
    raw.sendall(PREFACE + frame(SETTINGS))
    while head := stream.read(9):
        stream.read(int.from_bytes(head[:3], "big"))
        if head[3] == SETTINGS and not head[4]:
            raw.sendall(frame(SETTINGS, flags=1))
        yield head[3]


def test_every_listener_is_served(start: Start, folder: Path) -> None:
    _, opened = start("127.0.0.1:0", "127.0.0.1:0", f"unix:{folder}/a.sock", f"unix:{folder}/b.sock")
    assert len(set(opened)) == 4
    for address in opened:
        with connection(address) as ask:
            assert ask() == b"\x08\x01"


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_unix_socket_has_the_mode_asked_for(start: Start, folder: Path, mode: int) -> None:
    start(f"unix:{folder}/data.sock", socket_mode=mode)
    assert S_IMODE((folder / "data.sock").stat().st_mode) == mode


def test_unix_socket_of_a_killed_server_is_replaced_and_of_a_running_one_is_not(start: Start, folder: Path) -> None:
    path = folder / "data.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    _, (address,) = start(f"unix:{path}")
    with pytest.raises(ConfigurationError, match=f"listen: another server answers on {path}"):
        start(f"unix:{path}")
    with connection(address) as ask:
        assert ask()


def test_port_that_is_taken_is_named(start: Start) -> None:
    _, (address,) = start("127.0.0.1:0")
    with pytest.raises(ConfigurationError, match=f"listen: cannot listen on {address}: "):
        start(address)


def test_connection_over_the_bound_is_refused_until_another_ends(start: Start) -> None:
    _, (address,) = start("127.0.0.1:0", max_connections=2)
    with connection(address) as kept:
        kept()
        with connection(address) as second:
            second()
            with connection(address) as third, pytest.raises(grpc.RpcError) as refused:
                third()
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            kept()
        ask_until_there_is_room(address)
        kept()


def test_thousand_connections_opened_and_dropped_leave_the_server_as_it_was(start: Start) -> None:
    _, (address,) = start("127.0.0.1:0", max_connections=64, handshake_timeout_s=BOUND_S)
    ask_until_there_is_room(address)
    before = descriptors()
    endings: list[Callable[[socket.socket], object]] = [
        lambda raw: None,
        lambda raw: raw.sendall(PREFACE[:9]),
        lambda raw: raw.sendall(PREFACE + frame(SETTINGS)),
        lambda raw: raw.sendall(b"GET / HTTP/1.1\r\n\r\n"),
        lambda raw: raw.sendall(os.urandom(64)),
        # A reset instead of an orderly end.
        lambda raw: raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),
    ]
    for number in range(1000):
        # The server may have closed a connection over the bound already.
        with connect(address) as raw, suppress(OSError):
            endings[number % len(endings)](raw)
    ask_until_there_is_room(address)
    end = time.monotonic() + BOUND_S
    while descriptors() > before + 5 and time.monotonic() < end:
        ask_until_there_is_room(address)
    assert descriptors() <= before + 5


def test_connection_that_says_nothing_is_closed(start: Start) -> None:
    _, (address,) = start("127.0.0.1:0", handshake_timeout_s=0.2)
    with closing(connect(address)) as raw:
        while raw.recv(4096):
            pass


def test_client_that_is_gone_is_found_by_pings(start: Start) -> None:
    _, (address,) = start("127.0.0.1:0", keepalive_s=1.0, keepalive_timeout_s=0.2)
    with closing(connect(address)) as raw:
        assert PING in list(frames(raw))


@pytest.mark.parametrize("bound", ["connection_idle_s", "connection_age_s"])
def test_connection_is_told_to_end_when_idle_or_old(start: Start, bound: str) -> None:
    _, (address,) = start("127.0.0.1:0", **{bound: 0.3})
    with closing(connect(address)) as raw:
        assert any(kind == GOAWAY for kind in frames(raw))


def test_client_that_pings_too_often_is_told_to_go(start: Start) -> None:
    _, (address,) = start("127.0.0.1:0", client_ping_interval_s=600.0)
    with closing(connect(address)) as raw:
        seen = frames(raw)
        assert next(seen) == SETTINGS
        raw.sendall(frame(PING, payload=bytes(8)) * 8)
        assert any(kind == GOAWAY for kind in seen)


def test_client_may_ping_as_often_as_the_bound_says(start: Start) -> None:
    _, (address,) = start("127.0.0.1:0", client_ping_interval_s=0.0)
    with closing(connect(address)) as raw:
        seen = frames(raw)
        assert next(seen) == SETTINGS
        # The last rounds would meet the end that the first ones brought about.
        for _ in range(4):
            raw.sendall(frame(PING, payload=bytes(8)) * 8)
            for _ in range(8):
                assert next(kind for kind in seen if kind in (PING, GOAWAY)) == PING


def test_each_connection_is_told_how_many_streams_it_may_open(start: Start) -> None:
    _, (address,) = start("127.0.0.1:0", max_streams=7)
    with closing(connect(address)) as raw:
        raw.sendall(PREFACE + frame(SETTINGS))
        stream = raw.makefile("rb")
        payload = stream.read(int.from_bytes(stream.read(9)[:3], "big"))
    told = dict(struct.iter_unpack(">HI", payload))
    max_concurrent_streams = 3
    assert told[max_concurrent_streams] == 7
