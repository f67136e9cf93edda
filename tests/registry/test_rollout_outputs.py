"""What a rollout makes of outputs and outcomes: judged once a step, on what is complete."""

import numpy as np
import pytest

from mlops.package import Metric, ReferenceRows
from mlops.registry import Registry
from mlops.tap.layout import BUCKETS, COMPARED_ROLE
from tests.support.registry import ANN, Clock, Packages, add
from tests.support.rollouts import KIM, QUICK, RULE, World, make_spec
from tickserve.errors import RegistryError, UnknownError


def test_outputs_are_judged_once_a_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(
        analysis={"alpha": 0.2, "errors": RULE, "violations": RULE, "latency": None, "psi": {"tolerance": 0.2}}
    )
    blocks = np.full((30, 4), 25, np.int64)
    world.baseline = lambda model, version: blocks
    monkeypatch.setattr("mlops.rollout.orders._require_outputs", lambda manifest, spec: None)
    world.start(spec)
    world.report()
    world.look()
    bins = np.tile(np.array([10, 10, 10, 10], np.int64), (BUCKETS, 1))
    for _ in range(20):
        world.second()
        world.outputs(2, 2, bins=bins, answers=int(bins.sum()))
        if world.split.get(2) == 5_000:
            break
    assert world.split[2] == 5_000
    shifted = np.tile(np.array([0, 0, 0, 40], np.int64), (BUCKETS, 1))
    for _ in range(20):
        world.second()
        world.outputs(2, 2, bins=shifted, answers=int(bins.sum()))
    assert world.events[-1] == "aborted"
    assert "psi" in world.decisions[-1].reason


def live(world: World, version: int, value: float) -> None:
    """A live figure as the sidecar records it."""
    figures = {"rank_ic:1d": Metric(value=value, standard_error=0.01, n=60)}
    world.registry.log_metrics("demo", version, "live", figures, ANN, step=world.now_ns // 10**9)


WITH_PSI = QUICK | {"psi": {"tolerance": 0.2}}


@pytest.mark.parametrize("missed", [0, 2_000])
def test_outputs_of_a_step_with_too_many_drops_say_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, missed: int
) -> None:
    world.baseline = lambda model, version: np.full((30, 4), 25, np.int64)
    monkeypatch.setattr("mlops.rollout.orders._require_outputs", lambda manifest, spec: None)
    world.start(make_spec(analysis=WITH_PSI))
    world.report()
    world.look()
    shifted = np.tile(np.array([0, 0, 0, 40], np.int64), (BUCKETS, 1))
    for _ in range(20):
        world.second()
        # Of a million records, so that two thousand are more than 0.1%.
        world.outputs(2, 2, bins=shifted, answers=int(shifted.sum()), missed=(0, missed))
    assert world.events[-1] == ("started" if missed else "aborted")
    psi = next(each for each in world.evidence.verdicts if each.metric == "psi")
    assert psi.verdict == ("inconclusive" if missed else "fail")


def test_outcomes_of_the_registrys_live_figures_take_a_worse_version_back(world: World, clock: Clock) -> None:
    spec = make_spec(analysis=QUICK | {"outcome": {"figure": "rank_ic:1d", "worse": 0.01}})
    # Before the rollout it was worse, in another market: that is no evidence.
    live(world, 2, -0.3)
    live(world, 1, 0.3)
    clock.step(1.0)
    world.start(spec)
    world.report()
    world.look()
    for _ in range(30):
        world.second()
        if world.split.get(2) == 5_000:
            break
    assert world.split.get(2) == 5_000, world.decisions[-1].reason
    live(world, 2, -0.3)
    live(world, 1, 0.3)
    world.seconds(20)
    assert world.events[-1] == "aborted"
    assert "outcome: rank_ic:1d of the canary is shown to lie more than 0.01 below" in world.decisions[-1].reason


@pytest.mark.parametrize("figure", ["missing", "without an error"])
def test_outcomes_that_say_nothing_hold_no_rollout_up(world: World, figure: str) -> None:
    world.start(make_spec(analysis=QUICK | {"outcome": {"figure": "rank_ic:1d"}}))
    if figure == "without an error":
        for version in (1, 2):
            world.registry.log_metrics("demo", version, "live", {"rank_ic:1d": 0.1 * version}, ANN, step=20_000)
    world.report()
    world.look()
    world.seconds(30)
    assert world.events == ["ordered", "started", "advanced", "finished"]


def test_outputs_that_the_package_says_nothing_of_are_refused_at_the_start(
    registry: Registry, packages: Packages
) -> None:
    values = {"values": np.linspace(0, 1, 200, dtype=np.float32)[:, None]}
    times = np.arange(200) * 60 * 10**9
    add(registry, packages(1.0))
    registry.promote("demo", 1, ANN)
    unordered = add(registry, packages(2.0, outputs_reference=ReferenceRows("later", values)))
    ordered = add(registry, packages(3.0, outputs_reference=ReferenceRows("later", values, times)))
    rollouts = World(registry).rollouts
    spec = make_spec(analysis=WITH_PSI)
    with pytest.raises(RegistryError, match="the package has no baseline of outputs"):
        rollouts.start("demo", add(registry, packages(4.0)), spec, KIM)
    with pytest.raises(RegistryError, match="have no times, so they are one block, and 20 are needed"):
        rollouts.start("demo", unordered, spec, KIM)
    with pytest.raises(RegistryError, match="sign_flips cannot be judged"):
        rollouts.start("demo", ordered, make_spec(analysis=QUICK | {"sign_flips": {"tolerance": 0.1}}), KIM)
    assert rollouts.start("demo", ordered, spec, KIM)
    with pytest.raises(UnknownError, match="nobody"):
        rollouts.start("nobody", 1, spec, KIM)


def test_sign_flips_against_stables_shadow_are_judged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(
        analysis={"alpha": 0.2, "errors": RULE, "violations": RULE, "latency": None, "sign_flips": {"tolerance": 0.1}}
    )
    monkeypatch.setattr("mlops.rollout.orders._require_outputs", lambda manifest, spec: None)
    world.start(spec)
    world.report()
    world.look()
    pairs = np.full(BUCKETS, 20, np.int64)
    for _ in range(20):
        world.second()
        world.outputs(2, COMPARED_ROLE, pairs=pairs, flips=pairs // 2, answers=int(pairs.sum()))
    assert world.events[-1] == "aborted"
    assert "sign_flips" in world.decisions[-1].reason
