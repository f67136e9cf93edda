"""All versions at once: whose rows an outcome is, what a restart keeps, and what is bounded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlops.outcomes import Lengths
from mlops.outcomes.monitor import MAX_UNKNOWN, OutcomeMonitor
from tests.support.outcomes import DAY_NS, MODEL, START_NS, Stored, declaration, make_batch, make_spec

LENGTHS = Lengths(window=40, rolling=(20,))


def package(**changes: Any) -> Any:
    """What a finder gives: the monitor takes its manifest and digest."""
    return SimpleNamespace(manifest=declaration(**changes), digest="0" * 64, baseline=None)


def monitor(**changes: Any) -> OutcomeMonitor:
    return OutcomeMonitor(lambda *_: package(**changes), lengths=LENGTHS)


def days(n: int, *, version: str = "1", first: int = 0, seed: int = 0) -> list[Any]:
    up = np.random.default_rng(seed).uniform(0.1, 0.9, n)
    times = START_NS + DAY_NS * np.arange(first, first + n)
    return [
        make_batch([[p]], event_time_ns=[time], version=version, first_position=first + day)
        for day, (p, time) in enumerate(zip(up, times, strict=True))
    ]


def outcomes(n: int, *, horizon: str = "1d") -> list[Stored]:
    values = 0.01 * np.random.default_rng(9).normal(size=n)
    return [
        Stored(
            f"{horizon}-{day}",
            float(value),
            model=MODEL,
            entity="SPX",
            event_time_ns=START_NS + DAY_NS * day,
            horizon=horizon,
            order=day,
        )
        for day, value in enumerate(values)
    ]


def test_an_outcome_is_of_the_rows_of_every_version() -> None:
    found = monitor()
    for batch in [*days(30), *days(30, version="2", seed=1)]:
        found.add(batch)
    found.add_outcomes(outcomes(30))
    assert [served.version for served in found.served] == ["1", "2"]
    assert found.take_changed() == {(MODEL, "1"), (MODEL, "2")}
    assert found.take_changed() == set()
    one, two = ({f.figure: f for f in found.figures(MODEL, version)} for version in ("1", "2"))
    assert one["ic"].n == two["ic"].n == 30
    assert one["ic"].value != two["ic"].value
    assert one["ic_20"].start_ns == START_NS + DAY_NS * 10, "rolling figures say which rows they rest on"
    assert (one["ic"].start_ns, one["ic_20"].end_ns) == (START_NS, START_NS + DAY_NS * 29)


def test_a_restart_in_the_middle_changes_nothing() -> None:
    whole, first = monitor(), monitor()
    records, known = days(40), outcomes(40)
    for place in range(40):
        whole.add(records[place])
        whole.add_outcomes(known[place : place + 1])
    for place in range(25):
        first.add(records[place])
    first.add_outcomes(known[:10])
    # Ones without a prediction yet.
    first.add_outcomes(known[30:])
    second = monitor()
    second.restore(first.checkpoint())
    assert second.waiting == first.waiting
    for place in range(25, 40):
        second.add(records[place])
    second.add_outcomes(known[10:30])
    assert second.figures(MODEL, "1") == whole.figures(MODEL, "1")
    assert second.outcomes == 40


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint_is_said_to_be_one(data: bytes) -> None:
    with pytest.raises(ValueError, match="no checkpoint"):
        monitor().restore(data)


def test_a_cut_checkpoint_is_said_to_be_one() -> None:
    found = monitor()
    found.add(days(3)[0])
    data = found.checkpoint()
    with pytest.raises(ValueError, match="checkpoint"):
        monitor().restore(data[: len(data) // 2])


def test_a_version_whose_package_declares_nothing_has_no_figures() -> None:
    for changes in ({"outcomes": None}, {"signal": None}):
        silent = package()
        silent.manifest = declaration().model_copy(update=changes)
        found = OutcomeMonitor(lambda *_, silent=silent: silent)
        found.add(days(1)[0])
        found.add_outcomes(outcomes(1))
        assert found.served == []


def test_a_missing_package_is_asked_for_once() -> None:
    asked: list[str] = []
    found = OutcomeMonitor(lambda model, version, digest: asked.append(version))
    for batch in days(5):
        found.add(batch)
    assert asked == ["1"]
    assert found.unfound == {(MODEL, "1", "0" * 64)}


def test_strategies_report_what_they_earned() -> None:
    found = monitor()
    found.add(days(1)[0])
    one = outcomes(30, horizon="pnl")
    found.add_outcomes(one)
    alone = {figure.figure: figure for figure in found.pnl(MODEL)}
    returns = np.array([each.value for each in one])
    assert alone["total_return"].value == pytest.approx(np.prod(1 + returns) - 1)
    assert alone["sharpe"].version == ""
    assert (MODEL, "") in found.take_changed()
    # A second strategy adds to the first, period by period.
    times = [START_NS + DAY_NS * day for day in range(30)]
    found.add_outcomes(
        Stored(f"b{time}", 0.01, model=MODEL, entity="B", event_time_ns=time, horizon="pnl") for time in times
    )
    both = {figure.figure: figure for figure in found.pnl(MODEL)}
    assert both["total_return"].value == pytest.approx(np.prod(1.01 + returns) - 1)
    assert found.pnl("another") == ()


def test_outcomes_of_nobody_are_bounded() -> None:
    found = monitor()
    found.add(days(1)[0])
    found.add_outcomes(outcomes(1))
    found.add_outcomes(Stored(f"u{place}", 0.0, request_id=f"nobody-{place}") for place in range(MAX_UNKNOWN + 10))
    assert found.forgotten > MAX_UNKNOWN // 4
    assert len(found.rows(MODEL, "1", "1d")) == 1, "what has been joined stays"


def test_a_number_given_to_another_package_begins_anew() -> None:
    from dataclasses import replace

    digests = iter(["0" * 64, "1" * 64])
    found = OutcomeMonitor(
        lambda *_: SimpleNamespace(manifest=declaration(), digest=next(digests), baseline=None), lengths=LENGTHS
    )
    first, second = days(2)
    found.add(first)
    found.add_outcomes(outcomes(2))
    assert len(found.rows(MODEL, "1", "1d")) == 1
    found.add(replace(second, digest="1" * 64))
    assert found.rows(MODEL, "1", "1d").time_ns.tolist() == [START_NS + DAY_NS]


def test_weekly_models_count_weeks() -> None:
    spec = make_spec(periods_per_year=52.0)
    found = OutcomeMonitor(lambda *_: SimpleNamespace(manifest=declaration(spec), digest="0" * 64), lengths=LENGTHS)
    for batch in days(35):
        found.add(batch)
    found.add_outcomes(outcomes(35))
    assert {f.figure: f.n for f in found.figures(MODEL, "1")}["sharpe"] == 5


def test_many_small_batches_wait_in_few_chunks(tmp_path: Path) -> None:
    found = monitor()
    for batch in days(300):
        found.add(batch)
    assert found.waiting == 300
    assert len(found._joins[MODEL, "1"][1]._waiting) < 10
