"""Counts of versions that left the plan: apart for some minutes, then in their model's sum, and never lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from server.engine.base import Counters
from server.engine.python import PythonEngine
from server.engine.python.tallies import FOLD_AFTER_S, KEPT_APART, Identity, Tallies
from server.engine.totals import model_totals
from server.metrics import ServerCollector
from server.models import DirectorySource, LocalState, Reconciler
from server.plan import Role
from tests.support.packages import add_constant
from tickserve.client import Client

ONE, TWO = (Identity("demo", version, Role.STABLE) for version in "12")


class Holder:
    """What a request holds while it may count."""


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tallies(clock: Clock) -> Tallies:
    return Tallies(clock)


def answer(tallies: Tallies, identity: Identity, duration_ns: int) -> None:
    tally = tallies.of(*identity)
    tally.answered += 1
    tally.rows += 2
    tally.slow += 1
    tally.count_error("INVALID_INPUT")
    tally.rule_violations["bounds:rsi", "clip"] = tally.rule_violations.get(("bounds:rsi", "clip"), 0) + 3
    for histogram in tally.stages.values():
        histogram.record(duration_ns)


def counters(tallies: Tallies) -> Counters:
    apart, folded = tallies.read()
    return Counters([tally.copy(*identity) for identity, tally in apart], folded, {}, 0, 0.0, 0, [])


def versions(tallies: Tallies) -> list[str]:
    return [item.version for item in counters(tallies).versions]


def test_version_that_left_is_counted_apart_for_its_time_and_then_folded(tallies: Tallies, clock: Clock) -> None:
    answer(tallies, ONE, 100)
    tallies.keep({ONE: Holder()})
    answer(tallies, TWO, 2000)
    tallies.keep({TWO: Holder()})
    clock.now += FOLD_AFTER_S - 1
    # What was accepted before the swap is counted where it ran.
    answer(tallies, ONE, 100)
    assert versions(tallies) == ["1", "2"]
    before = model_totals(counters(tallies))
    clock.now += 1
    assert versions(tallies) == ["2"]
    assert model_totals(counters(tallies)) == before
    (total,) = before
    assert (total.answered, total.rows, total.slow) == (3, 6, 3)
    assert (total.errors, total.rule_violations) == ({"INVALID_INPUT": 3}, {("bounds:rsi", "clip"): 9})
    assert {(sum(stage.counts), stage.sum_ns) for stage in total.stages.values()} == {(3, 2200)}


def test_version_in_the_plan_is_never_folded(tallies: Tallies, clock: Clock) -> None:
    answer(tallies, ONE, 100)
    tallies.keep({ONE: Holder()})
    clock.now += 10 * FOLD_AFTER_S
    assert versions(tallies) == ["1"]


def test_version_that_comes_back_in_time_goes_on_counting(tallies: Tallies, clock: Clock) -> None:
    answer(tallies, ONE, 100)
    tallies.keep({})
    clock.now += FOLD_AFTER_S - 1
    tallies.keep({ONE: Holder()})
    clock.now += FOLD_AFTER_S
    answer(tallies, ONE, 100)
    assert [item.answered for item in counters(tallies).versions] == [2]


def test_version_that_comes_back_late_begins_anew_and_the_model_does_not(tallies: Tallies, clock: Clock) -> None:
    answer(tallies, ONE, 100)
    tallies.keep({})
    clock.now += FOLD_AFTER_S
    tallies.keep({})
    answer(tallies, ONE, 100)
    tallies.keep({ONE: Holder()})
    assert [item.answered for item in counters(tallies).versions] == [1]
    assert [item.answered for item in model_totals(counters(tallies))] == [2]


def test_time_of_a_version_that_left_goes_on_over_further_swaps(tallies: Tallies, clock: Clock) -> None:
    answer(tallies, ONE, 100)
    tallies.keep({ONE: Holder()})
    for _ in range(4):
        tallies.keep({TWO: Holder()})
        clock.now += FOLD_AFTER_S / 4
    assert versions(tallies) == []


def test_of_many_versions_that_left_the_oldest_are_folded_at_once(tallies: Tallies, clock: Clock) -> None:
    other = Identity("other", "1", Role.STABLE)
    answer(tallies, other, 100)
    tallies.keep({other: Holder()})
    count = KEPT_APART + 10
    for number in range(count):
        one = Identity("demo", str(number), Role.STABLE)
        answer(tallies, one, 100)
        # Two at the same time too: changes may come faster than the clock goes on.
        clock.now += number % 2
        tallies.keep({one: Holder()})
    assert versions(tallies) == ["1", *map(str, range(count - KEPT_APART - 1, count))]
    assert [(item.model, item.answered) for item in model_totals(counters(tallies))] == [("demo", count), ("other", 1)]


def test_nothing_is_folded_while_a_request_may_still_count(tallies: Tallies, clock: Clock) -> None:
    answer(tallies, ONE, 100)
    held = Holder()
    tallies.keep({ONE: held})
    tallies.keep({})
    clock.now += 10 * FOLD_AFTER_S
    assert versions(tallies) == ["1"]
    answer(tallies, ONE, 100)
    del held
    assert versions(tallies) == []
    assert [item.answered for item in model_totals(counters(tallies))] == [2]


def test_runs_are_those_of_a_version_in_all_of_its_roles(tallies: Tallies) -> None:
    for identity in (ONE, TWO, Identity("demo", "1", Role.PREVIOUS)):
        answer(tallies, identity, 100)
    found = tallies.runs([("demo", "1"), ("demo", "9")])
    assert found.keys() == {("demo", "1")}
    runs = found["demo", "1"]
    assert (runs.answered, runs.rows, runs.errors, runs.run.sum_ns) == (2, 4, {"INVALID_INPUT": 2}, 200)
    assert sum(runs.run.counts) == 2


@pytest.fixture
def engine(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[PythonEngine]:
    monkeypatch.setattr("server.engine.python.engine.Tallies", lambda: Tallies(clock))
    made = PythonEngine(
        ["127.0.0.1:0"], pool_threads=1, max_in_flight=8, max_in_flight_per_client=8, max_message_bytes=1 << 20
    )
    yield made
    made.stop(0.0)


def test_swaps_do_not_grow_the_exposition_and_the_models_counts_go_on(
    engine: PythonEngine, clock: Clock, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (address,) = engine.start()
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(tmp_path))
    registry = CollectorRegistry()
    registry.register(ServerCollector("python", engine.counters, reconciler.snapshot, lambda: True))
    sizes = []
    with Client(address, model="demo", timeout_s=60.0, check_features=False) as client:
        engine.set_ready(is_ready=True)
        for swap in range(4):
            add_constant(models, float(swap))
            reconciler.reconcile()
            client.predict([1.0, 2.0, 3.0])
            clock.now += FOLD_AFTER_S
            text = generate_latest(registry).decode()
            sizes.append(len(text.splitlines()))
            assert f'tickserve_model_requests_total{{model="demo",outcome="ok"}} {swap + 1}.0' in text
            assert f'tickserve_model_request_seconds_count{{model="demo"}} {swap + 1}.0' in text
    # From the second on there is a version that is kept warm.
    assert sizes[1:] == [sizes[1]] * 3
    assert [(item.version, item.answered) for item in engine.counters().versions] == [("4", 1), ("3", 0)]
    assert [(item.model, item.answered) for item in engine.counters().folded] == [("demo", 3)]
