"""Shadows of real servers: swapped under load, killed under load, there again after a restart."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from mlops.tap import PageReader, RingReader, announce_reader, boots, default_folder, read_catalog, rings
from mlops.tap.layout import COMPARED_ROLE, SHADOW_ROLE
from tests.e2e.conftest import Launcher, Running
from tests.e2e.test_serve import ROW, get
from tests.support.engines import BEST_FIRST
from tests.support.packages import add_constant
from tests.support.waiting import until
from tickserve.client import Client
from tickserve.errors import UnreachableError
from tickserve.v1 import control_pb2 as pb
from tickserve.v1 import control_pb2_grpc

MakeClient = Callable[..., Client]


def desire(launcher: Launcher, shadow: pb.Shadow | None) -> None:
    """Version 1 answers everything, and this is its shadow."""
    state = pb.DesiredState(
        model="demo", split=[pb.Share(version="1", role="ROLE_STABLE", weight_bp=10_000)], shadow=shadow
    )
    with grpc.insecure_channel(f"unix:{launcher.home / 'admin.sock'}") as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        revision = stub.Status(pb.StatusRequest(), timeout=60).models[0].desired.revision
        request = pb.SetDesiredRequest(desired=state, expected_revision=revision, actor="ann", reason="test")
        stub.SetDesired(request, timeout=60)


def role_of(running: Running, version: str) -> str:
    model = running.control.status().model("demo")
    return next((str(each.role) for each in model.versions if each.version == version), "") if model else ""


@contextmanager
def load(client: Client) -> Iterator[list[str]]:
    """Asks until the end; gives the versions that answered, until the server is gone.

    With pauses, so that the rings have room for all of it however long the test takes: nobody reads them meanwhile.
    """
    answered: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        try:
            while not is_over.wait(0.002):
                answered.append(client.predict(ROW, model="demo").version)
        except UnreachableError:
            return

    thread = threading.Thread(target=ask)
    thread.start()
    yield answered
    is_over.set()
    thread.join(60)
    assert not thread.is_alive()


def pairs(boot: Path) -> tuple[int, int]:
    """What shadows have counted, and what the live versions had made of the same requests."""
    blocks = PageReader(boot / "counters").snapshot()
    shadow, compared = (
        sum(int(block.counts[:, 0].sum()) for block in blocks if block.identity.role == role)
        for role in (SHADOW_ROLE, COMPARED_ROLE)
    )
    return shadow, compared


def recorded(boot: Path) -> list[str]:
    """The versions of every record of a shadow; a damaged ring fails."""
    catalog, found = read_catalog(boot / "catalog.jsonl").versions, []
    for path in rings(boot):
        reader = RingReader(path)
        reading = reader.read(1 << 20)
        assert (reading.damaged, reader.lag_slots) == (0, len(reading.records))
        found += [catalog[each.version].version for _, each in reading.records if each.role == SHADOW_ROLE]
        reader.close()
    return found


@pytest.mark.parametrize("engine", BEST_FIRST)
def test_swaps_of_the_shadow_cost_no_answer_and_lose_no_pair(
    launcher: Launcher, client_of: MakeClient, engine: str
) -> None:
    for value in (1.0, 2.0, 3.0):
        add_constant(launcher.models, value)
    announce_reader(default_folder(launcher.home))
    with launcher.serve("--engine", engine) as running:
        desire(launcher, None)
        until(lambda: role_of(running, "1"), lambda role: role == "stable")
        client = client_of(running)
        with load(client) as answered:
            until(lambda: len(answered), lambda count: count > 50)
            for _ in range(3):
                for version in ("2", "3"):
                    desire(launcher, pb.Shadow(version=version, fraction_bp=10_000, salt="s"))
                    until(lambda version=version: role_of(running, version), lambda role: role == "shadow")  # type: ignore[misc]
                    count = len(answered)
                    until(lambda count=count: len(answered) > count + 20)  # type: ignore[misc]
            (boot,) = boots(default_folder(launcher.home))
            until(lambda: pairs(boot)[0], lambda count: count > 100)
        metrics = get(running, "/metrics")[1]
        assert "tickserve_faults_total 0.0" in metrics
        assert 'tickserve_shadow_dropped_total{model="demo",version="3"}' in metrics
        assert 'tickserve_requests_total{model="demo",outcome="ok",role="shadow",version="3"}' in metrics
        until(lambda: get(running, "/metrics")[1], lambda text: "tickserve_shadow_queued 0.0" in text)
        assert running.terminate() == 0
    # The version policy had version 3 answer at first.
    assert set(answered) <= {"1", "3"}
    shadow, compared = pairs(boot)
    assert shadow == compared
    versions = recorded(boot)
    assert (len(versions), set(versions)) == (shadow, {"2", "3"})


@pytest.mark.parametrize("engine", BEST_FIRST)
def test_a_killed_server_leaves_whole_records_and_pairs(launcher: Launcher, client_of: MakeClient, engine: str) -> None:
    for value in (1.0, 2.0):
        add_constant(launcher.models, value)
    announce_reader(default_folder(launcher.home))
    with launcher.serve("--engine", engine) as running:
        desire(launcher, pb.Shadow(version="2", fraction_bp=10_000, salt="s"))
        until(lambda: role_of(running, "2"), lambda role: role == "shadow")
        (boot,) = boots(default_folder(launcher.home))
        with load(client_of(running)):
            until(lambda: pairs(boot)[0], lambda count: count > 200)
            os.kill(running.process.pid, signal.SIGKILL)
            running.process.wait(60)
    shadow, compared = pairs(boot)
    # Killed between the two counts of one request, or between counting and recording it, at the most.
    assert abs(shadow - compared) <= 1
    assert 0 <= shadow - len(recorded(boot)) <= 1
    with launcher.serve("--engine", engine) as running:
        until(lambda: role_of(running, "2"), lambda role: role == "shadow")
        client = client_of(running)
        assert {client.predict(ROW, model="demo").version for _ in range(5)} == {"1"}
        _, again = boots(default_folder(launcher.home))
        assert until(lambda: pairs(again), lambda found: found[0] == 5) == (5, 5)
        assert running.terminate() == 0
