"""The demo's server: a process of its own, as in production, on ports that are free."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tickserve.client import ControlClient
from tickserve.errors import TickserveError, UnreachableError

_START_S = 60.0
_GRACE_S = 10.0
_OTHER_REGISTRY = frozenset({"TICKSERVE_REGISTRY", "TICKSERVE_ARTIFACTS"})


class ServerProcess:
    """Starts `tickserve serve` on `start`, and ends it by SIGTERM when the context is left."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home / "server.log"
        self.control = ControlClient(f"unix:{home / 'admin.sock'}")
        self.exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once the server serves. Raises TickserveError with the end of its log where it does not come up."""
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                serve_command(self.home, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"),
                stdin=subprocess.DEVNULL,
                stderr=log,
                # The demo has a registry of its own, whatever the environment says.
                env={name: value for name, value in os.environ.items() if name not in _OTHER_REGISTRY}
                | {"TICKSERVE_SERVER_NAME": "demo-host"},
            )
        status = self.control.wait(lambda status: status.is_serving or self._has_ended(), _START_S)
        self.address, self.http = status.listen[0], status.http

    def stop(self) -> int:
        """Ends the server as an init system would, and returns its exit code."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            self.exit_code = self._process.wait(_GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_code = self._process.wait()
        self._process = None
        return self.exit_code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self.control.close()

    def _has_ended(self) -> bool:
        if self._process is not None and self._process.poll() is None:
            return False
        lines = self.log.read_text(errors="replace").splitlines()[-5:]
        raise TickserveError("the demo's server did not start; its log ends:\n" + "\n".join(lines))


def serve_command(home: Path, *options: str) -> Sequence[str]:
    """The command line of a server over the demo's registry, in this interpreter."""
    command = [sys.executable, "-m", "tickserve.cli", "serve", "--home", str(home), "--source", "registry"]
    return [*command, "--serve-rest", *options]


def check_free(control: ControlClient, home: Path) -> None:
    """Raises TickserveError where a server already runs over this folder."""
    try:
        status = control.status()
    except UnreachableError:
        return
    raise TickserveError(
        f"a server already runs over {home} (listening on {', '.join(status.listen)}); stop it first, or give --home"
    )
