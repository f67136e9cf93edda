"""`tickserve bench` as it is typed: what it refuses, what it measures, how it ends."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.unit.client.scripted import ScriptedServer
from tickserve import cli
from tickserve.errors import ConfigurationError, TickserveError, UnreachableError
from tickserve.load import TIMES

pytest.importorskip("tickserve_native")
SHORT = ("--duration", "0.3", "--warmup", "0.1")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.stop()


def invoke(*arguments: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["bench", *arguments])


def refused(*arguments: str) -> TickserveError:
    """The error of a run that must not begin."""
    error = invoke(*arguments).exception
    assert isinstance(error, TickserveError), error
    return error


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--open"], "--open needs --rate"),
        (["--open", "--rate", "0"], "--open needs --rate"),
        (["--open", "--rate", "nan"], "--open needs --rate"),
        (["--rate", "10"], "belong to --open"),
        (["--max-in-flight", "10"], "belong to --open"),
        (["--open", "--rate", "10", "--concurrency", "2"], "belongs to --closed"),
        (["--concurrency", "0"], "1 to 100000"),
        (["--duration", "0"], "--duration 0"),
        (["--deadline", "-1"], "--deadline -1"),
        (["--warmup", "-1"], "--warmup -1"),
        (["--warmup", "nan"], "--warmup nan"),
        (["--concurrency", "100000000"], "1 to 100000"),
        (["--open", "--rate", "1", "--max-in-flight", "0"], "1 to 100000"),
        (["--report", "/nowhere/r", "--raw", "/nowhere/x/../r"], "name one file twice"),
        (["--api", "rest"], "neither infer nor predict"),
        (["--payload", "golden"], "needs --package"),
        (["--address", "nowhere"], "--address"),
        (["--address", "unix:/tmp/x.sock", "--tls-ca", "x.pem"], "cannot be read"),
        (["--tls-cert", "x.pem"], "go together"),
        (["--report", "/nowhere/r.json"], "--report /nowhere/r.json cannot be written"),
        (["--plot", "/nowhere/p.svg"], "--plot /nowhere/p.svg cannot be written"),
        (["--shape", "x"], "NAME:D1,D2"),
        (["--shape", "x:1,0"], "NAME:D1,D2"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_sent(options: list[str], text: str) -> None:
    error = refused("m", *options)
    assert text in error.message
    assert cli._exit_code(error) == 2


def test_a_server_that_is_away_is_exit_code_3() -> None:
    error = refused("m", "--address", "127.0.0.1:1", "--api", "predict")
    assert isinstance(error, UnreachableError)
    assert cli._exit_code(error) == 3


def test_without_the_native_wheel_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tickserve_native", None)
    error = refused("m", "--address", "127.0.0.1:1")
    assert isinstance(error, ConfigurationError)
    assert "make native" in error.message


def test_without_matplotlib_a_picture_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = refused("m", "--address", "127.0.0.1:1", "--plot", str(tmp_path / "p.svg"))
    assert "--plot needs matplotlib" in error.message


@pytest.mark.parametrize("streams", [[], ["--stream"]], ids=["unary", "stream"])
@pytest.mark.parametrize("pace", [["--concurrency", "2"], ["--open", "--rate", "50"]], ids=["closed", "open"])
def test_a_run_reports_what_the_server_saw(
    server: ScriptedServer, tmp_path: Path, streams: list[str], pace: list[str]
) -> None:
    server.script.models["m"].requires_event_time = False
    server.script.models["m"].ClearField("max_age_ns")
    files = [tmp_path / name for name in ("r.json", "p.svg", "raw.npy")]
    named = [word for name, file in zip(("report", "plot", "raw"), files, strict=True) for word in (f"--{name}", file)]
    done = invoke(
        "m", "--address", server.address, "--api", "predict", *SHORT, *pace, *streams, "--json", *map(str, named)
    )
    report = json.loads(files[0].read_text())
    # A busy machine may make the generator late: then, and only then, is it not 0.
    assert done.exit_code == (1 if any(flag["spoils"] for flag in report["flags"]) else 0), done.output
    times = np.load(files[2])
    assert times.dtype == TIMES
    assert files[1].read_text().startswith("<?xml")
    # One was sent to try it.
    assert len(server.script.requests) == len(times) + 1
    assert report["requests"] + sum(report["warmup_outcomes"].values()) == len(times)
    assert report["outcomes"] == {"OK": report["requests"]}
    assert report["answered"] > 0
    if "--open" in pace:
        assert report["requests"] == 15


def test_a_request_that_the_server_refuses_ends_it_before_the_run(server: ScriptedServer) -> None:
    error = refused("unknown", "--address", server.address, "--api", "infer")
    assert "UNIMPLEMENTED" in error.message
    assert cli._exit_code(error) == 1


def test_event_times_that_would_be_too_old_are_refused(server: ScriptedServer) -> None:
    error = refused("m", "--address", server.address, "--api", "predict", *SHORT)
    assert "refuses event times older" in error.message
    assert cli._exit_code(error) == 2


def test_nothing_is_left_where_a_run_does_not_begin(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    for name in ("new.json", "old.json"):
        refused("m", "--address", "127.0.0.1:1", "--report", str(tmp_path / name))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("old.json", "old")]


def test_a_full_disk_does_not_cost_the_figures(server: ScriptedServer, tmp_path: Path) -> None:
    server.script.models["m"].requires_event_time = False
    kept = tmp_path / "raw.npy"
    command = ("m", "--address", server.address, "--api", "predict", *SHORT, "--raw", str(kept))
    done = invoke(*command, "--report", "/dev/full", "--plot", str(tmp_path / "p.svg"))
    assert isinstance(done.exception, TickserveError), done.exception
    assert done.exception.message == "/dev/full could not be written: No space left on device"
    assert "requests/s answered" in done.output
    assert len(np.load(kept)) > 0
    assert (tmp_path / "p.svg").exists()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    options = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*command.split(), *options, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def test_tls_checks_the_server_and_shows_the_own_certificate(certificate: tuple[Path, Path]) -> None:
    chain, key = (path.read_bytes() for path in certificate)
    credentials = grpc.ssl_server_credentials([(key, chain)], root_certificates=chain, require_client_auth=True)
    server = ScriptedServer(credentials=credentials)
    server.script.models["m"].requires_event_time = False
    common = ["m", "--address", server.address, "--api", "predict", *SHORT]
    own = ["--tls-ca", str(certificate[0]), "--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]
    try:
        done = invoke(*common, *own, "--json")
        assert done.exit_code in (0, 1), done.output
        assert len(server.script.requests) > 1
        for options in ([], own[:2], own[2:]):
            assert isinstance(refused(*common, *options), UnreachableError)
    finally:
        server.stop()


def test_a_unix_socket_is_asked_as_well(tmp_path: Path) -> None:
    server = ScriptedServer(f"unix:{tmp_path}/s.sock")
    server.script.models["m"].requires_event_time = False
    try:
        done = invoke("m", "--address", server.address, "--api", "predict", *SHORT)
        assert done.exit_code in (0, 1), done.output
        assert len(server.script.requests) > 1
    finally:
        server.stop()


def test_an_interrupt_ends_it_with_the_figures_so_far(server: ScriptedServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tickserve.cli", "bench", "m", "--address", server.address, "--api", "predict"]
    server.script.models["m"].requires_event_time = False
    process = subprocess.Popen(
        [*command, "--duration", "3600", "--warmup", "0", "--report", str(tmp_path / "r.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while len(server.script.requests) < 20:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, complaint = process.communicate(timeout=60)
    report = json.loads((tmp_path / "r.json").read_text())
    assert "interrupted after" in complaint
    assert "requests/s answered" in said
    assert [flag["kind"] for flag in report["flags"] if flag["kind"] == "interrupted"] == ["interrupted"]
    assert process.returncode == int(any(flag["spoils"] for flag in report["flags"]))
    assert report["measured_s"] < 3600
    assert report["outcomes"] == {"OK": len(server.script.requests) - 1}
