"""A rollout whose spec this tickserve cannot read: paused and told, and ended or continued by people."""

import json

import pytest

from mlops.registry.schema import rollout_progress, rollouts
from mlops.rollout import Order, Phase
from mlops.rollout.store import window_lengths
from mlops.rollout.view import read_view
from tests.support.registry import ANN
from tests.support.rollouts import World, begun
from tickserve.errors import TickserveError


@pytest.mark.parametrize("how", ["rollback", "abort"])
def test_spec_that_this_tickserve_does_not_know_pauses_its_rollout_and_people_end_it(world: World, how: str) -> None:
    begun(world)
    world.second()
    of_another_release(world)
    for _ in range(2):
        with pytest.raises(TickserveError, match="rollout spec"):
            world.look()
    assert world.split == {2: 1_000, 1: 9_000}
    assert world.progress.state.phase is Phase.PAUSED
    assert [alarm.event for alarm in world.alarms] == ["paused"], "told once"
    assert "nobody judges version 2, which keeps its share" in world.alarms[0].reason
    with pytest.raises(TickserveError, match="rollout spec"):
        world.order(Order.PAUSE)
    if how == "rollback":
        world.registry.rollback("demo", ANN)
    else:
        world.order(Order.ABORT)
    assert world.split == {1: 10_000}
    assert world.rollout.ended_at is not None
    state = world.registry.desired("demo").state  # type: ignore[union-attr]
    assert (state.shadow, state.latency_edge_ns) == (None, 0)


def of_another_release(world: World, spec: str = '{"strategy":"canary","window_s":1}') -> str:
    """Puts a spec in the place of an open rollout's; the one that it had."""
    before = json.dumps(world.rollout.spec)
    with world.registry.journal.database.engine.begin() as connection:
        connection.execute(rollouts.update().values(spec=json.loads(spec)))
    return before


def test_rollout_goes_on_by_its_evidence_once_its_spec_can_be_read_and_somebody_continues_it(world: World) -> None:
    begun(world)
    world.seconds(2)
    windows = world.evidence.windows
    spec = of_another_release(world)
    with pytest.raises(TickserveError, match="rollout spec"):
        world.second()
    of_another_release(world, spec)
    world.seconds(20)
    assert world.split == {2: 1_000, 1: 9_000}, "paused is paused"
    assert world.evidence.windows > windows
    world.order(Order.CONTINUE)
    world.seconds(30)
    assert world.split == {2: 10_000}


def test_pause_by_hand_does_not_hide_that_nobody_judges(world: World) -> None:
    begun(world)
    world.order(Order.PAUSE)
    of_another_release(world)
    with pytest.raises(TickserveError, match="rollout spec"):
        world.look()
    assert "nobody judges" in world.alarms[0].reason


def test_spec_and_progress_that_cannot_be_read_take_the_version_back(world: World) -> None:
    begun(world)
    of_another_release(world)
    world.write(lambda connection: connection.execute(rollout_progress.update().values(body="{")))
    with pytest.raises(TickserveError, match="rollout spec"):
        world.look()
    assert world.split == {1: 10_000}
    assert [alarm.event for alarm in world.alarms] == ["aborted"]
    world.look()


def test_spec_that_cannot_be_read_is_shown_and_keeps_no_model_from_being_counted(world: World) -> None:
    begun(world)
    of_another_release(world, '{"strategy":"canary","window_s":"often"}')
    with world.registry.journal.database.read() as connection:
        assert window_lengths(connection) == {}
        view = read_view(connection, world.rollout, world.leases)
    assert "this tickserve cannot read its spec" in view.hold
    assert (view.share_bp, view.steps) == (1_000, None)
    of_another_release(world, "{}")
    with world.registry.journal.database.read() as connection:
        assert window_lengths(connection) == {}
        assert read_view(connection, world.rollout, world.leases).as_dict()["strategy"] == ""
