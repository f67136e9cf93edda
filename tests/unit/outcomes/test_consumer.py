"""Outcomes in the sidecar: figured aside, exported where defined, handed on, kept over a restart."""

import threading
import time
from collections.abc import Callable
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
    from mlops.sidecar.figuring import registry_recorder
    from mlops.sidecar.settings import load_sidecar_settings
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
