"""The bound on bad answers: what counts, what stable explains, and windows that are no evidence."""

from dataclasses import replace

import pytest

from mlops.rollout.analysis import Analysis
from mlops.rollout.store import spec_of
from mlops.rollout.sums.write import write_windows
from tests.support.rollouts import QUICK, RULE, World, make_spec, side


def test_bad_answers_are_bounded_in_windows_that_are_no_evidence_too(world: World) -> None:
    world.start(make_spec(max_bad_answers=100))
    world.report()
    world.look()
    world.canary = side(violations=1)
    world.second(share_bp=-1)
    assert world.progress.analysis["windows"] == 0 if world.rollout.ended_at is None else True  # type: ignore[index]
    assert world.split == {1: 10_000}
    assert "bound is 100" in world.decisions[-1].reason


@pytest.mark.parametrize("is_stable_too", [True, False])
def test_bad_answers_that_stable_would_have_given_to_the_same_requests_are_none_of_the_versions(
    world: World, is_stable_too: bool
) -> None:
    # One key, which is in the version's share, is always bad.
    broken = side()
    broken.violations[7] = 10
    world.start(make_spec(max_bad_answers=30))
    world.report()
    world.look()
    world.canary, world.shadow = broken, broken if is_stable_too else side()
    world.seconds(25)
    assert world.events[-1] == ("finished" if is_stable_too else "aborted")


def test_shadow_that_is_broken_itself_does_not_lift_the_bound_on_bad_answers(world: World) -> None:
    # Errors decide nothing here, so the bound alone is between clients and the version.
    world.start(make_spec(max_bad_answers=600, analysis=QUICK | {"errors": None}))
    world.report()
    world.look()
    world.canary, world.shadow = side(failures=1), side(failures=10)
    world.seconds(3)
    assert world.split == {1: 10_000}
    assert "bound is 600" in world.decisions[-1].reason
    assert not world.evidence.is_shadow_trusted


def bad_answers(world: World) -> int:
    analysis = world.progress.analysis
    assert analysis is not None
    return Analysis.restored(spec_of(world.rollout), dict(analysis)).evidence().bad_answers


def test_bad_answers_that_come_after_their_window_was_left_out_count_once(world: World) -> None:
    world.servers = ["s1", "s2"]
    world.counted = {"s1", "s2"}
    analysis = {"errors": None, "violations": RULE, "latency": None}
    steps = [{"share": 10.0, "min_time_s": 200.0, "max_time_s": 400.0}]
    world.start(make_spec(max_bad_answers=100, analysis=analysis, steps=steps))
    world.report()
    world.look()
    world.seconds(2)
    world.counted = {"s1"}
    since_ns = world.now_ns
    world.seconds(17)
    progress = world.progress
    assert progress.unwatched >= 5
    assert since_ns < progress.next_window_ns
    # The other sidecar is back, and has one window from where it was to now.
    rows = [
        replace(world.row("s2", version, role, 0, -1, counts), start_ns=since_ns, window_ns=world.now_ns - since_ns)
        for version, role, counts in ((2, 2, side(1, 90, failures=1)), (1, 1, side(10)))
    ]
    world.write(lambda connection: write_windows(connection, "demo", rows))
    windows = progress.analysis["windows"]  # type: ignore[index]
    world.counted = {"s1", "s2"}
    world.second(looks=3)
    assert bad_answers(world) == 90
    assert world.split[2] == 1_000
    world.seconds(3)
    assert bad_answers(world) == 90
    assert world.progress.analysis["windows"] > windows  # type: ignore[index]
    # What pushes it over the bound comes late, too.
    world.counted = {"s1"}
    since_ns = world.now_ns
    world.seconds(15)
    late = replace(
        world.row("s2", 2, 2, 0, -1, side(1, 20, failures=1)), start_ns=since_ns, window_ns=world.now_ns - since_ns
    )
    world.write(lambda connection: write_windows(connection, "demo", [late]))
    world.look()
    assert world.split == {1: 10_000}
    assert "bad answers reached clients" in world.decisions[-1].reason
