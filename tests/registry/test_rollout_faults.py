"""Rollouts that are killed, raced, fenced off and cut off: nothing is written by halves, twice, or by the wrong one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select

from mlops.registry import Author, Registry, Share
from mlops.registry.desired import write_state
from mlops.registry.journal import Write
from mlops.registry.leases import LeaseLostError, seize
from mlops.registry.schema import audit, desired_history, rollout_decisions, rollout_progress, rollouts
from mlops.rollout import Order
from mlops.rollout.controller import LEASE
from mlops.rollout.store import spec_of
from mlops.rollout.traffic import Traffic
from tests.support.registry import ANN, Backend, Clock, Packages, add
from tests.support.rollouts import World, begun, side
from tickserve.errors import ConflictError, ControlError, TickserveError


class KilledError(BaseException):
    """The process is gone."""


@pytest.fixture
def world(registry: Registry, packages: Packages) -> World:
    for value in (1.0, 2.0):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    return World(registry)


def everything(registry: Registry) -> dict[str, list[Any]]:
    """All that a rollout writes."""
    with registry.journal.database.read() as connection:
        tables = (rollouts, rollout_decisions, rollout_progress, desired_history, audit)
        return {table.name: [tuple(row) for row in connection.execute(select(table))] for table in tables}


@contextmanager
def killed_before(registry: Registry, number: int) -> Iterator[list[int]]:
    """Ends the process, as far as the database can tell, before its statement of this number, or a commit."""
    seen = [0]
    engine = registry.journal.database.engine

    def statement(*_: Any) -> None:
        seen[0] += 1
        if seen[0] == number:
            raise KilledError

    event.listen(engine, "before_cursor_execute", statement)
    event.listen(engine, "commit", statement)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", statement)
        event.remove(engine, "commit", statement)


@pytest.mark.parametrize("what", ["begin", "abort", "order"])
def test_killed_between_any_two_statements_it_was_done_or_not_at_all(world: World, what: str) -> None:
    world.start()
    world.report()
    if what != "begin":
        world.look()
        world.seconds(1)
        world.canary = side(failures=9) if what == "abort" else side()
        for _ in range(6):
            world.count()
            world.now_ns += 10**9
        world.report()
        world.say()
    before = everything(world.registry)
    events = world.events
    for number in range(1, 200):
        try:
            with killed_before(world.registry, number):
                if what == "order":
                    world.order(Order.FINISH)
                else:
                    world.look(f"life {number}")
        except KilledError:
            now = everything(world.registry)
            assert now == before, f"killed before statement {number}"
            # The next life of the controller need not wait for the lease of the dead one here.
            world.now_ns += 0
            world.leases_.clear()
            world.write(lambda connection: connection.exec_driver_sql("UPDATE leases SET expires_at_ms = 0"))
            continue
        if world.events != events:
            break
    after = {"begin": "started", "abort": "aborted", "order": "finished"}[what]
    assert world.events == [*events, after]
    assert number > 10, "statements were counted"
    assert world.registry.verify().findings == ()


def test_one_that_slept_longer_than_its_lease_writes_nothing(world: World) -> None:
    begun(world)
    world.seconds(2)
    world.canary = side(failures=9)
    for _ in range(6):
        world.count()
        world.now_ns += 10**9
    world.report()
    world.say()
    sleeper, lease = world.controller(), world.leases_["one"]
    found = world.rollout
    moved, expected = sleeper._look(found, spec_of(found))
    assert moved is not None
    assert moved.decision.audit[0].event == "aborted"
    world.now_ns += 11 * 10**9
    before = everything(world.registry)
    with pytest.raises(LeaseLostError):
        sleeper._write(found, spec_of(found), moved, expected, lease)
    assert everything(world.registry) == before, "nobody took it over, and yet it has expired"
    assert world.leases.acquire(LEASE, "two") is not None
    with pytest.raises(LeaseLostError):
        sleeper._write(found, spec_of(found), moved, expected, lease)
    assert everything(world.registry) == before
    assert world.alarms == []


def test_one_that_is_stopped_while_it_writes_for_longer_than_its_lease_has_written_nothing(world: World) -> None:
    begun(world)
    engine = world.registry.journal.database.engine
    before = everything(world.registry)

    def stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "INTO rollout_decisions" in statement:
            world.now_ns += 11 * 10**9

    world.canary = side(failures=9)
    event.listen(engine, "before_cursor_execute", stop)
    try:
        with pytest.raises(LeaseLostError):
            world.seconds(6)
    finally:
        event.remove(engine, "before_cursor_execute", stop)
    after = everything(world.registry)
    assert {name: after[name] for name in after if name != "rollout_progress"} == {
        name: before[name] for name in before if name != "rollout_progress"
    }
    assert world.alarms == []


def test_of_two_looks_at_the_same_moment_one_is_written(world: World) -> None:
    begun(world)
    world.count()
    world.now_ns += 10**9
    world.report()
    world.say()
    one, lease, found = world.controller(), world.leases_["one"], world.rollout
    looks = [one._look(found, spec_of(found)) for _ in range(2)]
    assert looks[0][0] is not None
    one._write(found, spec_of(found), looks[0][0], looks[0][1], lease)
    before = everything(world.registry)
    assert looks[1][0] is not None
    with pytest.raises(ConflictError, match="moved from revision"):
        one._write(found, spec_of(found), looks[1][0], looks[1][1], lease)
    assert everything(world.registry) == before


def about_to_advance(world: World) -> Callable[[], Any]:
    """Looks until the step is passed; what is returned writes that."""
    begun(world)
    for _ in range(30):
        world.count()
        world.now_ns += 10**9
        world.report()
        world.say()
        lease = world.leases_["one"]
        world.leases.renew(lease)
        found, controller = world.rollout, world.controller()
        moved, expected = controller._look(found, spec_of(found))
        assert moved is not None
        if moved.decision.audit:
            break
        controller._write(found, spec_of(found), moved, expected, lease)
    assert moved.decision.audit[0].event == "advanced"
    return lambda: controller._write(found, spec_of(found), moved, expected, lease)


def test_split_that_was_changed_between_a_look_and_its_writing_is_not_written_over(world: World) -> None:
    write = about_to_advance(world)
    state = world.registry.desired("demo").state  # type: ignore[union-attr]
    split = (Share(version=1, role="stable", weight_bp=10_000),)
    # By a tickserve that knows of no rollouts.
    world.registry.journal.write(
        "desired",
        ANN,
        lambda change: write_state(change, "demo", state.model_copy(update={"split": split, "shadow": None}), None),
        model="demo",
    )
    before = everything(world.registry)
    with pytest.raises(ConflictError, match="moved from revision"):
        write()
    assert everything(world.registry) == before
    world.look()
    assert world.events[-1] == "paused"
    assert world.split == {1: 10_000}


def test_nothing_is_written_of_a_rollout_that_a_rollback_has_ended_since_it_was_looked_at(world: World) -> None:
    begun(world)
    world.count()
    world.now_ns += 10**9
    world.report()
    world.say()
    found, controller = world.rollout, world.controller()
    moved, expected = controller._look(found, spec_of(found))
    assert moved is not None
    assert moved.decision.change is None
    world.registry.rollback("demo", ANN)
    before = everything(world.registry)
    with pytest.raises(ConflictError, match="has ended"):
        controller._write(found, spec_of(found), moved, expected, world.leases_["one"])
    assert everything(world.registry) == before


@pytest.mark.parametrize("order", [Order.ABORT, Order.PAUSE, Order.FINISH])
def test_order_between_a_look_and_its_writing_counts(world: World, order: Order) -> None:
    write = about_to_advance(world)
    world.order(order)
    before = everything(world.registry)
    with pytest.raises(ConflictError):
        write()
    assert everything(world.registry) == before
    assert (
        world.split == {Order.ABORT: {1: 10_000}, Order.PAUSE: {2: 1_000, 1: 9_000}, Order.FINISH: {2: 10_000}}[order]
    )


def take_back(registry: Registry) -> None:
    """As an alert takes canaries their share."""

    def change(write: Write) -> None:
        assert Traffic(registry).reduce_share(write, "demo")
        seize(write.connection, LEASE, "alert-policy")

    registry.journal.write("reduce-share", Author("alert-policy", "too many errors"), change, model="demo")


def test_alert_that_comes_while_a_controller_writes_has_the_last_word(world: World, backend: Backend) -> None:
    write, engine = about_to_advance(world), world.registry.journal.database.engine
    with backend.open() as other:
        alert = threading.Thread(target=take_back, args=(other,))

        def come(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "INTO rollout_decisions" in statement and not alert.ident and threading.current_thread() is not alert:
                alert.start()

        event.listen(engine, "before_cursor_execute", come)
        try:
            write()
        finally:
            event.remove(engine, "before_cursor_execute", come)
        alert.join()
    assert world.events[-2:] == ["advanced", "aborted"]
    assert world.split == {1: 10_000}


def test_what_a_controller_was_about_to_write_is_fenced_off_by_an_alert(world: World, backend: Backend) -> None:
    write = about_to_advance(world)
    with backend.open() as other:
        take_back(other)
    before = everything(world.registry)
    with pytest.raises(LeaseLostError):
        write()
    assert everything(world.registry) == before
    assert world.split == {1: 10_000}


def test_next_controller_goes_on_to_the_same_bits(backend: Backend, packages: Packages, tmp_path: Any) -> None:
    found = []
    for holders in (("one",), ("one", "two", "three")):
        folder = tmp_path / str(len(holders))
        folder.mkdir()
        url = f"sqlite:///{folder / 'r.db'}"
        with Backend(url, folder).open(clock=Clock()) as registry:
            for value in (1.0, 2.0):
                add(registry, packages(value))
            registry.promote("demo", 1, ANN)
            world = World(registry)
            begun(world)
            world.stable = side(violations=1, buckets=40)
            world.canary = side(violations=1, buckets=10)
            for second in range(12):
                world.count()
                world.now_ns += 10**9
                world.report()
                world.say()
                holder = holders[second % len(holders)]
                if len(holders) > 1:
                    world.write(lambda connection: connection.exec_driver_sql("UPDATE leases SET expires_at_ms = 0"))
                    world.leases_.clear()
                world.look(holder)
            found.append((world.progress.analysis, world.progress.state.watched_ns, world.split))
    assert found[0] == found[1]
    assert backend.folder.exists()


def test_controllers_and_people_at_once_leave_one_story(world: World, backend: Backend) -> None:
    begun(world)
    barrier, faults = threading.Barrier(3), []

    def run(name: str) -> None:
        with backend.open() as registry:
            mine = World(registry, now_ns=world.now_ns)
            barrier.wait()
            for number in range(15):
                try:
                    if name == "ann":
                        mine.order(Order.PAUSE if number % 2 == 0 else Order.CONTINUE)
                    else:
                        mine.now_ns = world.now_ns
                        mine.look(name)
                except (ConflictError, ControlError):
                    pass
                except TickserveError as error:
                    faults.append(error)

    world.leases.release(world.leases_["one"])
    threads = [threading.Thread(target=run, args=(name,)) for name in ("two", "three", "ann")]
    for thread in threads:
        thread.start()
    for thread in threads:
        for _ in range(2):
            world.count()
        thread.join()
    assert faults == []
    assert world.split == {2: 1_000, 1: 9_000}
    told = [each.event for each in world.decisions[2:]]
    assert told == ["paused", "continued"] * (len(told) // 2) + ["paused"] * (len(told) % 2)
    assert world.registry.verify().findings == ()


def test_version_that_was_retired_meanwhile_pauses_and_tells(world: World) -> None:
    from mlops.registry.schema import versions

    begun(world)
    # By a tickserve that knows of no rollouts.
    world.registry.journal.write(
        "retire", ANN, lambda write: write.update(versions, {"model": "demo", "version": 2}, status="retired")
    )
    world.seconds(30)
    assert world.split == {2: 1_000, 1: 9_000}
    assert world.events[-1] == "paused"
    assert "is retired" in world.decisions[-1].reason
    world.order(Order.ABORT)
    assert world.split == {1: 10_000}
