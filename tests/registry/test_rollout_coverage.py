"""Whose counts a rollout needs: without a sidecar, not seen, known to have stopped."""

import pytest

from mlops.registry.fleet import ServerReport, write_report
from mlops.rollout import Order, Phase
from mlops.rollout.view import read_view
from mlops.tap.layout import BUCKETS
from tests.support.rollouts import World, make_spec, side


def test_window_that_a_server_is_missing_from_is_waited_for_and_then_left_out(world: World) -> None:
    world.servers = ["s1", "s2"]
    world.counted = {"s1", "s2"}
    world.start()
    world.report()
    world.look()
    world.seconds(2)
    before = world.progress
    assert before.analysis["windows"] == 2  # type: ignore[index]
    late = before.next_window_ns
    world.counted = {"s1"}
    for _ in range(9):
        world.second()
    assert world.progress.next_window_ns == late, "it is waited for"
    world.seconds(8)
    assert world.progress.next_window_ns > late
    assert world.progress.unwatched >= 5
    assert world.progress.analysis["windows"] == 2  # type: ignore[index]
    assert world.split[2] == 1_000


def test_server_without_a_sidecar_holds_the_rollout_and_is_named(world: World) -> None:
    world.servers = ["s1", "s2"]
    world.start()
    world.report()
    world.look()
    assert world.split == {1: 10_000}, "it does not begin where nobody counts"
    for _ in range(70):
        world.second()
    assert world.progress.state.phase is Phase.PAUSED
    assert "no sidecar counts for s2" in world.progress.state.reason
    assert [alarm.event for alarm in world.alarms] == ["paused"]


def fleet_of_two(world: World, **changes: object) -> None:
    """Two servers in the first step; the second one says nothing more, and its sidecar goes on."""
    world.servers = ["s1", "s2"]
    world.counted = {"s1", "s2"}
    step = {"share": 10.0, "min_time_s": 20.0, "max_time_s": 100.0, "min_requests": 100}
    world.start(make_spec(steps=[step, step | {"share": 50.0}], **changes))
    world.report()
    world.look()
    world.seconds(2)
    world.servers = ["s1"]


def hold_of(world: World) -> str:
    with world.registry.journal.database.read() as connection:
        return read_view(connection, world.rollout, world.leases).hold


def test_nothing_advances_while_a_server_that_served_the_step_is_not_seen(world: World) -> None:
    fleet_of_two(world)
    world.seconds(60)
    assert world.split == {2: 1_000, 1: 9_000}
    assert "s2 served the model in this step, says nothing" in hold_of(world)
    evidence = world.evidence
    assert evidence.step_windows >= 60, "what its sidecar counts is evidence, as that of the others"
    assert evidence.requests >= 60 * 2 * 10 * BUCKETS
    world.servers = ["s1", "s2"]
    world.seconds(2)
    assert world.split == {2: 5_000, 1: 5_000}


def test_step_with_a_server_that_is_not_seen_pauses_at_its_longest_time_and_goes_on_when_somebody_says_so(
    world: World,
) -> None:
    fleet_of_two(world)
    world.counted = {"s1"}
    world.seconds(100)
    assert world.progress.state.phase is Phase.PAUSED
    assert "not known to have stopped" in world.progress.state.reason
    assert [alarm.event for alarm in world.alarms] == ["paused"]
    world.order(Order.CONTINUE)
    assert hold_of(world) == ""
    world.seconds(100)
    assert world.split == {2: 10_000}


def test_breach_takes_a_version_back_while_a_server_and_its_sidecar_are_gone(world: World) -> None:
    fleet_of_two(world, max_bad_answers=10**9)
    world.counted = {"s1"}
    world.seconds(70)
    assert "s2" in hold_of(world)
    world.canary = side(failures=1)
    world.seconds(5)
    assert world.split == {1: 10_000}
    assert "more of the canary's keys go bad" in world.decisions[-1].reason


@pytest.mark.parametrize("who", ["server", "sidecar"])
def test_server_that_is_known_to_have_stopped_keeps_nothing_waiting(world: World, who: str) -> None:
    fleet_of_two(world)
    world.seconds(1)
    if who == "server":
        stopped = ServerReport("s2", world.now, "stopped", "python")
        world.write(lambda connection: write_report(connection, stopped))
        world.counted = {"s1"}
    else:
        world.end("s2")
    world.seconds(70)
    assert world.split == {2: 10_000}


def test_new_life_of_a_server_is_missed_although_the_one_before_was_seen_to_end(world: World) -> None:
    fleet_of_two(world)
    world.end("s2")
    world.servers = ["s1", "s2"]
    world.second()
    world.servers = ["s1"]
    world.seconds(60)
    assert world.split == {2: 1_000, 1: 9_000}
    assert "s2" in hold_of(world)
