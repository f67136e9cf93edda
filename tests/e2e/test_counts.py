"""Counts from real servers by real sidecars: everything that was asked is in the registry once, whoever is killed."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.package import ReferenceRows
from mlops.package.manifest import ColumnMapping
from mlops.registry.database import Database
from mlops.rollout.sums import MIXED_SHARE, CountedWindow, read_outputs, read_reporters, read_windows, sum_outputs
from mlops.tap import boots, default_folder
from tests.e2e.conftest import Launcher, Running
from tests.e2e.test_fleet import Fleet, fleet
from tests.e2e.test_serve import ROW
from tests.e2e.test_sidecar import Beside, beside
from tests.support.engines import ENGINES
from tests.support.registry import ANN
from tickserve.client import Client, ServerStatus

__all__ = ["fleet"]
OUTPUTS = np.random.default_rng(3).normal(size=(100, 1)).astype(np.float32)
WINDOW_S = "0.5"
WINDOW_NS = 500_000_000
END_NS = 1 << 62


class Counted:
    """What a registry holds of the model `demo`."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)

    def windows(self) -> list[CountedWindow]:
        with self.database.read() as connection:
            return list(read_windows(connection, "demo", 0))

    def requests(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for row in self.windows():
            found[row.version] += int(row.counts.requests.sum())
        return found

    def answers(self) -> Counter[int]:
        with self.database.read() as connection:
            found: Counter[int] = Counter()
            for each in read_outputs(connection, "demo", 0, END_NS):
                found[each.version] += each.answers
            return found

    def by_role(self) -> dict[tuple[int, int], int]:
        found: Counter[tuple[int, int]] = Counter()
        for row in self.windows():
            found[row.version, row.role] += int(row.counts.requests.sum())
        return dict(found)

    def pairs(self) -> tuple[int, int]:
        """Rows that a shadow answered too, and those of the other sign."""
        with self.database.read() as connection:
            found = read_outputs(connection, "demo", 0, END_NS)
        return sum(int(each.pairs.sum()) for each in found), sum(int(each.flips.sum()) for each in found)

    def wait(self, what: Callable[[], Any], wanted: Any) -> None:
        until = time.monotonic() + 60
        while (found := what()) != wanted:
            assert time.monotonic() < until, f"{found}, not {wanted}"
            time.sleep(0.05)


def sidecar(launcher: Launcher, url: str) -> Any:
    """A sidecar of a server of the fleet."""
    settings = {"REGISTRY": url, "COUNTS_WINDOW_S": WINDOW_S, "CHECKPOINT_S": "0.5", "ALERTS": "off"}
    return beside(replace(launcher, settings={f"TICKSERVE_SIDECAR_{name}": each for name, each in settings.items()}))


@contextmanager
def server(fleet: Fleet, name: str, engine: str) -> Iterator[tuple[Running, Launcher]]:
    home = fleet.folder / name
    (home / "models").mkdir(parents=True, exist_ok=True)
    if home not in fleet.homes:
        fleet.homes.append(home)
    launcher = Launcher(home, fleet.settings | {"TICKSERVE_SERVER_NAME": name, "TICKSERVE_ENGINE": engine})
    with launcher.serve() as running:
        running.control.wait(is_serving, 60)
        yield running, launcher


def is_serving(status: ServerStatus) -> bool:
    return any(model.name == "demo" and model.state == "serving" for model in status.models)


def shares(status: ServerStatus, *versions: str) -> bool:
    model = status.model("demo")
    return model is not None and {each.version for each in model.versions if each.weight_bp} == set(versions)


def ask(running: Running, count: int, into: Counter[int]) -> None:
    """Asks for many keys; `into` counts who answered."""
    with Client(running.address, model="demo", timeout_s=60.0) as client:
        for number in range(count):
            into[int(client.predict(ROW, routing_key=f"key-{number}").version)] += 1


def kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ENGINES)
def test_everything_is_counted_once_over_kills_of_sidecar_and_server_and_changes_of_the_split(
    fleet: Fleet, engine: str
) -> None:
    for value in (1.0, 2.0):
        fleet.add(value)
    fleet.registry.promote("demo", 1, ANN)
    url = fleet.settings["TICKSERVE_REGISTRY"]
    asked: Counter[int] = Counter()
    counted = Counted(url)
    home = fleet.folder / "desk-a"
    with server(fleet, "desk-a", engine) as (running, launcher):
        with sidecar(launcher, url) as first:
            ask(running, 50, asked)
            fleet.run("split", "set", "demo", "2=30", "--reason", "try")
            running.control.wait(lambda status: shares(status, "1", "2"), 60)
            until = time.monotonic() + 60
            while not {3_000, 7_000} <= {row.share_bp for row in counted.windows()}:
                ask(running, 50, asked)
                assert time.monotonic() < until, counted.windows()
            kill(first.process)
        ask(running, 40, asked)
        with sidecar(launcher, url) as second:
            ask(running, 40, asked)
            counted.wait(counted.requests, asked)
            kill(running.process)
            ask_again(fleet, engine, asked, counted, second)
    assert asked[2] > 0
    for row in counted.windows():
        if row.share_bp != MIXED_SHARE:
            assert (row.version, row.share_bp) in {(1, 10_000), (1, 7_000), (2, 3_000)}
    with counted.database.read() as connection:
        found = read_reporters(connection, "demo")
    assert {each.server for each in found} == {"desk-a"}
    assert [each.has_ended for each in sorted(found, key=lambda each: each.boot)] == [True, True]
    # Nobody needs them any more, which the next server sees.
    with server(fleet, "desk-a", engine) as (running, _):
        assert len(boots(default_folder(home))) == 1
        assert running.terminate() == 0
    counted.database.close()


def ask_again(fleet: Fleet, engine: str, asked: Counter[int], counted: Counted, beside: Beside) -> None:
    """Another life of the server, ended as it should be."""
    with server(fleet, "desk-a", engine) as (running, _):
        ask(running, 60, asked)
        assert running.terminate() == 0
    counted.wait(counted.requests, asked)
    counted.wait(counted.answers, asked)
    beside.wait_for("tickserve_sidecar_boots", 0)
    wait_final(fleet.folder / "desk-a")
    assert beside.terminate() == 0


def wait_final(home: Path) -> None:
    """Until every boot was counted to its end, and its files may go."""
    from mlops.tap.folder import is_read

    until = time.monotonic() + 60
    while not all(is_read(boot) for boot in boots(default_folder(home))):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_windows_of_two_servers_add_up_while_one_of_their_sidecars_is_killed(fleet: Fleet) -> None:
    for value in (1.0, 2.0):
        fleet.add(value)
    fleet.registry.promote("demo", 1, ANN)
    fleet.run("split", "set", "demo", "2=30", "--reason", "try")
    url = fleet.settings["TICKSERVE_REGISTRY"]
    counted, asked = Counted(url), Counter[int]()
    with ExitStack() as stack:
        up = [stack.enter_context(server(fleet, name, engine)) for name, engine in (("a", "auto"), ("b", "python"))]
        first, other = (stack.enter_context(sidecar(launcher, url)) for _, launcher in up)
        for running, _ in up:
            ask(running, 50, asked)
        kill(other.process)
        for running, _ in up:
            ask(running, 50, asked)
        stack.enter_context(sidecar(up[1][1], url))
        counted.wait(counted.requests, asked)
        counted.wait(counted.answers, asked)
        with counted.database.read() as connection:
            found = read_reporters(connection, "demo")
        assert {each.server for each in found} == {"a", "b"}
        assert len({each.reporter for each in found}) == 2
        assert first.metric("tickserve_counts_written") == 1
    counted.database.close()


@pytest.mark.timeout(300)
@pytest.mark.integration
@pytest.mark.parametrize("engine", ENGINES)
def test_a_shadow_is_counted_with_what_it_is_compared_with_and_paired_by_request(fleet: Fleet, engine: str) -> None:
    signal = ColumnMapping(output="values", column=0)
    for value in (1.0, -1.0):
        fleet.add(value, signal=signal, outputs_reference=ReferenceRows("later", {"values": OUTPUTS}))
    fleet.registry.promote("demo", 1, ANN)
    fleet.run("desired", "set", "demo", "--shadow", "2=100", "--reason", "compare")
    url = fleet.settings["TICKSERVE_REGISTRY"]
    counted, asked = Counted(url), Counter[int]()
    with server(fleet, "desk-a", engine) as (running, launcher), sidecar(launcher, url) as beside:
        ask(running, 60, asked)
        wanted = {(1, 1): 60, (2, 3): 60, (1, 6): 60}
        counted.wait(counted.by_role, wanted)
        counted.wait(counted.pairs, (60, 60))
        with counted.database.read() as connection:
            found = sum_outputs([each for each in read_outputs(connection, "demo", 0, END_NS) if each.role == 3])
        assert found is not None
        assert found.bins is not None
        assert (found.answers, found.unbinned, int(found.bins.sum())) == (60, 0, 60)
        assert int(found.run_ns.sum()) == 60
        live = [row for row in counted.windows() if row.role == 6]
        shadow = [row for row in counted.windows() if row.role == 3]
        for one, other in zip(live, shadow, strict=True):
            assert one.start_ns == other.start_ns
            assert one.counts.requests.tolist() == other.counts.requests.tolist(), "the same requests, key by key"
        assert beside.terminate() == 0
        assert running.terminate() == 0
    counted.database.close()
