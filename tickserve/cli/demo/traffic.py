"""The demo's load during a swap: a process that asks without a pause until its input ends, and says what it saw.

Called as `python -m tickserve.cli.demo.traffic ADDRESS DATASET MODEL`.
"""

import itertools
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

from mlops.training import test_rows
from tickserve.client import Client
from tickserve.errors import TickserveError

_END_S = 20.0


@dataclass(frozen=True)
class Seen:
    """How many requests were sent, how many failed and the first failure, and which versions answered."""

    requests: int
    failed: int
    failure: str
    versions: tuple[str, ...]


class Traffic:
    """Load from another process, from the beginning of the context to `end`."""

    def __init__(self, address: str, dataset: str, model: str) -> None:
        self._command = [sys.executable, "-m", "tickserve.cli.demo.traffic", address, dataset, model]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # Written with the first answer.
        _stream(self._process.stdout).readline()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def end(self) -> Seen:
        """Stops asking and returns what was seen."""
        output, _ = self._process.communicate("", timeout=_END_S)
        found = json.loads(output)
        return Seen(found["requests"], found["failed"], found["failure"], tuple(found["versions"]))


def ask(address: str, dataset: str, model: str, source: IO[str]) -> dict[str, Any]:
    """Sends the rows of the test period over and over until `source` ends."""
    ended = threading.Event()

    def wait() -> None:
        source.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    requests, failures, versions = 0, [], set()
    with Client(address, model=model, timeout_s=5.0) as client:
        for row in itertools.cycle(test_rows(dataset)[1]):
            requests += 1
            try:
                versions.add(client.predict(row).version)
            except TickserveError as error:
                failures.append(str(error))
            if requests == 1:
                print("asking", flush=True)
            if ended.is_set():
                break
    failure = failures[0] if failures else ""
    return {"requests": requests, "failed": len(failures), "failure": failure, "versions": sorted(versions, key=int)}


def _stream(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise TypeError("the process was started with a pipe")
    return stream


if __name__ == "__main__":
    json.dump(ask(sys.argv[1], sys.argv[2], sys.argv[3], sys.stdin), sys.stdout)
