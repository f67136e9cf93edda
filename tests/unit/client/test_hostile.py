"""Servers that break, stall and lie: each call ends in time, with an error that says no more than is known.

Both clients over both transports pass this, and go on with a server that behaves again.
"""

import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tests.unit.client import hostile
from tests.unit.client.blocking import Connect
from tests.unit.client.hostile import GRPC, OK, Behaviour, HostileServer, Peer, frame, headers, message
from tickserve import Client
from tickserve.errors import Code, DeadlineError, StatusError, TickserveError, UnreachableError

ROW = np.zeros(3, np.float32)
#: What grpcio waits with until the deadline.
ONLY_NATIVE = ("data before headers",)
END = hostile.END_STREAM
#: Where the connection or the protocol breaks, implementations differ in the code.
BROKEN = {Code.INTERNAL, Code.UNAVAILABLE, Code.UNKNOWN, Code.RESOURCE_EXHAUSTED, Code.CANCELLED}


@pytest.fixture
def server() -> Iterator[HostileServer]:
    running = HostileServer()
    yield running
    running.stop()


@pytest.fixture
def client(server: HostileServer, connect: Connect) -> Iterator[Client]:
    with connect(server.address, model="m", check_features=False, timeout_s=20.0) as connected:
        yield connected


def recover(client: Client) -> list[list[float]]:
    """The next answer. grpcio may try a broken connection once more before it has noticed."""
    for _ in range(20):
        try:
            values: list[list[float]] = client.predict(ROW).values.tolist()
        except TickserveError:
            continue
        return values
    pytest.fail("the client never found its server again")


def says(data: bytes, *, closes: bool = False) -> Behaviour:
    """Sends bytes in which stream 1 stands for the call's own, and closes perhaps."""

    def meet(peer: Peer, stream: int) -> None:
        peer.send(_renumbered(data, stream))
        if closes:
            peer.close()

    return meet


def _renumbered(data: bytes, stream: int) -> bytes:
    frames = []
    while len(data) >= 9:
        size = 9 + int.from_bytes(data[:3])
        number = int.from_bytes(data[5:9])
        frames.append(data[:5] + struct.pack(">I", stream if number == 1 else number) + data[9:size])
        data = data[size:]
    return b"".join((*frames, data))


def reset(code: int) -> bytes:
    return frame(hostile.RST_STREAM, 0, 1, struct.pack(">I", code))


def goaway(last: int) -> bytes:
    return frame(hostile.GOAWAY, 0, 0, struct.pack(">II", last, 0))


BEGUN = headers(1, GRPC)
CASES: dict[str, tuple[Behaviour, set[Code]]] = {
    "http 503": (says(headers(1, [(":status", "503")], END)), {Code.UNAVAILABLE}),
    "http 404": (says(headers(1, [(":status", "404")], END)), {Code.UNIMPLEMENTED}),
    "another content type": (
        says(headers(1, [(":status", "200"), ("content-type", "text/html")]) + frame(hostile.DATA, END, 1, b"<html>")),
        BROKEN,
    ),
    "no trailers": (says(BEGUN + frame(hostile.DATA, END, 1, message(hostile.answer()))), BROKEN),
    "no status": (says(BEGUN + headers(1, [("x", "y")], END)), BROKEN),
    "a status that is no number": (says(BEGUN + headers(1, [("grpc-status", "five")], END)), BROKEN),
    "no message": (says(BEGUN + headers(1, OK, END)), BROKEN | {Code.UNIMPLEMENTED}),
    "huge headers": (says(headers(1, [*GRPC, ("x", "y" * 100_000)])), BROKEN),
    "huge trailers": (says(BEGUN + headers(1, [*OK, ("x", "y" * 100_000)], END)), BROKEN),
    "reset": (says(reset(2)), {Code.INTERNAL}),
    "cancelled": (says(BEGUN + reset(8)), {Code.CANCELLED}),
    "half a message, then the end": (
        says(BEGUN + frame(hostile.DATA, 0, 1, message(b"abc", size=99)) + headers(1, OK, END)),
        BROKEN,
    ),
    "half a message, then nobody": (
        says(BEGUN + frame(hostile.DATA, 0, 1, message(b"abc", size=99)), closes=True),
        {Code.UNAVAILABLE},
    ),
    "nobody": (says(b"", closes=True), {Code.UNAVAILABLE}),
    "a message of two gigabytes": (
        says(BEGUN + frame(hostile.DATA, 0, 1, message(b"", size=0x7FFFFFFF))),
        {Code.RESOURCE_EXHAUSTED},
    ),
    "a frame over every bound": (says(b"\xff\xff\xff\0\0\0\0\0\1"), BROKEN),
    "data before headers": (says(frame(hostile.DATA, 0, 1, b"abc")), BROKEN),
    "headers that do not decompress": (says(frame(hostile.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff")), BROKEN),
    "a compressed message": (
        says(BEGUN + frame(hostile.DATA, 0, 1, message(hostile.answer(), flag=1)) + headers(1, OK, END)),
        BROKEN,
    ),
    "a flag that is none": (
        says(BEGUN + frame(hostile.DATA, 0, 1, message(hostile.answer(), flag=7)) + headers(1, OK, END)),
        BROKEN,
    ),
    "an answer that does not decode": (
        says(BEGUN + frame(hostile.DATA, 0, 1, message(b"\xff\xff")) + headers(1, OK, END)),
        {Code.INTERNAL},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_answer_is_an_error_that_may_have_run(
    client: Client, server: HostileServer, transport: str, case: str
) -> None:
    if case in ONLY_NATIVE and transport == "grpcio":
        pytest.skip("grpcio waits for its deadline")
    behaviour, codes = CASES[case]
    server.behaviours.append(behaviour)
    with pytest.raises(TickserveError) as caught:
        client.predict(ROW)
    assert caught.value.code in codes
    assert caught.value.executed
    assert caught.value.request_id
    assert server.calls == 1
    assert recover(client) == [[1.0, 2.0, 3.0]]


def test_a_refused_stream_is_an_error_that_did_not_run(client: Client, server: HostileServer, transport: str) -> None:
    # grpcio sends such a call again by itself, and does not say that it was refused.
    server.behaviours.extend([says(reset(7))] * (1 if transport == "native" else 3))
    with pytest.raises(UnreachableError) as caught:
        client.predict(ROW)
    assert caught.value.executed is (transport == "grpcio")
    server.behaviours.clear()
    assert client.predict(ROW).rows == 1


def test_a_call_that_the_server_will_not_look_at_did_not_run(client: Client, server: HostileServer) -> None:
    server.behaviours.append(says(goaway(0), closes=True))
    # It is sent again, which is no second try: the first was never looked at.
    assert client.predict(ROW).rows == 1
    assert server.calls == 2


def test_a_server_that_goes_away_after_a_call_is_left_for_a_new_connection(
    client: Client, server: HostileServer
) -> None:
    def meet(peer: Peer, stream: int) -> None:
        peer.send(hostile.whole(stream) + goaway(stream))

    server.behaviours.append(meet)
    for _ in range(3):
        assert client.predict(ROW).rows == 1


def test_a_server_that_closes_between_two_calls_costs_no_call(
    client: Client, server: HostileServer, transport: str
) -> None:
    if transport == "grpcio":
        pytest.skip("grpcio may send to a connection that is closing")
    closed = threading.Event()

    def meet(peer: Peer, stream: int) -> None:
        peer.send(hostile.whole(stream))
        peer.close()
        closed.set()

    for _ in range(3):
        server.behaviours.append(meet)
        assert client.predict(ROW).rows == 1
        # What is sent while a server closes may have been taken.
        assert closed.wait(60)
        closed.clear()


def test_a_server_that_drips_does_not_outlast_the_deadline(client: Client, server: HostileServer) -> None:
    def drip(peer: Peer, stream: int) -> None:
        peer.send(headers(stream, GRPC) + frame(hostile.DATA, 0, stream, message(b"", size=1000)))
        while not (peer.is_gone or server.stopping.wait(0.02)):
            peer.send(frame(hostile.DATA, 0, stream, b"\0"))

    # On an open connection: what is not connected in time has not run.
    client.predict(ROW)
    server.behaviours.append(drip)
    with pytest.raises(DeadlineError) as caught:
        client.predict(ROW, timeout_s=1.0)
    assert caught.value.executed


def test_a_server_that_floods_does_not_outlast_the_deadline(client: Client, server: HostileServer) -> None:
    def flood(peer: Peer, stream: int) -> None:
        pings = frame(hostile.PING, hostile.ACK, 0, b"12345678") * 1000
        while not (peer.is_gone or server.stopping.is_set()):
            peer.send(pings)

    client.predict(ROW)
    server.behaviours.append(flood)
    # Whether it is late, or is broken off, is left to the transport.
    with pytest.raises(TickserveError) as caught:
        client.predict(ROW, timeout_s=1.0)
    assert caught.value.executed


def test_a_server_that_says_nothing_does_not_outlast_the_deadline(client: Client, server: HostileServer) -> None:
    client.predict(ROW)
    server.behaviours.append(says(b""))
    with pytest.raises(DeadlineError) as caught:
        client.predict(ROW, timeout_s=1.0)
    assert caught.value.executed
    assert client.predict(ROW).rows == 1


def test_a_server_that_never_speaks_is_late_and_nothing_ran(connect: Connect, transport: str) -> None:
    server = HostileServer(speaks=False)
    try:
        with (
            connect(server.address, model="m", check_features=False) as client,
            pytest.raises((DeadlineError, UnreachableError)) as caught,
        ):
            client.predict(ROW, timeout_s=0.3)
        # grpcio does not say whether it had a connection.
        assert not caught.value.executed or transport == "grpcio"
    finally:
        server.stop()


def test_a_message_that_is_percent_encoded_is_read(client: Client, server: HostileServer) -> None:
    said = [*GRPC, ("grpc-status", "9"), ("grpc-message", "caf%C3%A9 100%")]
    server.behaviours.append(says(headers(1, said, END)))
    with pytest.raises(StatusError, match="café 100%"):
        client.predict(ROW)


def test_an_answer_in_pieces_is_whole(client: Client, server: HostileServer) -> None:
    def pieces(peer: Peer, stream: int) -> None:
        peer.send(headers(stream, GRPC))
        for byte in message(hostile.answer()):
            peer.send(frame(hostile.DATA, 0, stream, bytes((byte,))))
        peer.send(headers(stream, OK, END))

    server.behaviours.append(pieces)
    assert client.predict(ROW).values.tolist() == [[1.0, 2.0, 3.0]]
