"""What the service manager is told: ready, status, stopping, and alive while the data plane is (sd_notify)."""

import os
import socket
import threading
from collections.abc import Callable, Mapping

import structlog

_log = structlog.get_logger()
#: How long a service manager that reads nothing may hold up a drain, a message.
_PATIENCE_S = 1.0


class Notifier:
    """Speaks to the socket that the service manager named; says nothing where there is none.

    Parameters
    ----------
    environment : Mapping[str, str]
        Holds NOTIFY_SOCKET and WATCHDOG_USEC where a service manager started this process.
    is_alive : callable
        Whether the data plane makes progress within the given seconds. It is asked about twice in each watchdog
        interval; while it says no nothing is sent, and after a whole interval the service manager ends the server.
    """

    def __init__(self, environment: Mapping[str, str], is_alive: Callable[[float], bool]) -> None:
        self._address = _socket_address(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = _watchdog_s(environment) if self._address else 0.0
        self._is_alive = is_alive
        self._status = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def ready(self) -> None:
        """The server answers from now on, and the watchdog watches."""
        self._send("READY=1")
        if self._watchdog_s:
            self._thread.start()

    def status(self, text: str) -> None:
        """One line for an operator; sent when it changed."""
        if text != self._status and self._send(f"STATUS={text}"):
            self._status = text

    def stopping(self) -> None:
        """The server begins to end. The watchdog goes on until `stop`, because requests are still answered."""
        self._send("STOPPING=1")

    def stop(self) -> None:
        """Ends the watchdog."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        within_s = self._watchdog_s / 4
        while not self._stopped.is_set():
            if self._is_alive(within_s):
                self._send("WATCHDOG=1")
            else:
                _log.error("data_plane_stuck", for_s=within_s)
            self._stopped.wait(self._watchdog_s / 2)

    def _send(self, message: str) -> bool:
        """Whether it was taken, or there is nobody to take it."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_PATIENCE_S)
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            _log.warning("notify_failed", message=message, reason=error.strerror or str(error))
            return False
        return True


def _socket_address(name: str) -> str:
    """A path as it is; an abstract name, written with @, with the zero byte that the kernel wants."""
    return "\0" + name[1:] if name.startswith("@") else name


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """The interval of the watchdog; 0 where there is none, or where it watches another process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(environment.get("WATCHDOG_USEC", "0")) / 1e6
