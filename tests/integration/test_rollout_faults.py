"""Rollouts over two servers, whoever is killed, stopped or away meanwhile: four of them at once, each at another step.

A trigger in the database notes, in the transaction itself, who wrote and whose lease it was.
"""

import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.conftest import PROGRAM
from tests.support.postgresql import Cluster, cluster
from tests.support.rollout_fleet import LEASE_S, Clients, Desk, RolloutFleet, Written, progress_of, spec
from tests.support.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

#: Models by where their rollout is when something happens, and their part of the traffic.
PARTS = {"first": 0.2, "second": 0.2, "preparing": 0.4, "bad": 0.2}
SPECS = {
    "first": spec((20.0, 50.0), (12.0, 1.0)),
    "second": spec((20.0, 50.0), (1.0, 20.0)),
    "preparing": spec((30.0, 60.0), (1.0, 1.0), latency=True),
    "bad": spec((40.0, 60.0), (60.0, 60.0)),
}
GOOD = ("first", "second", "preparing")
#: Names of the desks whose clients may have seen faults.
Killed = set[str]


class Fleets:
    """One fleet for all tests, for it takes long to start; one that a test has left unfit is replaced."""

    def __init__(self, postgresql: Cluster) -> None:
        self._postgresql = postgresql
        self._stack = ExitStack()
        self._fleet: RolloutFleet | None = None

    def get(self) -> RolloutFleet:
        if self._fleet is None or not self._fleet.is_fit():
            self.close()
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ts-"))
            url = self._stack.enter_context(self._postgresql.database())
            self._fleet = RolloutFleet(Path(folder), self._postgresql, url, {model: model == "bad" for model in PARTS})
            self._stack.callback(self._fleet.close)
            self._fleet.up()
        return self._fleet

    def close(self) -> None:
        self._stack.close()
        self._fleet = None


@pytest.fixture(scope="module")
def fleets() -> Iterator[Fleets]:
    with cluster() as running:
        made = Fleets(running)
        yield made
        made.close()


@pytest.fixture
def fleet(fleets: Fleets) -> RolloutFleet:
    return fleets.get()


def nothing(fleet: RolloutFleet) -> Killed:
    return set()


def holder_killed(fleet: RolloutFleet) -> Killed:
    holder, other = both(fleet)
    holder.kill_sidecar()
    fleet.wait_holder([other])
    holder.watch()
    return set()


def holder_stopped(fleet: RolloutFleet) -> Killed:
    holder, _ = both(fleet)
    holder.signal_sidecar(signal.SIGSTOP)
    pass_leases(fleet)
    holder.signal_sidecar(signal.SIGCONT)
    return set()


def other_killed(fleet: RolloutFleet) -> Killed:
    _, other = both(fleet)
    other.kill_sidecar()
    pass_leases(fleet)
    other.watch()
    return set()


def server_killed(place: int) -> Callable[[RolloutFleet], Killed]:
    def fault(fleet: RolloutFleet) -> Killed:
        desk = fleet.desks[place]
        desk.kill_server()
        # Nobody counts for a life of it that has ended.
        until(lambda: fleet.view("first").hold, lambda hold: desk.name in hold)
        desk.serve()
        return {desk.name}

    return fault


def database_away(how: Callable[[RolloutFleet], AbstractContextManager[None]]) -> Callable[[RolloutFleet], Killed]:
    def fault(fleet: RolloutFleet) -> Killed:
        # What was decided just before is obeyed; from here on nothing can be.
        fleet.obeyed()
        before = served(fleet)
        with how(fleet):
            begun = time.monotonic()
            until(lambda: [desk.server.control.status().source_error for desk in fleet.desks if desk.server], all)
            until(lambda: time.monotonic() - begun, lambda passed: passed > 3 * LEASE_S)
            assert served(fleet) == before
        return set()

    return fault


FAULTS = {
    "none": nothing,
    "holder-killed": holder_killed,
    "holder-stopped": holder_stopped,
    "other-killed": other_killed,
    "server-killed-native": server_killed(0),
    "server-killed-python": server_killed(1),
    "database-refuses": database_away(RolloutFleet.refusing),
    "database-crashes": database_away(RolloutFleet.stopped),
}


@pytest.mark.parametrize("name", FAULTS)
def test_rollouts_at_each_step_end_as_they_should_whatever_happens(fleet: RolloutFleet, name: str) -> None:
    canaries: dict[str, int] = {}
    with Clients(fleet.desks, PARTS, is_far=0.5) as clients:
        canaries["second"] = fleet.start("second", SPECS["second"])
        fleet.wait_for("second", "running", 2)
        for model in ("first", "bad", "preparing"):
            canaries[model] = fleet.start(model, SPECS[model])
        # Its first broken rule is an answer that a client has, and that nobody has counted yet.
        until(lambda: [each for each in tuple(clients.asked) if each.model == "bad" and each.is_flagged])
        phases = {model: (fleet.view(model).phase, fleet.view(model).step) for model in GOOD}
        assert phases == {"first": ("running", 1), "second": ("running", 2), "preparing": ("preparing", 1)}
        killed = FAULTS[name](fleet)
        obeyed_s = fleet.obeyed()
        for model in GOOD:
            fleet.wait_for(model, "finished", bound_s=150.0)
        fleet.wait_for("bad", "aborted")
        fleet.obeyed()
        reached = {model: clients.seen(model, canaries[model]) for model in GOOD}
        until(lambda: all(clients.seen(model, canaries[model]) > reached[model] for model in GOOD))
    require_one_controller(fleet.written())
    require_counted(fleet.written(), {fleet.view(model).rollout.rollout: model for model in PARTS})
    for model in GOOD:
        shares = [round(step["share"] * 100) for step in SPECS[model]["steps"]]
        assert changes(fleet.shares(model)) == [0, *shares, 10_000]
        assert [each.event for each in fleet.decisions(model)] == ["ordered", "started", "advanced", "finished"]
    assert changes(fleet.shares("bad")) == [0, 4_000, 0]
    assert "violations" in fleet.decisions("bad")[-1].reason
    faults = Counter(each.desk for each in clients.asked if not each.version)
    assert faults.keys() <= killed, [each for each in clients.asked if not each.version][:5]
    assert fleet.registry.verify().findings == ()
    bad = [each for each in clients.asked if each.model == "bad" and each.version == 2]
    ended_ns = fleet.decisions("bad")[-1].at.timestamp() * 1e9
    print(
        f"{name}: {len(clients.asked)} requests, {sum(faults.values())} without an answer, "
        f"{sum(each.is_flagged for each in bad)} bad answers, the last of the bad version "
        f"{(bad[-1].at_ns - ended_ns) / 1e6:.0f} ms after it was taken back, servers as desired "
        f"{obeyed_s * 1e3:.0f} ms after the fault"
    )


def test_abort_by_hand_needs_no_sidecar(fleet: RolloutFleet) -> None:
    with Clients(fleet.desks, PARTS, is_far=0.0) as clients:
        canary = fleet.start("first", SPECS["first"])
        fleet.wait_for("first", "running", 1)
        fleet.start("preparing", SPECS["preparing"])
        until(lambda: clients.seen("first", canary))
        for desk in fleet.desks:
            desk.kill_sidecar()
        before = fleet.written()
        pass_leases(fleet)
        assert fleet.written() == before
        assert fleet.shares("first")[-1] == 2_000
        for model in ("first", "preparing"):
            abort(fleet, model)
        fleet.obeyed()
        assert [fleet.view(model).phase for model in ("first", "preparing")] == ["aborted", "aborted"]
        asked = len(clients.asked)
        until(lambda: len(clients.asked) > asked + 200)
    late = {each.version for each in clients.asked[asked + 20 :] if each.model == "first"}
    assert late == {3 - canary}
    assert not [each for each in clients.asked if each.fault]
    assert changes(fleet.shares("first")) == [0, 2_000, 0]
    assert set(fleet.shares("preparing")) == {0}
    assert fleet.registry.verify().findings == ()


def abort(fleet: RolloutFleet, model: str) -> None:
    done = subprocess.run(
        [PROGRAM, "rollout", "abort", model, "--reason", "by hand"],
        env=fleet.desks[0].launcher.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def both(fleet: RolloutFleet) -> tuple[Desk, Desk]:
    """Whose sidecar decides, and the other one."""
    holder = fleet.wait_holder(fleet.desks)
    (other,) = (desk for desk in fleet.desks if desk is not holder)
    return holder, other


def pass_leases(fleet: RolloutFleet) -> None:
    """Waits for longer than any lease that is held now."""
    begun = fleet.now_ms()
    until(fleet.now_ms, lambda now: now - begun > 3_000 * LEASE_S)


def served(fleet: RolloutFleet) -> list[object]:
    return [desk.shares(model) for desk in fleet.desks for model in PARTS]


def changes(shares: list[int]) -> list[int]:
    return shares[:1] + [after for before, after in pairwise(shares) if after != before]


def require_one_controller(written: list[Written]) -> None:
    """Every write of a controller was by the one who had the newest lease then, and in order."""
    holders: dict[int, str] = {}
    newest, revisions = 0, dict[int, int]()
    for each in written:
        if each.what == "leases":
            newest = max(newest, each.entry["token"])
            assert each.entry["token"] == newest
            assert holders.setdefault(newest, each.who) == each.who
        if each.what == "rollout_progress":
            rollout, revision = each.entry["rollout"], each.entry["revision"]
            assert revision == revisions.get(rollout, 0) + 1, each
            revisions[rollout] = revision
        if each.what != "leases" and each.who.startswith("sidecar"):
            assert each.lease is not None
            assert (each.lease["token"], holders[newest]) == (newest, each.who)
            assert each.at_ms <= each.lease["expires_at_ms"], each
    assert newest
    assert {each.who for each in written if each.what == "rollout_decisions"} <= {"", "sidecar-a", "sidecar-b"}


def require_counted(written: list[Written], models: Mapping[int, str]) -> None:
    """Nothing went forward on windows that a server was missing from."""
    progress = {
        (each.transaction, each.entry["rollout"]): progress_of(each)
        for each in written
        if each.what == "rollout_progress"
    }
    forward = 0
    for each in written:
        if each.what == "rollout_decisions" and each.entry["event"] in ("advanced", "finished"):
            rollout = each.entry["rollout"]
            if rollout not in models:
                continue
            complete: dict[str, int] = {}
            for of in each.counted:
                if of["model"] == models[rollout]:
                    complete[of["server"]] = max(complete.get(of["server"], 0), of["complete_to_ns"])
            assert complete.keys() == {"a", "b"}
            assert int(progress[each.transaction, rollout]["counted_to_ns"]) <= min(complete.values()), each
            forward += 1
    assert forward
