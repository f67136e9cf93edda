"""Real server processes, started as a user starts them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlops.tap import default_folder
from tickserve.client import Client, ControlClient
from tickserve.errors import UnreachableError

PROGRAM = Path(sys.executable).with_name("tickserve")


@dataclass
class Running:
    """One server process that is up."""

    process: subprocess.Popen[str]
    control: ControlClient
    address: str
    http: str
    log: Path

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@dataclass
class Launcher:
    """Starts the program over one folder of state."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    program: list[str | Path] = field(default_factory=lambda: [PROGRAM])

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TICKSERVE_")}
        return (
            kept
            | {"TICKSERVE_HOME": str(self.home), "TICKSERVE_POLL_S": "0.1", "TICKSERVE_SETTLE_S": "0", "COLUMNS": "200"}
            | self.settings
        )

    def run(self, *arguments: str, code: int = 0, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs the program to its end and holds its exit code against `code`."""
        done = subprocess.run(
            [PROGRAM, *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    @contextmanager
    def serve(self, *options: str, log: Path | None = None) -> Iterator[Running]:
        """A server on free ports, ended with the context however that is left."""
        log = log or self.home / "server.log"
        with open(log, "w") as stderr:
            process = subprocess.Popen(
                [*self.program, "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", *options],
                env=self.environment,
                stderr=stderr,
                text=True,
            )
        with ControlClientContext(f"unix:{self.home / 'admin.sock'}") as control:
            try:
                try:
                    status = control.wait(lambda status: status.state == "serving", 120)
                except UnreachableError:
                    pytest.fail(f"the server did not start: {log.read_text()}")
                yield Running(process, control, status.listen[0], status.http, log)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()


@contextmanager
def ControlClientContext(address: str) -> Iterator[ControlClient]:
    """A control client that is closed at the end."""
    control = ControlClient(address, timeout_s=60.0)
    try:
        yield control
    finally:
        control.close()


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    """A launcher over an empty folder with a short path: a Unix socket's path is at most 107 bytes long."""
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        (Path(folder) / "models").mkdir()
        yield Launcher(Path(folder))
        # What a server that was killed leaves.
        shutil.rmtree(default_folder(Path(folder)), ignore_errors=True)


@pytest.fixture
def client_of() -> Iterator[object]:
    """Makes clients that are closed at the end."""
    made: list[Client] = []

    def make(running: Running, **options: object) -> Client:
        made.append(Client(running.address, timeout_s=60.0, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for client in made:
        client.close()
