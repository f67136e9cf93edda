"""The service manager's view: the unit is sound, and the server says what it is doing."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import PROGRAM, Launcher
from tests.support.packages import add_constant

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "tickserve.service"
BOUND_S = 20.0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_unit_is_sound(tmp_path: Path) -> None:
    installed = UNIT.read_text().replace("/opt/tickserve/bin/tickserve", str(PROGRAM))
    (tmp_path / UNIT.name).write_text(installed)
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / UNIT.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_server_says_when_it_is_ready_alive_and_stopping(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    add_constant(launcher.models, 0.5)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(BOUND_S)
        manager.bind(f"\0tickserve-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@tickserve-test-{os.getpid()}")
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        with launcher.serve() as running:
            heard = [manager.recv(4096).decode() for _ in range(5)]
            assert heard[0] == "READY=1"
            assert heard.count("WATCHDOG=1") >= 3
            assert any(line.startswith("STATUS=models served: 1, plan generation ") for line in heard)
            assert running.terminate() == 0
        rest = []
        while not rest or rest[-1] != "STATUS=draining":
            rest.append(manager.recv(4096).decode())
        assert "STOPPING=1" in rest
