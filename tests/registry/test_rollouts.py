"""Rollouts from start to end, on windows that sidecars wrote: nothing moves but by evidence or by people."""

import numpy as np
import pytest

from mlops import histogram
from mlops.registry import Author, Shadow
from mlops.registry.desired import write_state
from mlops.registry.rollouts import open_rollout
from mlops.rollout import Order, Phase
from mlops.rollout.comparison import read_comparison
from mlops.rollout.store import window_lengths
from mlops.rollout.view import read_view
from mlops.tap.layout import BUCKETS, COMPARED_ROLE
from tests.support.registry import ANN, Clock
from tests.support.rollouts import KIM, QUICK, RULE, START_NS, World, make_spec, side
from tickserve.errors import ControlError, RegistryError, TickserveError


def test_good_version_goes_through_its_steps_to_everything(world: World) -> None:
    world.start()
    assert world.split == {1: 10_000}, "nobody gets the version before a controller has looked"
    world.report()
    world.look()
    assert world.split == {2: 1_000, 1: 9_000}
    shares = []
    for _ in range(30):
        world.second()
        shares.append(world.split.get(2, 0))
    assert sorted(set(shares)) == [1_000, 5_000, 10_000]
    assert world.events == ["ordered", "started", "advanced", "finished"]
    assert world.rollout.ended_at is not None
    state = world.registry.desired("demo").state  # type: ignore[union-attr]
    assert (state.named("stable"), state.shadow, state.latency_edge_ns) == (2, None, 0)
    assert world.registry.verify().findings == ()


def test_split_of_a_step_has_stable_as_the_shadow_of_the_canary_under_a_salt_of_its_own(world: World) -> None:
    found = world.start()
    world.report()
    world.look()
    state = world.registry.desired("demo").state  # type: ignore[union-attr]
    assert state.salt == found.salt != ""
    assert state.shadow == Shadow(version=1, fraction_bp=10_000, salt=f"{found.salt}/shadow", of=2)


def test_version_that_fails_is_taken_back_at_once_with_the_reason_and_the_bad_answers(world: World) -> None:
    world.start()
    world.report()
    world.look()
    world.canary = side(failures=1)
    for _ in range(20):
        world.second()
        if world.rollout.ended_at is not None:
            break
    assert world.split == {1: 10_000}
    last = world.decisions[-1]
    assert (last.event, last.share_bp, last.actor) == ("aborted", 0, "rollout")
    assert "errors" in last.reason
    assert "bad answers reached clients" in last.reason
    assert last.facts["evidence"]["bad_answers"] > 0
    assert [alarm.event for alarm in world.alarms] == ["aborted"]
    assert world.registry.desired("demo").state.shadow is None  # type: ignore[union-attr]


def test_windows_under_another_share_are_no_evidence(world: World) -> None:
    world.start()
    world.report()
    world.look()
    for _ in range(20):
        world.second(share_bp=777)
    assert world.progress.analysis["windows"] == 0  # type: ignore[index]
    assert world.split[2] == 1_000


def test_edge_is_frozen_from_stables_own_latencies(world: World) -> None:
    spec = make_spec(analysis={"alpha": 0.2, "errors": RULE, "violations": RULE, "latency": {"tolerance": 0.5}})
    world.start(spec)
    world.second()
    assert world.progress.edge_ns is None
    counts = np.zeros(histogram.BUCKETS, np.int64)
    counts[histogram.bucket(100_000)] = 999
    world.outputs(1, 1, total_ns=counts, answers=999)
    world.second()
    assert world.progress.edge_ns is None, "1,000 answers are needed"
    world.outputs(1, 1, total_ns=counts, answers=999)
    world.second()
    edges = histogram.lower_edges_ns()
    wanted = int(edges[histogram.bucket(100_000) + 3])
    assert world.progress.edge_ns == wanted
    assert world.registry.desired("demo").state.latency_edge_ns == wanted  # type: ignore[union-attr]
    with world.registry.journal.database.read() as connection:
        assert window_lengths(connection) == {"demo": 10**9}


def test_history_that_is_ahead_of_the_clock_keeps_no_edge_from_being_frozen(world: World, clock: Clock) -> None:
    # Somebody wrote with a clock that was years ahead; no row of the history is before that any more.
    clock.step(3 * 365 * 86_400)
    found = world.start(make_spec(analysis=QUICK | {"latency": {"tolerance": 0.5}}))
    assert found.started_ns > world.now_ns
    world.second()
    counts = np.zeros(histogram.BUCKETS, np.int64)
    counts[500] = 2_000
    world.outputs(1, 1, total_ns=counts, answers=2_000)
    world.second()
    assert world.split == {2: 1_000, 1: 9_000}


def test_version_over_the_edge_is_taken_back(world: World) -> None:
    spec = make_spec(analysis={"alpha": 0.2, "errors": None, "violations": None, "latency": {"tolerance": 0.5}})
    world.start(spec)
    counts = np.zeros(histogram.BUCKETS, np.int64)
    counts[500] = 2_000
    world.second()
    world.outputs(1, 1, total_ns=counts, answers=2_000)
    world.second()
    assert world.split == {2: 1_000, 1: 9_000}
    world.canary = side(slow=9)
    for _ in range(10):
        world.second()
    assert world.events[-1] == "aborted"
    assert "latency" in world.decisions[-1].reason


def blue_green() -> object:
    step = {"share": 50.0, "min_time_s": 3.0, "max_time_s": 60.0, "min_requests": 100}
    return make_spec(strategy="blue_green", steps=[step])


def test_both_versions_are_shown_beside_each_other_on_the_same_requests(world: World) -> None:
    world.start()
    world.second()
    world.canary = side(violations=1)
    world.second()
    slow, fast = np.zeros(histogram.BUCKETS, np.int64), np.zeros(histogram.BUCKETS, np.int64)
    slow[histogram.bucket(400_000)], fast[histogram.bucket(100_000)] = 30, 70
    world.outputs(2, 2, answers=30, total_ns=slow)
    world.outputs(1, 1, answers=70, total_ns=fast)
    few = np.zeros(BUCKETS, np.int64)
    few[0] = 5
    world.outputs(2, COMPARED_ROLE, pairs=2 * few, flips=few)
    with world.registry.journal.database.read() as connection:
        found = read_comparison(connection, world.rollout, world.now_ns)
    assert (found.canary.answers, found.stable.answers) == (30, 70)
    assert found.canary.p50_us == pytest.approx(400, rel=0.04)
    assert found.stable.p99_us == pytest.approx(100, rel=0.04)
    assert (found.of_canary.violations, found.of_stable.violations) == (BUCKETS, 0)
    assert (found.requests, found.pairs, found.flips) == (10 * BUCKETS, 10, 5)


def test_blue_green_gives_everything_watches_and_stays(world: World) -> None:
    world.start(blue_green())
    world.report()
    world.look()
    state = world.registry.desired("demo").state  # type: ignore[union-attr]
    assert world.split == {2: 10_000}
    assert state.shadow == Shadow(version=1, fraction_bp=5_000, salt=f"{state.salt}/shadow", of=2)
    world.seconds(2)
    with world.registry.journal.database.read() as connection:
        view = read_view(connection, world.rollout, world.leases)
    assert view.evidence.requests
    assert view.as_dict()["traffic_share"] is None, "both sides had the same requests"
    world.seconds(18)
    assert world.events == ["ordered", "started", "finished"]
    assert world.split == {2: 10_000}
    assert world.registry.desired("demo").state.shadow is None  # type: ignore[union-attr]


def test_blue_green_rolls_back_by_itself_and_a_rollback_after_it_goes_further_back(world: World) -> None:
    world.registry.promote("demo", 3, ANN)
    world.start(blue_green())
    world.report()
    world.look()
    world.canary = side(failures=1)
    world.seconds(10)
    assert world.events[-1] == "aborted"
    assert world.split == {3: 10_000}
    assert world.registry.rollback("demo", ANN).state.named("stable") == 1


def test_undecided_step_pauses_and_tells_and_continue_goes_on(world: World) -> None:
    world.canary = side(requests=0)
    world.start()
    world.report()
    world.look()
    world.seconds(65)
    assert world.progress.state.phase is Phase.PAUSED
    assert "undecided" in world.progress.state.reason
    assert world.split[2] == 1_000
    world.canary = side()
    world.seconds(5)
    assert world.split[2] == 1_000, "paused is paused"
    world.order(Order.CONTINUE)
    world.seconds(30)
    assert world.events[-1] == "finished"


@pytest.mark.parametrize("order", [Order.ABORT, Order.FINISH])
def test_people_end_it_without_any_controller(world: World, order: Order) -> None:
    world.start()
    world.report()
    world.look()
    world.order(order)
    assert world.split == ({1: 10_000} if order is Order.ABORT else {2: 10_000})
    last = world.decisions[-1]
    assert (last.actor, last.reason) == ("ann", "because")
    assert world.registry.desired("demo").state.shadow is None  # type: ignore[union-attr]
    with pytest.raises(TickserveError, match="no rollout"):
        world.order(Order.ABORT)
    assert world.registry.verify().findings == ()


def test_orders_need_a_reason_and_fit_the_state(world: World) -> None:
    world.start()
    with pytest.raises(TickserveError, match="say why"):
        world.rollouts.order("demo", Order.ABORT, Author("ann"))
    with pytest.raises(ControlError, match="nothing to continue"):
        world.order(Order.CONTINUE)
    world.order(Order.PAUSE)
    with pytest.raises(ControlError, match="paused already"):
        world.order(Order.PAUSE)
    world.report()
    world.look()
    assert world.split == {1: 10_000}, "paused before it began"
    world.order(Order.ABORT)
    assert world.split == {1: 10_000}


def test_start_is_refused_where_it_cannot_begin(world: World) -> None:
    registry = world.registry
    with pytest.raises(RegistryError, match="is live already"):
        world.start(version=1)
    state = registry.desired("demo").state  # type: ignore[union-attr]
    registry.set_desired("demo", state.model_copy(update={"shadow": Shadow(version=3, fraction_bp=100)}), ANN, None)
    with pytest.raises(RegistryError, match="is a shadow"):
        world.start()
    registry.set_desired("demo", state, ANN, None)
    world.start()
    with pytest.raises(RegistryError, match="rollout abort demo"):
        world.start(version=3)
    with registry.journal.database.read() as connection:
        assert open_rollout(connection, "demo") is not None


def test_promoting_and_splitting_by_hand_are_refused_while_it_is_open_and_the_rest_is_not(world: World) -> None:
    registry = world.registry
    world.start()
    world.report()
    world.look()
    state = registry.desired("demo").state  # type: ignore[union-attr]
    with pytest.raises(RegistryError, match="rollout abort demo"):
        registry.promote("demo", 3, ANN)
    with pytest.raises(RegistryError, match="rollout abort demo"):
        registry.set_desired("demo", state.model_copy(update={"shadow": None}), ANN, None)
    with pytest.raises(RegistryError, match="used by"):
        registry.retire("demo", 2, ANN)
    registry.set_desired("demo", state.model_copy(update={"position_scale": 0.5}), ANN, None)
    world.seconds(30)
    assert world.events[-1] == "finished"
    assert registry.desired("demo").state.position_scale == 0.5  # type: ignore[union-attr]


def test_rollback_takes_the_version_back_and_ends_it(world: World) -> None:
    world.start()
    world.report()
    world.look()
    world.registry.rollback("demo", ANN)
    assert world.split == {1: 10_000}
    assert world.events[-1] == "aborted"
    assert world.rollout.ended_at is not None
    world.second()
    assert world.split == {1: 10_000}
    assert world.registry.verify().findings == ()


def test_rollback_before_the_first_step_goes_back_as_ever_and_ends_it(world: World) -> None:
    world.registry.promote("demo", 3, ANN)
    world.start()
    assert world.registry.rollback("demo", ANN).state.named("stable") == 1
    assert world.rollout.ended_at is not None


def test_halt_ends_it(world: World) -> None:
    from mlops.registry import HaltEntry

    world.start()
    world.report()
    world.look()
    state = world.registry.desired("demo").state  # type: ignore[union-attr]
    halt = HaltEntry(reason="stop", actor="ann", since="2026-01-01T00:00:00+00:00")
    desired = world.registry.set_desired("demo", state.model_copy(update={"halt": halt}), ANN, None)
    assert desired.state.halt == halt
    assert world.split == {1: 10_000}
    assert world.rollout.ended_at is not None


def foreign(world: World, **changes: object) -> None:
    """Somebody writes desired state by a way that knows of no rollouts."""
    state = world.registry.desired("demo").state.model_copy(update=changes)  # type: ignore[union-attr]
    world.registry.journal.write(
        "desired", Author("old-tool", "by hand"), lambda write: write_state(write, "demo", state, None), model="demo"
    )


def test_split_that_somebody_else_changed_pauses_it_and_continue_has_it_again(world: World) -> None:
    from mlops.registry import Share

    world.start()
    world.report()
    world.look()
    foreign(world, split=(Share(version=3, role="stable", weight_bp=10_000),), shadow=None)
    world.second()
    assert world.progress.state.phase is Phase.PAUSED
    assert "old-tool changed who gets which requests (by hand)" in world.progress.state.reason
    assert [alarm.event for alarm in world.alarms] == ["paused"]
    with pytest.raises(ControlError, match="old-tool"):
        world.order(Order.FINISH)
    world.order(Order.CONTINUE)
    assert world.split == {2: 1_000, 1: 9_000}
    foreign(world, split=(Share(version=3, role="stable", weight_bp=10_000),), shadow=None)
    world.second()
    world.order(Order.ABORT)
    assert world.split == {3: 10_000}, "what somebody else made live stays"
    assert world.registry.desired("demo").state.latency_edge_ns == 0  # type: ignore[union-attr]


def test_clock_that_jumps_moves_nothing_on(world: World) -> None:
    world.start()
    world.report()
    world.look()
    world.seconds(2)
    true_ns = world.now_ns
    world.now_ns += 86_400 * 10**9
    world.say()
    world.look()
    assert world.split[2] == 1_000
    world.now_ns = true_ns
    world.leases_.clear()
    world.seconds(2)
    assert world.split.get(2, 0) == 1_000
    world.now_ns = true_ns + 2 * 10**9
    for _ in range(80):
        world.second()
    assert world.events[-1] == "finished", "it goes on from where it was"


def test_time_that_nobody_watched_does_not_count(world: World) -> None:
    world.start()
    world.report()
    world.look()
    world.second()
    for _ in range(30):
        world.count()
        world.now_ns += 10**9
        world.report()
        world.say()
    assert world.split[2] == 1_000, "nobody looked"
    world.look("two")
    assert world.progress.state.watched_ns <= 3 * 10**9
    assert world.progress.analysis["windows"] >= 3  # type: ignore[index]
    assert world.progress.next_window_ns > START_NS
    assert KIM.reason == world.rollout.reason
