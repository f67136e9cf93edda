"""The sidecar's thread: takes the lease when there is something to decide, gives it back, and outlives its database."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mlops.alerts.actions import Notice
from mlops.registry import Registry
from mlops.registry.leases import Lease
from mlops.registry.schema import rollouts
from mlops.rollout import Order
from mlops.rollout.alarms import read_untold
from mlops.rollout.controller import Controller
from mlops.sidecar.rollouts import RolloutWorker
from tests.support.registry import ANN, Backend, Packages, add
from tests.support.rollouts import World, make_spec
from tickserve.errors import UnreachableError


@pytest.fixture
def world(registry: Registry, packages: Packages) -> World:
    for value in (1.0, 2.0):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    return World(registry, now_ns=time.time_ns())


@pytest.fixture
def workers(backend: Backend) -> Iterator[Callable[..., RolloutWorker]]:
    made: list[RolloutWorker] = []

    def make(**options: object) -> RolloutWorker:
        settings: dict[str, object] = {"lease_s": 30.0, "tell": lambda notice: None} | options
        open_registry = settings.pop("open_registry", backend.open)
        made.append(RolloutWorker(open_registry, **settings))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Waits for a condition, or fails."""
    end, pause = time.monotonic() + within_s, threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not come"
        pause.wait(0.05)


def samples(worker: RolloutWorker) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value for metric in worker.collect() for sample in metric.samples
    }


def test_one_of_two_sidecars_decides_and_the_other_takes_over_at_once_when_it_ends(
    world: World, workers: Callable[..., RolloutWorker]
) -> None:
    one, two = workers(holder="one"), workers(holder="two")
    assert not one.is_holder
    world.report()
    world.start()
    until(lambda: world.split == {2: 1_000, 1: 9_000})
    until(lambda: one.is_holder or two.is_holder)
    holder, other = (one, two) if one.is_holder else (two, one)
    assert not other.is_holder
    until(lambda: ("tickserve_rollout_share", "demo", "2", "keys") in samples(holder))
    told = samples(holder)
    assert told["tickserve_rollout_lease_held",] == 1
    assert told["tickserve_rollout_share", "demo", "2", "keys"] == pytest.approx(0.1)
    assert told["tickserve_rollout_share", "demo", "1", "keys"] == pytest.approx(0.9)
    assert told["tickserve_rollout_phase", "demo", "2", "running"] == 1
    assert told["tickserve_rollout_verdict", "demo", "2", "errors"] == 0
    assert ("tickserve_rollout_share", "demo", "2", "keys") not in samples(other)
    holder.close()
    until(lambda: other.is_holder)
    world.order(Order.ABORT)
    until(lambda: not other.is_holder)
    assert ("tickserve_rollout_share", "demo", "2", "keys") not in samples(other)


def test_database_that_is_away_freezes_it_and_it_goes_on_after(
    world: World, backend: Backend, workers: Callable[..., RolloutWorker]
) -> None:
    away = threading.Event()
    away.set()

    def opened() -> Registry:
        if away.is_set():
            raise UnreachableError("the registry's database failed: gone")
        return backend.open()

    worker = workers(open_registry=opened)
    world.report()
    world.start()
    until(lambda: samples(worker)["tickserve_rollout_controller_faults_total", "away"] >= 1)
    assert world.split == {1: 10_000}
    away.clear()
    until(lambda: world.split == {2: 1_000, 1: 9_000})


def test_alarm_is_told_until_it_was_heard(world: World, workers: Callable[..., RolloutWorker]) -> None:
    heard: list[Notice] = []
    tries: list[str] = []

    def tell(notice: Notice) -> None:
        tries.append(notice.id)
        if len(tries) < 3:
            raise OSError("no answer")
        heard.append(notice)

    worker = workers(tell=tell)
    world.report()
    world.start(make_spec())
    until(lambda: world.split == {2: 1_000, 1: 9_000})
    with world.registry.journal.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE rollout_progress SET body = '{'")
    until(lambda: bool(heard))
    assert len(set(tries)) == 1
    assert (heard[0].change, heard[0].model, heard[0].version) == ("aborted", "demo", "2")
    assert world.split == {1: 10_000}
    assert worker.name == "rollouts"


def test_rollout_that_nobody_can_judge_is_loud(world: World, workers: Callable[..., RolloutWorker]) -> None:
    heard: list[Notice] = []
    world.report()
    world.start()
    world.look()
    world.leases.release(world.leases_["one"])
    with world.registry.journal.database.engine.begin() as connection:
        connection.execute(rollouts.update().values(spec={"strategy": "canary", "of": "another release"}))
    worker = workers(tell=heard.append)
    until(lambda: bool(heard))
    assert (heard[0].change, heard[0].version) == ("paused", "2")
    assert "nobody judges version 2" in heard[0].evidence
    until(lambda: samples(worker).get(("tickserve_rollout_phase", "demo", "2", "paused")) == 1)
    told = samples(worker)
    assert told["tickserve_rollout_held", "demo", "2"] == 1
    assert told["tickserve_rollout_share", "demo", "2", "keys"] == pytest.approx(0.1)
    assert told["tickserve_rollout_controller_faults_total", "failed"] >= 1
    assert ("tickserve_rollout_bad_answers", "demo", "2") not in told, "nobody knows"
    assert world.split == {2: 1_000, 1: 9_000}
    assert len(heard) == 1


def test_webhook_that_does_not_answer_keeps_no_decision_waiting(
    world: World, workers: Callable[..., RolloutWorker]
) -> None:
    called, answers = threading.Event(), threading.Event()

    def tell(notice: Notice) -> None:
        called.set()
        answers.wait(60)

    workers(tell=tell)
    world.report()
    world.start()
    until(lambda: world.split == {2: 1_000, 1: 9_000})
    with world.registry.journal.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE rollout_progress SET body = '{'")
    assert called.wait(60)
    world.now_ns = time.time_ns()
    world.report()
    world.start()
    until(lambda: world.split == {2: 1_000, 1: 9_000})
    assert not answers.is_set()
    answers.set()


def test_alarm_of_a_sidecar_that_was_killed_is_told_by_the_next(
    world: World, workers: Callable[..., RolloutWorker]
) -> None:
    world.report()
    world.start()
    world.look()
    with world.registry.journal.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE rollout_progress SET body = '{'")
    # It decides, and is killed before it tells: nothing is open any more.
    world.look()
    assert world.split == {1: 10_000}
    world.leases.release(world.leases_["one"])
    heard: list[Notice] = []
    workers(tell=heard.append)
    until(lambda: bool(heard))
    assert (heard[0].change, heard[0].model) == ("aborted", "demo")

    def untold() -> int:
        with world.registry.journal.database.read() as connection:
            return len(read_untold(connection))

    until(lambda: not untold())
    assert len(heard) == 1


def test_without_a_registry_it_waits_for_one(workers: Callable[..., RolloutWorker]) -> None:
    asked = threading.Event()

    def nothing() -> None:
        asked.set()

    worker = workers(open_registry=nothing)
    assert asked.wait(60)
    assert samples(worker)["tickserve_rollout_lease_held",] == 0
    assert samples(worker)["tickserve_rollout_controller_faults_total", "failed"] == 0


def test_connections_that_are_cut_at_any_moment_cost_no_decision(
    world: World, backend: Backend, workers: Callable[..., RolloutWorker]
) -> None:
    if not backend.url.startswith("postgresql"):
        pytest.skip("SQLite has no connections to cut")
    import psycopg

    worker = workers()
    world.report()
    with psycopg.connect(backend.url, autocommit=True) as connection:

        def cut() -> None:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        world.start()
        for _ in range(20):
            cut()
            threading.Event().wait(0.02)
    until(lambda: world.split == {2: 1_000, 1: 9_000})
    assert world.events == ["ordered", "started"]
    assert samples(worker)["tickserve_rollout_controller_faults_total", "lost"] == 0
    assert samples(worker)["tickserve_rollout_controller_faults_total", "failed"] == 0
    assert world.registry.verify().findings == ()


def test_baseline_is_read_once_however_long_a_step_waits_for_its_outputs(
    world: World, workers: Callable[..., RolloutWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked = [], threading.Event()

    def step_all(controller: Controller, lease: Lease) -> None:
        if controller.baseline("demo", 2) is None and controller.baseline("demo", 2) is None:
            asked.set()

    monkeypatch.setattr("mlops.sidecar.rollouts.baseline_of", lambda *of: read.append(of[1:]))
    monkeypatch.setattr(Controller, "step_all", step_all)
    world.start(make_spec())
    workers()
    until(asked.is_set)
    asked.clear()
    until(asked.is_set)
    assert read == [("demo", 2)]
