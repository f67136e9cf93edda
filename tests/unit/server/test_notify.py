"""sd_notify: what a service manager hears, over a real datagram socket."""

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from structlog.testing import capture_logs

from server.engine.python import PythonEngine
from server.notify import Notifier

BOUND_S = 60.0


@dataclass
class Manager:
    """The service manager's end."""

    name: str
    socket: socket.socket

    def hear(self) -> str:
        return self.socket.recv(4096).decode()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    with TemporaryDirectory(prefix="ts-") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(BOUND_S)
        name = str(Path(folder) / "notify.sock") if request.param == "path" else f"@tickserve-test-{os.getpid()}"
        receiver.bind(name.replace("@", "\0"))
        yield Manager(name, receiver)


def test_life_of_a_server_is_told_in_order(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.name}, lambda within_s: True)
    notifier.ready()
    notifier.status("serving 1 models")
    notifier.status("serving 1 models")
    notifier.status("draining")
    notifier.stopping()
    notifier.stop()
    heard = [manager.hear() for _ in range(4)]
    assert heard == ["READY=1", "STATUS=serving 1 models", "STATUS=draining", "STOPPING=1"]


def test_watchdog_is_fed_only_while_the_data_plane_is_alive(manager: Manager) -> None:
    answers = iter([True, False, True])
    asked: list[float] = []

    def is_alive(within_s: float) -> bool:
        asked.append(within_s)
        alive = next(answers, None)
        if alive is None:
            notifier.stopping()
        return bool(alive)

    notifier = Notifier({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "20000"}, is_alive)
    with capture_logs() as logs:
        notifier.ready()
        heard = [manager.hear() for _ in range(4)]
        notifier.stop()
    assert heard == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]
    assert logs[0]["event"] == "data_plane_stuck"
    assert set(asked) == {0.005}


def test_watchdog_of_another_process_is_not_fed(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "2000", "WATCHDOG_PID": "1"}
    notifier = Notifier(environment, lambda within_s: pytest.fail("asked"))
    notifier.ready()
    notifier.stopping()
    notifier.stop()
    assert [manager.hear(), manager.hear()] == ["READY=1", "STOPPING=1"]


def test_without_a_service_manager_nothing_happens() -> None:
    notifier = Notifier({"WATCHDOG_USEC": "2000"}, lambda within_s: pytest.fail("asked"))
    notifier.ready()
    notifier.status("serving")
    notifier.stop()


def test_manager_that_is_gone_costs_a_warning_and_no_more(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}, lambda within_s: True)
    with capture_logs() as logs:
        notifier.ready()
    assert [entry["event"] for entry in logs] == ["notify_failed"]


def test_manager_that_reads_nothing_holds_up_nobody(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.name}, lambda within_s: True)
    with capture_logs() as logs:
        taken = 0
        while not logs:
            notifier.status(f"serving {taken}")
            taken += 1
    assert [entry["event"] for entry in logs] == ["notify_failed"]
    assert [manager.hear() for _ in range(taken - 1)] == [f"STATUS=serving {number}" for number in range(taken - 1)]
    # What was not taken is told again.
    notifier.status(f"serving {taken - 1}")
    assert manager.hear() == f"STATUS=serving {taken - 1}"


def test_data_plane_is_not_alive_while_its_loop_is_stuck() -> None:
    engine = PythonEngine([], pool_threads=1, max_in_flight=1, max_in_flight_per_client=1, max_message_bytes=1024)
    engine.start()
    assert engine.is_alive(BOUND_S)
    release = threading.Event()
    engine._loop.call_soon_threadsafe(release.wait)
    assert not engine.is_alive(0.05)
    release.set()
    assert engine.is_alive(BOUND_S)
    engine.stop(0.0)
