"""A real server and a real sidecar for one stream: what the sidecar's log holds in the end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.studies.sp500_stream import Stream
from mlops.prediction_log import Batch
from mlops.prediction_log.reading import read_log
from mlops.tap import default_folder
from tickserve import Client
from tickserve.client import ControlClient

MODEL, ENTITY = "sp500-forest", "SPX"
_BOUND_S = 60.0


def serve_and_log(home: Path, stream: Stream) -> list[Batch]:
    """Asks for every row through the server, and reads the log that the sidecar made of it."""
    with running(home, "serve", "--engine", "python", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"):
        control = ControlClient(f"unix:{home / 'admin.sock'}")
        status = control.wait(lambda status: status.is_serving, _BOUND_S)
        addresses = ("--listen", f"unix:{home / 'outcomes.sock'}", "--http", "127.0.0.1:0")
        with running(home, "sidecar", *addresses), Client(status.listen[0], model=MODEL, timeout_s=10.0) as client:
            for row, moment in zip(stream.features, stream.time_ns, strict=True):
                client.predict(row, entities=ENTITY, event_time=int(moment))
            found = wait_for(home / "log", len(stream.time_ns))
        control.close()
    shutil.rmtree(default_folder(home), ignore_errors=True)
    return found


def wait_for(log: Path, records: int) -> list[Batch]:
    """The batches of the log, once so many records are in it."""
    end = time.monotonic() + _BOUND_S
    while True:
        found = list(read_log(log, MODEL))
        if sum(map(len, found)) >= records:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"the log holds {sum(map(len, found))} of {records} records")
        time.sleep(0.1)


@contextmanager
def running(home: Path, *arguments: str) -> Iterator[None]:
    """The program over this folder of state, ended with the context."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TICKSERVE_")}
    with open(home / f"{arguments[0]}.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tickserve.cli", *arguments],
            env=kept | {"TICKSERVE_HOME": str(home)},
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def describe(batches: list[Batch]) -> str:
    """How many records, of which digest."""
    return json.dumps({"records": sum(map(len, batches)), "digests": sorted({batch.digest for batch in batches})})
