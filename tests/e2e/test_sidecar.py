"""The sidecar as a user runs it, beside a real server: what is logged, what survives whose death, what it says."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from mlops.prediction_log.outcomes import read_outcomes
from mlops.prediction_log.reading import read_log
from mlops.tap import default_folder
from tests.e2e.conftest import PROGRAM, Launcher, Running
from tests.e2e.test_serve import ROW
from tests.support.certificates import Authority, Signed
from tests.support.engines import BEST_FIRST
from tests.support.packages import add_constant
from tickserve.client import Client
from tickserve.v1 import outcomes_pb2 as pb
from tickserve.v1.outcomes_pb2_grpc import OutcomesStub

MakeClient = Callable[..., Client]


@dataclass
class Beside:
    """One sidecar process."""

    process: subprocess.Popen[str]
    http: str
    listen: str
    log: Path

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))

    def wait_for(self, name: str, value: float) -> None:
        until = time.monotonic() + 60
        while self.metric(name) != value:
            assert time.monotonic() < until, f"{name} is {self.metric(name)}, not {value}: {self.log.read_text()}"

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def beside(launcher: Launcher, *options: str) -> Iterator[Beside]:
    """A sidecar that is ready, ended with the context however that is left."""
    log = launcher.home / f"sidecar-{time.monotonic_ns()}.log"
    addresses = ["--http", "127.0.0.1:0", "--listen", f"unix:{launcher.home}/outcomes.sock"]
    with open(log, "w") as stderr:
        process = subprocess.Popen(
            [PROGRAM, "sidecar", *addresses, "--log-format", "json", *options],
            env=launcher.environment,
            stderr=stderr,
            text=True,
        )
    try:
        until = time.monotonic() + 60
        while not (ready := [line for line in log.read_text().splitlines() if '"event": "ready"' in line]):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
        facts = json.loads(ready[0])
        yield Beside(process, facts["http"], facts["listen"], log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def predict(running: Running, client_of: MakeClient, count: int) -> None:
    client = client_of(running)
    for _ in range(count):
        client.predict(ROW, model="demo")


def report(channel: grpc.Channel, launcher: Launcher, *names: str) -> pb.ReportResponse:
    """The first of these outcomes is of a prediction that was logged, the others are of none."""
    known = next(read_log(launcher.home / "log", "demo")).request_id[0]
    outcomes = [
        pb.Outcome(
            outcome_id=name,
            request_row=pb.RequestRow(request_id=known if number == 0 else "nobody", row=0),
            horizon="1d",
            value=0.01,
            available_at_unix_ns=time.time_ns(),
        )
        for number, name in enumerate(names)
    ]
    return OutcomesStub(channel).Report(pb.ReportRequest(outcomes=outcomes), timeout=60)


def logged(launcher: Launcher) -> int:
    return sum(len(batch) for batch in read_log(launcher.home / "log", "demo"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", BEST_FIRST)
def test_every_answer_is_in_the_log_whoever_was_killed_meanwhile(
    launcher: Launcher, client_of: MakeClient, engine: str
) -> None:
    add_constant(launcher.models, 0.5)
    with launcher.serve("--engine", engine) as running, beside(launcher) as first:
        predict(running, client_of, 5)
        first.wait_for("tickserve_sidecar_records_total", 5)
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait(60)
        predict(running, client_of, 4)
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(60)
    with launcher.serve("--engine", engine) as running, beside(launcher) as second:
        predict(running, client_of, 3)
        second.wait_for("tickserve_sidecar_records_total", 12)
        assert second.metric("tickserve_sidecar_dropped_total") == 0
        assert running.terminate() == 0
        second.wait_for("tickserve_sidecar_boots", 0)
        with grpc.insecure_channel(f"unix:{launcher.home}/outcomes.sock") as channel:
            answer = report(channel, launcher, "a", "b")
            assert (answer.accepted, answer.duplicate, answer.unknown) == (2, 0, 1)
            assert report(channel, launcher, "a", "c").duplicate == 1
            with pytest.raises(grpc.RpcError, match="names no prediction"):
                OutcomesStub(channel).Report(
                    pb.ReportRequest(outcomes=[pb.Outcome(outcome_id="x", horizon="1d", available_at_unix_ns=1)])
                )
        assert second.metric('tickserve_outcomes_total{result="accepted"}') == 3
        assert second.terminate() == 0
    assert logged(launcher) == 12
    assert [each.outcome_id for each in read_outcomes(launcher.home / "log")] == ["a", "b", "c"]
    found = json.loads(launcher.run("replay", "--json").stdout)
    assert (found["records"], found["equal"], found["not_replayed"]) == (12, 12, {})
    assert "2 records: 2 equal" in launcher.run("replay", "--model", "demo", "--limit", "2").stdout
    assert "0 records" in launcher.run("replay", "--date", "2001-01-01").stdout
    batches = list(read_log(launcher.home / "log", "demo", "1"))
    assert {float(value) for batch in batches for value in next(iter(batch.outputs.values())).ravel()} == {0.5}


def test_a_second_sidecar_over_one_tap_is_refused(launcher: Launcher) -> None:
    with beside(launcher):
        done = launcher.run("sidecar", "--http", "127.0.0.1:0", "--log", str(launcher.home / "other"), code=2)
        assert "another sidecar holds" in done.stderr
        assert str(default_folder(launcher.home)) in done.stderr


def test_outcomes_are_taken_over_tls_from_those_who_show_a_certificate(launcher: Launcher, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    server, desk, stranger = authority.sign("sidecar"), authority.sign("desk"), other.sign("stranger")
    options = ["--tls-cert", str(server.certificate), "--tls-key", str(server.key)]
    options += ["--tls-client-ca", str(authority.certificate), "--listen", "127.0.0.1:0"]
    with beside(launcher, *options) as running:
        address = next(part for part in running.listen.split(", ") if part.startswith("127"))

        def send(identity: Signed | None) -> pb.ReportResponse:
            shown = (identity.key.read_bytes(), identity.certificate.read_bytes()) if identity else (None, None)
            credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *shown)
            with grpc.secure_channel(address, credentials) as channel:
                return OutcomesStub(channel).Report(pb.ReportRequest(), timeout=60)

        assert send(desk).accepted == 0
        for refused in (stranger, None):
            with pytest.raises(grpc.RpcError) as caught:
                send(refused)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_wrong_settings_are_named(launcher: Launcher) -> None:
    launcher.settings = {"TICKSERVE_SIDECAR_POLL_S": "0"}
    assert "setting poll_s (TICKSERVE_SIDECAR_POLL_S)" in launcher.run("sidecar", code=2).stderr
    launcher.settings = {"TICKSERVE_SIDECAR_POL_S": "1"}
    assert "TICKSERVE_SIDECAR_POL_S is no setting" in launcher.run("sidecar", code=2).stderr
    launcher.settings = {}
    assert "tls_cert and tls_key go together" in launcher.run("sidecar", "--tls-key", "k", code=2).stderr
    assert '"retention_days": 30' in launcher.run("sidecar", "--check-config").stdout
