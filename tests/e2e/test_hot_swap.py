"""Hot swaps of real server processes that serve straight from a registry, on every engine."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlops.package import MODEL_FILE
from mlops.registry import HaltEntry, Registry
from tests.e2e.conftest import PROGRAM, Launcher, Running
from tests.support.engines import BEST, BEST_FIRST, ENGINES
from tests.support.packages import build_constant
from tests.support.registry import ANN, add, gates
from tickserve.client import Client, ModelStatus, ServerStatus
from tickserve.errors import Code, ControlError, HaltedError
from tickserve.wire import grpc_service_pb2 as oip

LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
UNLOAD = "/inference.GRPCInferenceService/RepositoryModelUnload"


class Desk:
    """A registry in a server's home, with versions whose answers are their numbers."""

    def __init__(self, launcher: Launcher, engine: str) -> None:
        self.launcher, self.home, self.engine = launcher, launcher.home, engine
        (self.home / "registry").mkdir()
        self.registry = Registry(
            f"sqlite:///{self.home}/registry/registry.db",
            str(self.home / "registry" / "artifacts"),
            self.home / "cache",
            self.home / "keys",
            evaluate=gates("pass"),
        )

    def add(self, value: float, **changes: Any) -> int:
        return add(self.registry, build_constant(self.home / "packages", value, **changes))

    def promote(self, version: int, **options: Any) -> None:
        self.registry.promote("demo", version, ANN, **options)

    def serve(self, *options: str) -> Any:
        return self.launcher.serve("--source", "registry", "--engine", self.engine, *options)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *arguments], env=self.launcher.environment, capture_output=True, text=True, timeout=120
        )


@pytest.fixture(params=BEST_FIRST)
def desk(launcher: Launcher, request: pytest.FixtureRequest) -> Iterator[Desk]:
    made = Desk(launcher, request.param)
    yield made
    made.registry.close()


def serves(version: str) -> Callable[[ServerStatus], bool]:
    return lambda status: demo(status).stable == version


def demo(status: ServerStatus) -> ModelStatus:
    found = status.model("demo")
    assert found is not None
    return found


def answered_by(running: Running) -> str:
    with Client(running.address, model="demo", timeout_s=60.0) as client:
        answer = client.predict([1.0, 2.0, 3.0])
        assert list(answer.values) == [float(answer.version)]
        return answer.version


def test_what_is_promoted_is_served_and_rolled_back_without_a_load(desk: Desk) -> None:
    for value in (1.0, 2.0):
        desk.add(value)
    desk.promote(1)
    with desk.serve() as running:
        assert answered_by(running) == "1"
        desk.promote(2)
        status = running.control.wait(serves("2"), 60)
        assert (demo(status).previous, demo(status).desired.actor) == ("1", "ann")  # type: ignore[union-attr]
        assert answered_by(running) == "2"
        assert running.control.rollback("demo", actor="kim", reason="bad fills").version == "1"
        assert answered_by(running) == "1"
        # It is desired then, by whoever asked for it, and nothing is held here.
        status = running.control.wait(lambda status: not demo(status).overrides, 60)
        desired = desk.registry.desired("demo")
        assert desired is not None
        why = "rolled back from version 2: bad fills"
        assert (desired.state.named("stable"), desired.actor, desired.reason) == (1, "kim", why)
        assert desk.registry.verify().findings == ()
        kinds = []
        for event in running.control.events():
            kinds.append((event.kind, event.version, event.actor))
            if event.kind == "rolled_back":
                break
        assert kinds == [
            ("installed", "1", ""),
            ("installed", "2", ""),
            ("installed", "1", ""),
            ("rolled_back", "1", "kim"),
        ]
        past = [(event.kind, event.version, event.actor) for event in running.control.past_events()]
        assert past[: len(kinds)] == kinds
    audited = [json.loads(line) for line in (desk.home / "server" / "events.jsonl").read_text().splitlines()]
    assert {"kind": "rolled_back", "actor": "kim", "message": "bad fills"}.items() <= audited[3].items()


def test_version_to_go_back_to_is_there_after_a_restart(desk: Desk) -> None:
    for value in (1.0, 2.0):
        desk.add(value)
    desk.promote(1)
    with desk.serve() as running:
        desk.promote(2)
        running.control.wait(serves("2"), 60)
        running.process.kill()
        running.process.wait(60)
    with desk.serve() as running:
        status = running.control.wait(lambda status: demo(status).previous == "1", 60)
        assert demo(status).stable == "2"
        # With the registry away too: nothing is fetched or loaded for it.
        desk.registry.close()
        folder = desk.home / "registry"
        folder.rename(desk.home / "away")
        folder.write_text("no folder")
        assert running.control.rollback("demo", actor="kim", reason="bad fills").version == "1"
        assert answered_by(running) == "1"
        assert running.terminate() == 0


def test_scale_and_halt_of_desired_state_are_obeyed_and_a_halt_at_a_held_server_too(desk: Desk) -> None:
    desk.add(1.0)
    desk.promote(1)
    with desk.serve() as running, Client(running.address, model="demo", timeout_s=60.0) as client:
        desire(desk, position_scale=0.25)
        running.control.wait(lambda _: client.predict([1.0, 2.0, 3.0]).position_scale == 0.25, 60)
        running.control.hold("demo", actor="kim", reason="freeze")
        desire(desk, halt=HaltEntry(reason="bad fills", actor="ann", since="2026-01-01T00:00:00+00:00"))
        running.control.wait(lambda status: demo(status).halt is not None, 60)
        with pytest.raises(HaltedError, match="was halted by ann: bad fills"):
            client.predict([1.0, 2.0, 3.0])
        # Only there: who halts for all servers is not overruled at one.
        with pytest.raises(ControlError, match="is halted by desired state"):
            running.control.resume("demo", actor="kim", reason="")
        desire(desk, halt=None)
        running.control.wait(lambda status: demo(status).halt is None, 60)
        assert client.predict([1.0, 2.0, 3.0]).version == "1"
        assert running.terminate() == 0


def test_server_that_is_held_stays_over_a_restart_until_it_follows_again(desk: Desk) -> None:
    for value in (1.0, 2.0):
        desk.add(value)
    desk.promote(1)
    with desk.serve() as running:
        done = desk.run("follow", "off", "demo", "--actor", "kim", "--reason", "freeze")
        assert (done.returncode, done.stdout) == (0, "held: demo\n")
        desk.promote(2)
        running.control.wait(lambda status: demo(status).desired.stable == "2", 60)  # type: ignore[union-attr]
        assert answered_by(running) == "1"
        assert running.terminate() == 0
    with desk.serve() as running:
        status = running.control.status()
        assert answered_by(running) == "1"
        [override] = demo(status).overrides
        assert (override.kind, override.actor, override.reason) == ("held", "kim", "freeze")
        assert not demo(status).is_following
        assert desk.run("follow", "on", "--all", "--actor", "kim").stdout == "following: demo\n"
        running.control.wait(serves("2"), 60)
        assert running.terminate() == 0


def test_registry_that_is_away_stops_neither_serving_nor_a_restart(desk: Desk) -> None:
    desk.add(1.0)
    desk.promote(1)
    folder, away = desk.home / "registry", desk.home / "away"
    with desk.serve() as running:
        desk.registry.close()
        folder.rename(away)
        folder.write_text("no folder")
        # SQLite still has the file open; tests/integration/test_registry_away.py stops a PostgreSQL.
        assert answered_by(running) == "1"
        assert running.terminate() == 0
    with desk.serve() as running:
        status = running.control.status()
        assert answered_by(running) == "1"
        assert status.source_error
        assert "tickserve_source_stale 1.0" in metrics(running)
        folder.unlink()
        away.rename(folder)
        desk.add(2.0)
        desk.promote(2)
        status = running.control.wait(serves("2"), 60)
        assert status.source_error == ""
        assert "tickserve_source_stale 0.0" in metrics(running)
        assert running.terminate() == 0


def test_rollback_that_desired_state_does_not_say_is_done_and_exits_with_3(desk: Desk) -> None:
    for value in (1.0, 2.0):
        desk.add(value)
    desk.promote(1)
    with desk.serve() as running:
        desk.promote(2)
        running.control.wait(serves("2"), 60)
        desk.registry.close()
        assert running.terminate() == 0
    (desk.home / "registry").rename(desk.home / "away")
    with desk.serve() as running:
        running.control.wait(lambda status: demo(status).previous == "1", 60)
        done = desk.run("rollback", "demo", "--reason", "bad fills", "--actor", "kim")
        assert (done.returncode, done.stdout) == (3, "demo: version 1 answers\n")
        assert "desired state does not say so, and no other server follows: there is no registry at" in done.stderr
        assert answered_by(running) == "1"
        assert running.terminate() == 0


@pytest.mark.integration
def test_registry_that_does_not_answer_stops_no_restart(desk: Desk) -> None:
    desk.add(1.0)
    desk.promote(1)
    with desk.serve() as running:
        assert running.terminate() == 0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # Takes connections and never says a word, as a database that is stopped does.
        url = f"postgresql://desk@127.0.0.1:{silent.getsockname()[1]}/registry"
        with desk.serve("--registry", url) as running:
            assert answered_by(running) == "1"
            status = running.control.wait(lambda status: bool(status.source_error), 60)
            assert "the registry has not answered for" in status.source_error
            assert "tickserve_source_stale 1.0" in metrics(running)
            assert running.control.halt("demo", actor="kim", reason="test").models == ("demo",)
            assert running.terminate() == 0


def test_repository_load_and_unload_are_a_halt_that_only_its_maker_ends(desk: Desk) -> None:
    desk.add(1.0)
    desk.promote(1)
    load = oip.RepositoryModelLoadRequest(model_name="demo").SerializeToString()
    unload = oip.RepositoryModelUnloadRequest(model_name="demo").SerializeToString()
    with desk.serve() as running, grpc.insecure_channel(f"unix:{desk.home / 'admin.sock'}") as admin:
        with grpc.insecure_channel(running.address) as data, pytest.raises(grpc.RpcError) as denied:
            data.unary_unary(UNLOAD)(unload, timeout=60)
        assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
        admin.unary_unary(UNLOAD)(unload, timeout=60)
        with pytest.raises(HaltedError, match="unloaded by RepositoryModelUnload"):
            answered_by(running)
        admin.unary_unary(LOAD)(load, timeout=60)
        assert answered_by(running) == "1"
        running.control.halt("demo", reason="bad fills", actor="kim")
        with pytest.raises(grpc.RpcError) as refused:
            admin.unary_unary(LOAD)(load, timeout=60)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "was halted by kim: bad fills" in str(refused.value.details())
        assert running.terminate() == 0


def test_promotion_waits_for_every_server_and_names_who_lags_and_why(desk: Desk) -> None:
    for value in (1.0, 2.0, 3.0):
        desk.add(value)
    desk.promote(1)
    with desk.serve("--config", named(desk, "desk-a")) as running:
        # By hand, because the program's gates would judge the models.
        desk.promote(2)
        running.control.wait(serves("2"), 60)
        done = wait_for_fleet(desk, 0)
        [server] = done["servers"]
        assert (server["server"], server["state"], server["models"]["demo"]["split"]) == (
            "desk-a",
            "serving",
            {"2": 10000},
        )
        running.control.hold("demo", actor="kim", reason="freeze")
        desk.promote(3)
        done = wait_for_fleet(desk, 1)
        assert done["lagging"] == [{"server": "desk-a", "model": "demo", "why": "held by kim: freeze"}]
        assert "held by kim: freeze" in desk.run("status", "--all").stdout.replace("\n", " ")
        served = {(item.version, item.role) for item in desk.registry.served("demo")}
        assert served == {(2, "stable"), (1, "previous")}
        assert running.terminate() == 0
    assert desk.registry.served("demo") == []


def test_package_that_is_damaged_in_the_cache_is_fetched_again_and_in_the_store_is_refused(desk: Desk) -> None:
    for value in (1.0, 2.0):
        desk.add(value)
    desk.promote(1)
    with desk.serve() as running:
        assert running.terminate() == 0
    [cached] = [path for path in (desk.home / "server" / "cache").iterdir() if len(path.name) == 64]
    damage(cached / MODEL_FILE)
    with desk.serve() as running:
        assert answered_by(running) == "1"
        running.control.hold("demo", actor="kim", reason="until the store is damaged")
        # The gates read the package too.
        desk.promote(2)
        for artifact in (desk.home / "registry" / "artifacts" / "sha256").rglob("*"):
            if artifact.is_file() and artifact.read_bytes() == (packages(desk, 2) / MODEL_FILE).read_bytes():
                damage(artifact)
        running.control.follow("demo", actor="kim")
        status = running.control.wait(lambda status: bool(demo(status).failed), 60)
        [failed] = demo(status).failed
        assert (failed.version, failed.code) == ("2", Code.DATA_LOSS)
        assert "is damaged" in failed.message
        assert answered_by(running) == "1"
        assert 'tickserve_failed_change{model="demo",version="2"} 1.0' in metrics(running)
        assert running.terminate() == 0


def test_schema_changes_only_by_name(desk: Desk) -> None:
    desk.add(1.0)
    desk.add(2.0, feature_names=("rsi", "momentum", "volume"))
    desk.promote(1)
    with desk.serve() as running:
        with pytest.raises(Exception, match="another schema"):
            desk.promote(2)
        desk.promote(2, schema_override=2)
        running.control.wait(serves("2"), 60)
        with pytest.raises(ControlError):
            running.control.rollback("other", actor="kim")
        assert running.terminate() == 0


def metrics(running: Running) -> str:
    with urllib.request.urlopen(f"http://{running.http}/metrics", timeout=60) as response:
        return str(response.read().decode())


#: Those in which an engine has a part, and those in which none has.
STEPS_OF_ENGINES = ("before-prepare", "prepared", "installed")
STEPS = ("before-state", "after-state", "half-fetched", "fetched", "before-written", "written")


#: The others take longer than `make test` has.
SOME = (("prepared", BEST), ("installed", "python"))


def each_step() -> Iterator[Any]:
    for step in (*STEPS, *STEPS_OF_ENGINES):
        for engine in ENGINES if step in STEPS_OF_ENGINES else (BEST,):
            yield pytest.param(step, engine, marks=() if (step, engine) in SOME else pytest.mark.integration)


@pytest.mark.parametrize(("step", "engine"), list(each_step()))
def test_server_that_is_killed_at_any_step_of_a_swap_comes_back_with_a_verified_version(
    launcher: Launcher, step: str, engine: str
) -> None:
    desk = Desk(launcher, engine)
    for value in (1.0, 2.0):
        desk.add(value)
    desk.promote(1)
    with desk.serve() as running:
        assert running.terminate() == 0
    launcher.program = [sys.executable, "-m", "tests.support.killed", step]
    with desk.serve() as running:
        assert answered_by(running) == "1"
        desk.promote(2)
        assert running.process.wait(60) == -signal.SIGKILL
    launcher.program = [PROGRAM]
    # Also with the registry away, once the new state was read, or the one before.
    folder = desk.home / "registry"
    desk.registry.close()
    folder.rename(desk.home / "away")
    with desk.serve() as running:
        assert answered_by(running) in ("1", "2")
        (desk.home / "away").rename(folder)
        running.control.wait(serves("2"), 60)
        assert answered_by(running) == "2"
        assert running.terminate() == 0


def desire(desk: Desk, **changes: Any) -> None:
    """Changes some of the desired state, and leaves the rest."""
    found = desk.registry.desired("demo")
    assert found is not None
    desk.registry.set_desired("demo", found.state.model_copy(update=changes), ANN, found.revision)


def named(desk: Desk, name: str) -> str:
    path = desk.home / "server.toml"
    path.write_text(f'server_name = "{name}"\n')
    return str(path)


def wait_for_fleet(desk: Desk, code: int) -> Any:
    """What `status --all` says once it ends with this code."""
    for _ in range(60):
        done = desk.run("status", "--all", "--json")
        if done.returncode == code:
            return json.loads(done.stdout)
    pytest.fail(f"{done.returncode}: {done.stdout}{done.stderr}")


def packages(desk: Desk, version: int) -> Path:
    return desk.home / "packages" / desk.registry.version("demo", version).digest


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)
