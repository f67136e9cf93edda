"""A real server and a real sidecar for one stream: what the sidecar's log holds in the end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

from benchmarks.studies.sp500_stream import Stream
from mlops.prediction_log import Batch
from mlops.prediction_log.reading import read_log
from mlops.tap import default_folder
from tickserve import Client
from tickserve.client import ControlClient
from tickserve.v1 import outcomes_pb2 as pb
from tickserve.v1.outcomes_pb2_grpc import OutcomesStub

MODEL, ENTITY = "sp500-forest", "SPX"
_BOUND_S = 60.0


def serve_and_log(home: Path, stream: Stream) -> list[Batch]:
    """Asks for every row through the server, reports what came of each to the sidecar, and reads the sidecar's log."""
    with running(home, "serve", "--engine", "python", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"):
        control = ControlClient(f"unix:{home / 'admin.sock'}")
        status = control.wait(lambda status: status.is_serving, _BOUND_S)
        addresses = ("--listen", f"unix:{home / 'outcomes.sock'}", "--http", "127.0.0.1:0")
        with running(home, "sidecar", *addresses), Client(status.listen[0], model=MODEL, timeout_s=10.0) as client:
            for row, moment in zip(stream.features, stream.time_ns, strict=True):
                client.predict(row, entities=ENTITY, event_time=int(moment))
            found = wait_for(home / "log", len(stream.time_ns))
            report_outcomes(f"unix:{home / 'outcomes.sock'}", stream)
        control.close()
    shutil.rmtree(default_folder(home), ignore_errors=True)
    return found


def report_outcomes(address: str, stream: Stream) -> None:
    """Each return by entity and event time, known when the position would have been closed: two sessions later."""
    known_at = np.append(stream.time_ns[2:], stream.time_ns[-2:] + 2 * 86_400_000_000_000)
    outcomes = [
        pb.Outcome(
            outcome_id=f"spx-{moment}",
            entity_time=pb.EntityTime(model=MODEL, entity=ENTITY, event_time_unix_ns=int(moment)),
            horizon="1d",
            value=float(value),
            available_at_unix_ns=int(known),
        )
        for moment, value, known in zip(stream.time_ns, stream.returns, known_at, strict=True)
    ]
    with grpc.insecure_channel(address) as channel:
        answer = OutcomesStub(channel).Report(pb.ReportRequest(outcomes=outcomes), timeout=60, wait_for_ready=True)
    if (answer.accepted, answer.unknown) != (len(outcomes), 0):
        raise RuntimeError(
            f"of {len(outcomes)} outcomes the sidecar took {answer.accepted}, {answer.unknown} of nobody"
        )


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
