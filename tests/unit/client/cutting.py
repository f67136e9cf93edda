"""A way to a server that breaks after an exact number of bytes, and is gone from then on."""

import socket
import struct
import threading
from contextlib import suppress

_RESET = struct.pack("ii", 1, 0)


class CuttingProxy:
    """Passes bytes between its own port and a server.

    `arm` says how many more may pass in one direction; then every connection breaks, with a reset or in good order, and
    nobody listens any more. Bytes up to the cut have been passed on.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._left: dict[str, int | None] = {"up": None, "down": None}
        self._resets = False
        self.is_cut = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def arm(self, direction: str, size: int, *, resets: bool = False) -> None:
        """Cuts after `size` more bytes in this direction; 0 cuts at the first byte that would pass."""
        with self._lock:
            self._left[direction], self._resets = size, resets

    def cut(self) -> None:
        """Breaks everything now."""
        with self._lock:
            self._cut()

    def close(self) -> None:
        """Ends; the threads are gone after it."""
        self.cut()
        for thread in self._threads:
            thread.join(60)

    def _cut(self) -> None:
        if self.is_cut:
            return
        self.is_cut = True
        with suppress(OSError):
            # Closing alone does not wake who accepts.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                if self._resets:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                # Who reads is woken; only the first way sends something, namely that the connection ends.
                each.shutdown(socket.SHUT_RD if self._resets else socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                with self._lock:
                    if self.is_cut:
                        client.close()
                        server.close()
                        return
                    self._sockets += [client, server]
                for direction, source, sink in (("up", client, server), ("down", server, client)):
                    for each in (source, sink):
                        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._threads.append(threading.Thread(target=self._pass, args=(direction, source, sink)))
                    self._threads[-1].daemon = True
                    self._threads[-1].start()

    def _pass(self, direction: str, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    left = self._left[direction]
                    allowed = data if left is None else data[:left]
                    if allowed:
                        sink.sendall(allowed)
                    if left is not None:
                        self._left[direction] = left - len(allowed)
                        if len(allowed) < len(data):
                            self._cut()
                            return
        with self._lock:
            for each in (source, sink):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
