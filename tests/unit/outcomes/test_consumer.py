"""Outcomes in the sidecar: figured aside, exported where defined, handed on, kept over a restart."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlops.outcomes import Lengths, OutcomeFigure
from mlops.outcomes.table import read_latest
from mlops.package import Metric
from mlops.sidecar.consumers import TakesOutcomes, Ticking
from mlops.sidecar.outcomes import OutcomeConsumer
from tests.support.outcomes import DAY_NS, MODEL, START_NS, Stored, declaration, make_batch
from tickserve.errors import UnreachableError

DAYS = 30


def package(*_: object) -> Any:
    return SimpleNamespace(manifest=declaration(), digest="0" * 64, baseline=None)


def consumer(tmp_path: Path, **changes: Any) -> OutcomeConsumer:
    return OutcomeConsumer(
        package, tmp_path, lengths=Lengths(window=40, rolling=(20,)), **({"figures_s": 0.0} | changes)
    )


def fill(found: OutcomeConsumer, first: int = 0, end: int = DAYS) -> None:
    up = np.random.default_rng(1).uniform(0.1, 0.9, DAYS)
    value = 0.01 * np.random.default_rng(2).normal(size=DAYS)
    for day in range(first, end):
        found.add(make_batch([[up[day]]], event_time_ns=[START_NS + DAY_NS * day], first_position=day))
    found.add_outcomes(
        [
            Stored(f"o{day}", float(value[day]), model=MODEL, entity="SPX", event_time_ns=START_NS + DAY_NS * day)
            for day in range(first, end)
        ]
    )


def settle(found: OutcomeConsumer, is_done: Callable[[], bool]) -> None:
    """Ticks as the feed does, until it is done."""
    until, pause = time.monotonic() + 60, threading.Event()
    while not is_done():
        assert time.monotonic() < until
        found.tick()
        # Lets the thread of the figures work.
        pause.wait(0.01)


def test_figures_are_made_aside_and_handed_on(tmp_path: Path) -> None:
    handed: list[OutcomeFigure] = []
    threads: set[str] = set()

    def take(figures: Any) -> None:
        handed.extend(figures)
        threads.add(threading.current_thread().name)

    found = consumer(tmp_path, on_figures=take)
    assert isinstance(found, TakesOutcomes)
    assert isinstance(found, Ticking)
    fill(found)
    settle(found, lambda: bool(handed))
    assert found.latest == handed
    assert threads == {threading.current_thread().name}
    assert list(read_latest(tmp_path)) == handed
    families = {family.name: family for family in found.collect()}
    values = {sample.labels["figure"]: sample.value for sample in families["tickserve_outcome_value"].samples}
    by_name = {figure.figure: figure for figure in handed}
    assert values["ic"] == by_name["ic"].value
    assert {sample.labels["version"] for sample in families["tickserve_outcome_value"].samples} == {"1"}
    assert families["tickserve_outcome_rows_waiting"].samples[0].value == 0


def test_what_is_undefined_is_absent(tmp_path: Path) -> None:
    found = consumer(tmp_path)
    fill(found, end=2)
    settle(found, lambda: bool(found.latest))
    families = {family.name: family for family in found.collect()}
    exported = {sample.labels["figure"] for sample in families["tickserve_outcome_value"].samples}
    assert "rank_ic" not in exported, "two rows have no correlation"
    assert "total_return" in exported
    assert families["tickserve_outcome_lower"].samples == []


def test_nothing_new_makes_no_figures(tmp_path: Path) -> None:
    calls: list[int] = []
    found = consumer(tmp_path, on_figures=lambda figures: calls.append(len(figures)))
    fill(found)
    settle(found, lambda: bool(calls))
    for _ in range(50):
        found.tick()
    assert len(calls) == 1


def test_a_restart_goes_on_and_shows_the_last_figures_meanwhile(tmp_path: Path) -> None:
    whole, first = consumer(tmp_path / "a"), consumer(tmp_path / "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    fill(whole)
    settle(whole, lambda: bool(whole.latest))
    fill(first, 0, 25)
    settle(first, lambda: bool(first.latest))
    second = consumer(tmp_path / "b")
    second.restore(first.checkpoint())
    assert second.latest == first.latest
    fill(second, 25, DAYS)
    settle(second, lambda: second.latest != first.latest)
    assert second.latest == whole.latest
    with pytest.raises(ValueError, match="no checkpoint"):
        second.restore(b"nothing")


def test_the_registry_gets_what_may_be_relied_on_once_a_day(tmp_path: Path) -> None:
    recorded: list[tuple[str, str, dict[str, Metric], int]] = []
    found = consumer(tmp_path, record_live=lambda *facts: recorded.append(facts))
    fill(found, 0, 10)
    settle(found, lambda: bool(found.latest))
    assert recorded == [], "ten days have no interval"
    fill(found, 10, 29)
    settle(found, lambda: bool(recorded))
    fill(found, 28, 29)
    before = found.latest
    fill(found, 29, 30)
    settle(found, lambda: found.latest != before and len(recorded) > 1)
    assert [step for *_, step in recorded] == [START_NS // DAY_NS + 28, START_NS // DAY_NS + 29]
    model, version, metrics, _ = recorded[-1]
    assert (model, version) == (MODEL, "1")
    assert metrics["ic"].n == 30
    assert metrics["ic"].standard_error is not None


def test_a_registry_that_is_away_costs_no_figures(tmp_path: Path) -> None:
    def away(*_: object) -> None:
        raise UnreachableError("away")

    found = consumer(tmp_path, record_live=away)
    fill(found)
    settle(found, lambda: bool(found.latest))
    assert {figure.figure for figure in found.latest} > {"ic", "sharpe"}


def test_live_metrics_stand_in_a_real_registry(tmp_path: Path) -> None:
    from mlops.registry import Author, open_registry
    from mlops.sidecar.settings import load_sidecar_settings
    from mlops.sidecar.wiring.outcomes import registry_recorder
    from tests.support.packages import build_constant

    settings = load_sidecar_settings(None, {"home": tmp_path})
    assert registry_recorder(settings) is None, "there is none, and none is made"
    with open_registry(tmp_path) as registry:
        registry.register(build_constant(tmp_path / "packages", 0.5), Author("test"))
    record = registry_recorder(settings)
    assert record is not None
    record("demo", "1", {"ic": Metric(value=0.02, standard_error=0.01, n=250)}, 20_000)
    with open_registry(tmp_path) as registry:
        [row] = [row for row in registry.metrics(registry.version("demo", 1)) if row.dataset == "live"]
    assert (row.name, row.value, row.standard_error, row.n, row.step) == ("ic", 0.02, 0.01, 250, 20_000)


def test_a_fault_in_the_figures_is_not_swallowed(tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    found = consumer(tmp_path, record_live=broken)
    fill(found)
    with pytest.raises(ZeroDivisionError):
        settle(found, lambda: False)


class Store:
    """A log, and whether the package is there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.has_package, self.log = folder, False, list[Any]()
        folder.mkdir()
        self.consumer = self.made()

    def made(self) -> OutcomeConsumer:
        return OutcomeConsumer(
            lambda *_: package() if self.has_package else None,
            self.folder,
            lengths=Lengths(window=40, rolling=(20,)),
            figures_s=0.0,
            read=self.read,
        )

    def read(self, model: str, version: str, after: int) -> Any:
        for batch in list(self.log):
            if (batch.model, batch.version) == (model, version) and (batch.position > after).any():
                yield batch.take(batch.position > after)

    def restart(self) -> None:
        saved = self.consumer.checkpoint()
        self.consumer = self.made()
        self.consumer.restore(saved)

    def add(self, day: int, *, is_given: bool = True) -> None:
        up = np.random.default_rng(1).uniform(0.1, 0.9, DAYS)[day]
        self.log.append(make_batch([[up]], event_time_ns=[START_NS + DAY_NS * day], first_position=day))
        if is_given:
            self.consumer.add(self.log[-1])


def known(*days: int) -> list[Any]:
    value = 0.01 * np.random.default_rng(2).normal(size=DAYS)
    return [
        Stored(f"o{day}", float(value[day]), model=MODEL, entity="SPX", event_time_ns=START_NS + DAY_NS * day)
        for day in days
    ]


@pytest.fixture
def whole(tmp_path: Path) -> Store:
    """What a replay gives: the package was there from the first."""
    found = Store(tmp_path / "whole")
    found.has_package = True
    for day in range(DAYS):
        found.add(day)
    found.consumer.add_outcomes(known(*range(DAYS)))
    settle(found.consumer, lambda: bool(found.consumer.latest))
    return found


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("has_more", [False, True])
def test_records_that_came_before_their_package_are_joined_once_it_is_there(
    tmp_path: Path, whole: Store, monkeypatch: pytest.MonkeyPatch, is_restarted: bool, has_more: bool
) -> None:
    monkeypatch.setattr("mlops.sidecar.outcomes._RETRY_S", 0.0)
    found = Store(tmp_path / "late")
    for day in range(20):
        found.add(day)
        found.consumer.tick()
    found.consumer.add_outcomes(known(*range(10)))
    if is_restarted:
        found.restart()
        found.consumer.tick()
    found.has_package = True
    # While it is made up the log has records that are handed on later.
    for day in range(20, 22):
        found.add(day, is_given=False)
    if has_more:
        found.consumer.tick()
    if is_restarted:
        found.restart()
    for batch in found.log[20:22]:
        found.consumer.add(batch)
    for day in range(22, DAYS):
        found.add(day)
    for _ in range(DAYS):
        found.consumer.tick()
    rows = next(each for each in found.consumer.collect() if each.name == "tickserve_outcome_rows_waiting")
    assert rows.samples[0].value == DAYS - 10, "each waits once, whether it was read or handed on"
    found.consumer.add_outcomes(known(*range(10, DAYS)))
    settle(found.consumer, lambda: found.consumer.latest == whole.consumer.latest)


def test_what_a_checkpoint_holds_outlives_a_restart_without_the_package(
    tmp_path: Path, whole: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.sidecar.outcomes._RETRY_S", 0.0)
    found = Store(tmp_path / "late")
    found.has_package = True
    for day in range(15):
        found.add(day)
    found.consumer.add_outcomes(known(*range(10)))
    found.has_package = False
    found.restart()
    found.restart()
    found.consumer.add_outcomes(known(*range(10, 13)))
    # The log no longer has them.
    found.log.clear()
    for day in range(15, 20):
        found.add(day)
    found.consumer.tick()
    found.restart()
    found.has_package = True
    for day in range(20, DAYS):
        found.add(day)
    found.consumer.add_outcomes(known(*range(13, DAYS)))
    settle(found.consumer, lambda: found.consumer.latest == whole.consumer.latest)


def test_a_package_that_took_the_place_of_one_that_is_missing_is_what_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.sidecar.outcomes._RETRY_S", 0.0)
    there: set[str] = {"1" * 64}
    log = [
        replace(make_batch([[0.6]], event_time_ns=[START_NS + DAY_NS * day], first_position=day), digest=digest * 64)
        for day, digest in enumerate("001")
    ]

    def find(model: str, version: str, digest: str) -> Any:
        return SimpleNamespace(manifest=declaration(), digest=digest) if digest in there else None

    found = OutcomeConsumer(find, tmp_path, figures_s=0.0, read=lambda model, version, after: iter(log[after + 1 :]))
    for batch in log:
        found.add(batch)
    there.add("0" * 64)
    for _ in range(5):
        found.tick()
    found.add_outcomes(known(0, 1, 2))
    settle(found, lambda: bool(found.latest))
    assert {figure.n for figure in found.latest if figure.figure == "total_return"} == {1}
