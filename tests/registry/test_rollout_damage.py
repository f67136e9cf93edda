"""What becomes of a rollout whose rows are not as they were written."""

import numpy as np
import pytest
from sqlalchemy import Table, update

from mlops import histogram
from mlops.registry.schema import reporters, rollout_progress, window_counts, window_outputs
from mlops.rollout import Order
from mlops.rollout.comparison import read_comparison
from mlops.rollout.view import read_view
from tests.support.rollouts import QUICK, World, make_spec, side
from tickserve.errors import RegistryError


def damage(world: World, table: Table, column: str = "body") -> None:
    world.write(lambda connection: connection.execute(update(table).values({column: b"damaged"})))


def test_damaged_window_is_named_and_left_out_and_a_breach_is_seen_all_the_same(world: World) -> None:
    world.start()
    world.report()
    world.look()
    world.second()
    before = world.progress
    world.count()
    damage(world, window_counts)
    world.now_ns += 10**9
    world.report()
    world.say()
    world.look()
    assert world.progress.next_window_ns == before.next_window_ns + 10**9
    assert world.progress.analysis["windows"] == before.analysis["windows"]  # type: ignore[index]
    assert "the row of window_counts with reporter=of-s1" in world.damaged[0].message
    with world.registry.journal.database.read() as connection:
        assert "window_counts" in read_comparison(connection, world.rollout, world.now_ns).damaged[0]
    world.canary = side(failures=1)
    world.seconds(10)
    assert world.events[-1] == "aborted"


def test_damaged_outputs_are_left_out(world: World) -> None:
    world.start(make_spec(analysis=QUICK | {"latency": {"tolerance": 0.5}}))
    counts = np.zeros(histogram.BUCKETS, np.int64)
    counts[500] = 2_000
    world.second()
    world.outputs(1, 1, total_ns=counts, answers=2_000)
    damage(world, window_outputs)
    world.second()
    assert world.split == {1: 10_000}
    assert "window_outputs" in world.damaged[0].message
    world.outputs(1, 1, total_ns=counts, answers=2_000)
    world.second()
    assert world.split == {2: 1_000, 1: 9_000}


def test_server_whose_sidecars_row_is_damaged_is_one_that_nobody_counts_for(world: World) -> None:
    world.start()
    world.report()
    world.look()
    damage(world, reporters, "state")
    world.look()
    with world.registry.journal.database.read() as connection:
        assert "no sidecar counts for s1" in read_view(connection, world.rollout, world.leases).hold
    assert "reporters" in world.damaged[0].message
    world.canary = side(failures=1)
    world.seconds(10)
    assert world.events[-1] == "aborted"


def test_damaged_progress_takes_the_version_back(world: World) -> None:
    world.start()
    world.report()
    world.look()
    world.seconds(2)
    world.write(lambda connection: connection.execute(update(rollout_progress).values(body="{")))
    with pytest.raises(RegistryError, match="only be aborted"):
        world.order(Order.CONTINUE)
    world.second()
    assert world.split == {1: 10_000}
    assert "damaged" in world.decisions[-1].reason
    assert [alarm.event for alarm in world.alarms] == ["aborted"]
    assert world.registry.verify().findings == ()


@pytest.mark.parametrize("what", ["checksum", "of another tickserve"])
def test_damaged_progress_can_be_aborted_by_hand(world: World, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start()
    world.report()
    world.look()
    if what == "checksum":
        world.write(lambda connection: connection.execute(update(rollout_progress).values(sha256="0")))
    else:
        monkeypatch.setattr("mlops.rollout.store.FORMAT", 99)
    with world.registry.journal.database.read() as connection:
        assert read_view(connection, world.rollout, world.leases).phase == "damaged"
    world.order(Order.ABORT)
    assert world.split == {1: 10_000}
