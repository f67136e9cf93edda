"""The service manager's view: the unit is sound, and the server says what it is doing."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import PROGRAM, Launcher
from tests.support.packages import add_constant
from tests.support.waiting import until

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
SERVER, SIDECAR = UNITS / "tickserve.service", UNITS / "tickserve-sidecar.service"
BOUND_S = 60.0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", [SERVER, SIDECAR], ids=lambda unit: unit.stem)
def test_unit_is_sound(tmp_path: Path, unit: Path) -> None:
    for each in (SERVER, SIDECAR):
        installed = each.read_text().replace("/opt/tickserve/bin/tickserve", str(PROGRAM))
        (tmp_path / each.name).write_text(installed)
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / unit.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def hardening(unit: Path) -> list[str]:
    """The settings that take rights away: those behind the empty bounding set."""
    lines = [line for line in unit.read_text().splitlines() if line and not line.startswith("#")]
    return lines[lines.index("CapabilityBoundingSet=") : lines.index("[Install]")]


def test_the_sidecar_may_do_no_more_than_the_server() -> None:
    assert hardening(SIDECAR) == hardening(SERVER)
    assert len(hardening(SIDECAR)) > 20
    shared = ("User=", "Group=", "UMask=", "StateDirectory=", "StateDirectoryMode=", "Environment=TICKSERVE_HOME=")
    for name in shared:
        server, sidecar = (
            [x for x in unit.read_text().splitlines() if x.startswith(name)] for unit in (SERVER, SIDECAR)
        )
        assert server == sidecar != [], name


@contextmanager
def listening(name: str) -> Iterator[list[str]]:
    """What a service manager hears at this abstract address, as it comes: a server waits a second for it."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")

        def listen() -> None:
            while (message := manager.recv(4096)) != b"over":
                heard.append(message.decode())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield heard
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"over", f"\0{name}")
            thread.join(BOUND_S)


def test_server_says_when_it_is_ready_alive_and_stopping(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    add_constant(launcher.models, 0.5)
    name = f"tickserve-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    with listening(name) as heard:
        with launcher.serve() as running:
            until(lambda: heard.count("WATCHDOG=1") >= 3)
            assert heard[0] == "READY=1"
            until(lambda: any(line.startswith("STATUS=models served: 1, plan generation ") for line in heard))
            assert running.terminate() == 0
        until(lambda: "STATUS=draining" in heard)
    assert "STOPPING=1" in heard
