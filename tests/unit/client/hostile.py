"""A server that speaks HTTP/2 by hand, so that it can say what no gRPC server would."""

import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from tickserve.v1 import prediction_pb2 as pb

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GRPC = ((":status", "200"), ("content-type", "application/grpc"))
OK = (("grpc-status", "0"),)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def headers(stream: int, pairs: Iterable[tuple[str, str]], flags: int = 0) -> bytes:
    """Literal headers without an index, in as many frames as they need."""
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)
    parts = [block[start : start + 16_000] for start in range(0, len(block), 16_000)]
    frames = [
        frame(CONTINUATION if number else HEADERS, 0 if number else flags, stream, part)
        for number, part in enumerate(parts)
    ]
    last = bytearray(frames[-1])
    last[4] |= END_HEADERS
    return b"".join((*frames[:-1], bytes(last)))


def message(data: bytes, *, flag: int = 0, size: int | None = None) -> bytes:
    """A message with its prefix, which may say another size."""
    return struct.pack(">BI", flag, len(data) if size is None else size) + data


def answer() -> bytes:
    """A PredictResponse of one row."""
    return pb.PredictResponse(model="m", version="1", rows=1, values=[1.0, 2.0, 3.0]).SerializeToString()


def whole(stream: int) -> bytes:
    """An answer in good order."""
    return headers(stream, GRPC) + frame(DATA, 0, stream, message(answer())) + headers(stream, OK, END_STREAM)


def _text(text: str) -> bytes:
    size = len(text)
    if size < 127:
        return bytes((size,)) + text.encode()
    number, groups = size - 127, bytearray((127,))
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    groups.append(number)
    return bytes(groups) + text.encode()


class Peer:
    """One connection; `send` gives up where the client has gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.is_gone = False

    def send(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError:
            self.is_gone = True

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


#: What is done with a call on a stream once all of it has come.
Behaviour = Callable[[Peer, int], None]


class HostileServer:
    """Meets each call with the next of `behaviours`, and with a whole answer once there is none."""

    def __init__(self, *, speaks: bool = True) -> None:
        self.behaviours: deque[Behaviour] = deque()
        self.calls = 0
        self.stopping = threading.Event()
        self._speaks = speaks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        """Ends every connection."""
        self.stopping.set()
        for each in (self._listener, *self._connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(60)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        peer = Peer(connection)
        if not self._speaks:
            self.stopping.wait(60)
            return
        with suppress(OSError), connection.makefile("rb") as stream:
            peer.send(frame(SETTINGS, 0, 0))
            stream.read(len(PREFACE))
            while len(head := stream.read(9)) == 9:
                payload = stream.read(int.from_bytes(head[:3]))
                kind, flags, number = head[3], head[4], int.from_bytes(head[5:])
                if kind == SETTINGS and not flags & ACK:
                    peer.send(frame(SETTINGS, ACK, 0))
                elif kind == PING and not flags & ACK:
                    peer.send(frame(PING, ACK, 0, payload))
                elif kind == DATA and flags & END_STREAM:
                    self.calls += 1
                    meet = self.behaviours.popleft() if self.behaviours else _answer
                    meet(peer, number)


def _answer(peer: Peer, stream: int) -> None:
    peer.send(whole(stream))
