"""`tickserve serve`, as an operator meets it: start, refusal to start, change, halt, drain, exit."""

import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops.package import MANIFEST_FILE, MODEL_FILE
from tests.e2e.conftest import PROGRAM, ControlClientContext, Launcher, Running
from tests.support.models import FEATURES, slow_model, working_model
from tests.support.packages import add_constant, add_endless_load, build_constant, flip_byte
from tickserve.client import Client, ServerStatus
from tickserve.errors import DrainingError, HaltedError, TickserveError, UnreachableError

MakeClient = Callable[..., Client]
ROW = dict.fromkeys(FEATURES, 1.0)
MANY = 40


def get(running: Running, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{running.http}{path}", timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_serves_predictions_metrics_and_probes(launcher: Launcher, client_of: MakeClient) -> None:
    add_constant(launcher.models, 0.5)
    with launcher.serve() as running:
        answer = client_of(running).predict(ROW, model="demo")
        assert answer.values.tolist() == [[0.5]]
        assert (get(running, "/livez"), get(running, "/readyz")) == ((200, "ok\n"), (200, "ok\n"))
        assert get(running, "/nothing")[0] == 404
        status, metrics = get(running, "/metrics")
        assert status == 200
        assert 'tickserve_requests_total{model="demo",outcome="ok",role="stable",version="1"} 1.0' in metrics
        assert f'digest="{answer.digest}"' in metrics
        assert 'tickserve_stage_seconds_count{model="demo",role="stable",stage="run",version="1"} 1.0' in metrics
        assert "process_resident_memory_bytes" in metrics
        assert running.terminate() == 0


def test_version_that_is_added_takes_over_without_a_failed_request(launcher: Launcher, client_of: MakeClient) -> None:
    add_constant(launcher.models, 1.0)
    with launcher.serve() as running:
        seen: list[tuple[str, float]] = []
        failures: list[TickserveError] = []
        stop = threading.Event()

        def load() -> None:
            client = client_of(running)
            while not stop.is_set():
                try:
                    answer = client.predict(ROW, model="demo")
                    seen.append((answer.version, float(answer.values[0, 0])))
                except TickserveError as error:
                    failures.append(error)

        thread = threading.Thread(target=load)
        thread.start()
        add_constant(launcher.models, 2.0)
        running.control.wait(lambda status: status.models[0].versions[0].version == "2", 60)
        after = len(seen)
        running.control.wait(lambda _: len(seen) > after + 20, 60)
        stop.set()
        thread.join()
        assert failures == []
        assert set(seen) == {("1", 1.0), ("2", 2.0)}
        assert seen == sorted(seen)


def test_damaged_version_is_refused_while_the_old_one_answers(launcher: Launcher, client_of: MakeClient) -> None:
    first = add_constant(launcher.models, 1.0)
    with launcher.serve() as running:
        damaged = launcher.home / "damaged"
        shutil.copytree(first, damaged)
        flip_byte(damaged / MODEL_FILE)
        damaged.rename(launcher.models / "demo" / "2")
        status = running.control.wait(lambda status: bool(status.models[0].failed), 60)
        (failed,) = status.models[0].failed
        assert (failed.version, failed.code.name) == ("2", "DATA_LOSS")
        assert "model.onnx is damaged" in failed.message
        assert client_of(running).predict(ROW, model="demo").version == "1"
        assert 'tickserve_failed_change{model="demo",version="2"} 1.0' in get(running, "/metrics")[1]


def test_halt_is_obeyed_survives_a_restart_and_ends_with_resume(launcher: Launcher, client_of: MakeClient) -> None:
    add_constant(launcher.models, 1.0)
    with launcher.serve() as running:
        launcher.run("halt", "demo", "--reason", "bad fills", "--actor", "kim")
        with pytest.raises(HaltedError, match="model 'demo' was halted by kim: bad fills"):
            client_of(running).predict(ROW, model="demo")
        assert running.terminate() == 0
    with launcher.serve() as running:
        with pytest.raises(HaltedError):
            client_of(running).predict(ROW, model="demo")
        shown = json.loads(launcher.run("status", "--json").stdout)
        assert shown["models"][0]["state"] == "halted"
        assert shown["models"][0]["halt"]["actor"] == "kim"
        launcher.run("resume", "demo", "--actor", "kim")
        assert client_of(running).predict(ROW, model="demo").values.tolist() == [[1.0]]
        launcher.run("halt", "nope", "--reason", "typo", "--actor", "kim", code=2)


def test_drain_answers_what_is_in_flight_refuses_the_rest_and_exits_0(
    launcher: Launcher, client_of: MakeClient
) -> None:
    folder = launcher.models / "slow" / "1"
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(working_model())
    with launcher.serve("--grace-s", "60") as running:
        client = client_of(running, check_features=False)
        outcomes: list[object] = []

        def ask() -> None:
            try:
                # Seconds of work, in which it is seen to be in flight and told to drain.
                outcomes.append(client.predict([3000.0, 2.0, 3.0], model="slow").values.tolist())
            except TickserveError as error:
                outcomes.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        running.control.wait(lambda _: "tickserve_in_flight_requests 1.0" in get(running, "/metrics")[1], 60)
        launcher.run("drain", "--reason", "deploy", "--actor", "kim")
        assert running.process.wait(60) == 0
        thread.join()
        assert outcomes == [[[3005.0]]]
        with pytest.raises((UnreachableError, DrainingError)):
            client.predict([1.0, 2.0, 3.0], model="slow")
    log = running.log.read_text()
    assert log.index("draining") < log.index("stopped")


def test_drain_is_not_ready_first_and_goes_on_answering_for_the_delay(
    launcher: Launcher, client_of: MakeClient
) -> None:
    add_constant(launcher.models, 1.0)
    launcher.settings["TICKSERVE_DRAIN_DELAY_S"] = "6"
    with launcher.serve() as running:
        client = client_of(running)
        client.predict(ROW, model="demo")
        running.process.terminate()
        running.control.wait(lambda status: status.state == "draining", 60)
        assert get(running, "/readyz")[0] == 503
        assert get(running, "/livez")[0] == 200
        assert client.predict(ROW, model="demo").values.tolist() == [[1.0]]
        assert running.process.wait(60) == 0


def test_run_that_outlives_the_grace_does_not_keep_the_process(launcher: Launcher, client_of: MakeClient) -> None:
    folder = launcher.models / "slow" / "1"
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(working_model())
    with launcher.serve("--grace-s", "0.1") as running:
        client = client_of(running, check_features=False)
        # Hours of work: no bound here is met by waiting for it.
        threads = [
            threading.Thread(target=lambda: client.predict([1e7, 2.0, 3.0], model="slow", timeout_s=600), daemon=True)
            for _ in range(8)
        ]
        threading.excepthook = lambda _: None
        for thread in threads:
            thread.start()
        running.control.wait(lambda _: "tickserve_in_flight_requests 8.0" in get(running, "/metrics")[1], 60)
        running.process.terminate()
        assert running.process.wait(60) == 0


def test_told_to_stop_while_loading_it_never_becomes_ready(launcher: Launcher) -> None:
    # Many, and each takes a while: the first is seen long before the last.
    for number in range(MANY):
        folder = launcher.models / f"slow-{number}" / "1"
        folder.mkdir(parents=True)
        (folder / MODEL_FILE).write_bytes(slow_model(repeats=250 + number))
    log = launcher.home / "server.log"
    with open(log, "w") as stderr:
        process = subprocess.Popen(
            [PROGRAM, "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"],
            env=launcher.environment,
            stderr=stderr,
        )
    try:
        while not installed_models(log.read_text()):
            assert process.poll() is None
            threading.Event().wait(0.05)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
    text = log.read_text()
    assert "stopped" in text
    assert "ready" not in text
    assert installed_models(text) < MANY


def installed_models(log: str) -> int:
    """How many models a log says were installed; the engine is installed too, in another sense."""
    return sum("installed" in line and "slow-" in line for line in log.splitlines())


def is_loading(status: ServerStatus, model: str) -> bool:
    return any(record.name == model and record.state == "loading" for record in status.models)


def test_load_under_way_does_not_hold_up_the_end(launcher: Launcher, client_of: MakeClient) -> None:
    add_constant(launcher.models, 1.0)
    with launcher.serve("--grace-s", "1") as running:
        add_endless_load(launcher.models)
        running.control.wait(lambda status: is_loading(status, "endless"), 60)
        launcher.run("halt", "demo", "--reason", "test", "--actor", "kim")
        assert running.terminate() == 0
        log = running.log.read_text()
        assert "stopped" in log
        assert "model=endless" not in log
    written = sorted(path.name for path in (launcher.home / "server").iterdir())
    assert written == ["events.jsonl", "halts.json", "lock", "served.json"]
    shutil.rmtree(launcher.models / "endless")
    with launcher.serve() as running, pytest.raises(HaltedError):
        client_of(running).predict(ROW, model="demo")


def test_load_at_the_start_does_not_hold_up_the_end(launcher: Launcher) -> None:
    add_endless_load(launcher.models)
    free = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    process = subprocess.Popen([PROGRAM, "serve", *free], env=launcher.environment, stderr=subprocess.DEVNULL)
    try:
        with ControlClientContext(f"unix:{launcher.home / 'admin.sock'}") as control:
            control.wait(lambda status: is_loading(status, "endless"), 60)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()


def test_package_that_is_copied_model_first_is_never_served_as_a_bare_model(
    launcher: Launcher, client_of: MakeClient
) -> None:
    package = build_constant(launcher.home / "packages", 2.0)
    add_constant(launcher.models, 1.0)
    launcher.settings["TICKSERVE_SETTLE_S"] = "600"
    with launcher.serve() as running:
        copied = launcher.models / "demo" / "2"
        copied.mkdir()
        shutil.copy(package / MODEL_FILE, copied)
        running.control.wait(lambda _: "settling" in running.log.read_text(), 60)
        # Several looks at what could be a bare model.
        generation = running.control.status().plan_generation
        for name in sorted(path.name for path in package.iterdir() if path.name not in (MODEL_FILE, MANIFEST_FILE)):
            shutil.copy(package / name, copied)
        shutil.copy(package / MANIFEST_FILE, copied)
        status = running.control.wait(lambda status: status.models[0].versions[0].version == "2", 60)
        assert status.models[0].versions[0].digest == package.name
        assert status.plan_generation == generation + 1
        assert client_of(running).predict(ROW, model="demo").values.tolist() == [[2.0]]


def test_refuses_to_start_on_a_bad_model_unless_told_to_serve_the_rest(
    launcher: Launcher, client_of: MakeClient
) -> None:
    add_constant(launcher.models, 1.0, name="good")
    path = add_constant(launcher.models, 1.0, name="bad")
    (path / "extra.txt").write_text("no part of a package")
    failed = launcher.run("serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", code=1)
    assert "error: model 'bad', version 1: " in failed.stderr
    assert "extra.txt" in failed.stderr
    assert "--serve-rest" in failed.stderr
    with launcher.serve("--serve-rest") as running:
        assert client_of(running).predict(ROW, model="good").values.tolist() == [[1.0]]


def test_refuses_to_start_without_any_model(launcher: Launcher) -> None:
    options = ("serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert "no models in" in launcher.run(*options, code=1).stderr
    launcher.models.rmdir()
    assert str(launcher.models) in launcher.run(*options, code=1).stderr


def test_refuses_to_start_beside_a_server_of_the_same_home_or_port(launcher: Launcher) -> None:
    add_constant(launcher.models, 1.0)
    with launcher.serve() as running:
        free = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
        # As while the one that runs fetches a package.
        fetching = launcher.home / "server" / "cache" / ".incoming-1"
        fetching.mkdir(parents=True)
        options = ("--source", "registry", "--admin", f"unix:{launcher.home / 'b.sock'}")
        same_home = launcher.run("serve", *free, *options, code=2)
        assert "another server runs over" in same_home.stderr
        assert fetching.exists()
        other = ("serve", "--home", str(launcher.home / "other"), "--models", str(launcher.models))
        same_admin = launcher.run(*other, *free, "--admin", f"unix:{launcher.home / 'admin.sock'}", code=2)
        assert "another server answers on" in same_admin.stderr
        same_port = launcher.run(*other, "--listen", running.address, "--http", "127.0.0.1:0", code=2)
        assert "listen" in same_port.stderr
        same_http = launcher.run(*other, "--listen", "127.0.0.1:0", "--http", running.http, code=2)
        assert f"http: cannot listen on {running.http}" in same_http.stderr


def test_log_that_cannot_be_written_stops_nothing(launcher: Launcher, client_of: MakeClient) -> None:
    add_constant(launcher.models, 1.0)
    with launcher.serve(log=Path("/dev/full")) as running:
        launcher.run("halt", "demo", "--reason", "test", "--actor", "kim")
        launcher.run("resume", "demo", "--actor", "kim")
        add_constant(launcher.models, 2.0)
        running.control.wait(lambda status: status.models[0].versions[0].version == "2", 60)
        assert client_of(running).predict(ROW, model="demo").values.tolist() == [[2.0]]
        assert running.terminate() == 0


def test_starts_where_a_killed_server_left_its_socket(launcher: Launcher) -> None:
    add_constant(launcher.models, 1.0)
    with launcher.serve() as running:
        running.process.kill()
        running.process.wait()
        assert (launcher.home / "admin.sock").exists()
    with launcher.serve() as running:
        assert running.control.status().is_serving


def test_check_config_prints_the_settings_or_names_the_wrong_one(launcher: Launcher) -> None:
    shown = json.loads(launcher.run("serve", "--check-config", "--grace-s", "3").stdout)
    assert (shown["grace_s"], shown["models"]) == (3.0, str(launcher.models))
    assert "setting http (--http) is 'x'" in launcher.run("serve", "--check-config", "--http", "x", code=2).stderr


def test_status_of_no_server_is_exit_3(launcher: Launcher) -> None:
    assert "admin.sock" in launcher.run("status", code=3).stderr


def test_help_lists_every_command() -> None:
    shown = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, timeout=30, check=True).stdout
    for command in ("demo", "train", "serve", "predict", "status", "halt", "resume", "drain", "package"):
        assert command in shown
