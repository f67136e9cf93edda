"""A policy at its rims: nobody to tell, a disk that is full, a matrix that changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.alerts import runner
from mlops.alerts.history import read_history
from mlops.alerts.matrix import Level, Matrix, Row
from mlops.alerts.reading import Reading
from mlops.alerts.runner import AlertPolicy
from tests.unit.alerts.test_consumer import Desk

ROW = Row(
    name="ic",
    source="outcome",
    figure="ic",
    basis="upper",
    direction="below",
    length=60,
    warning=Level(enter=0.02, leave=0.03, actions=("notify", "request_review")),
    critical=Level(enter=0.0, leave=0.01, actions=("set_position_scale",), position_scale=0.5),
)


class Bench:
    """A policy over a folder and a desk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.desk, self.time = folder, Desk(), 0
        self.policy = self.open(Matrix(row=(ROW,)))

    def open(self, matrix: Matrix) -> AlertPolicy:
        return AlertPolicy("demo", matrix, self.folder, self.desk)

    def see(self, *values: float) -> None:
        for value in values:
            self.time += 1
            self.policy.observe("ic", [Reading("demo", "1", str(self.time), self.time, self.time + 1, value)])

    def history(self) -> list[tuple[str, str]]:
        return [(row.action, row.result) for row in read_history(self.folder / "history.jsonl")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "demo")
    yield made
    made.policy.close()


def test_who_cannot_be_told_is_asked_once_and_holds_up_no_action(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def deaf(notice: Any) -> None:
        asked.append(notice.id)
        raise OSError("nobody there")

    monkeypatch.setattr(bench.desk, "notify", deaf)
    bench.see(0.01, 0.05, 0.01, 0.05, -0.1)
    bench.policy.act()
    assert len(asked) == 1
    assert bench.desk.scale == 0.5
    assert ("set_position_scale", "done") in bench.history()
    monkeypatch.undo()
    assert bench.policy.act() == 0
    assert [notice.change for notice in bench.desk.told if notice.do == "notify"] == [
        "raised",
        "cleared",
        "raised",
        "cleared",
        "raised",
    ]


def test_notices_beyond_the_bound_are_given_up_oldest_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(notice: Any) -> None:
        raise OSError("nobody there")

    monkeypatch.setattr(bench.desk, "notify", deaf)
    monkeypatch.setattr(runner, "MOST_PENDING", 3)
    bench.see(0.01, 0.05, 0.01)
    bench.policy.act()
    assert bench.policy.pending == 3
    given_up = [action for action, result in bench.history() if result == "given_up"]
    assert given_up == ["request_review", "notify"]
    monkeypatch.undo()
    assert bench.policy.act() == 0
    assert [(notice.do, notice.change) for notice in bench.desk.told] == [
        ("notify", "cleared"),
        ("request_review", "raised"),
        ("notify", "raised"),
    ]


def test_full_disk_acts_on_nothing_and_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.policy._file, "write", full)
    bench.see(-0.1)
    assert bench.policy.levels() == {"ic": 2}
    assert bench.policy.act() > 0
    assert (bench.desk.scale, bench.desk.told, bench.policy.is_stored) == (1.0, [], False)
    assert bench.policy.is_due
    monkeypatch.undo()
    assert bench.policy.act() == 0
    assert (bench.desk.scale, bench.policy.is_stored) == (0.5, True)


def test_history_that_cannot_be_written_keeps_the_action_open(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(row: Any) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.policy._history, "append", full)
    bench.see(-0.1)
    assert bench.policy.act() > 0
    assert bench.desk.scale == 0.5
    monkeypatch.undo()
    assert bench.policy.act() == 0
    assert bench.history().count(("set_position_scale", "done")) == 1


def test_smaller_claims_count_and_larger_ones_come_back(tmp_path: Path) -> None:
    other = ROW.model_copy(
        update={
            "name": "other",
            "warning": None,
            "critical": Level(enter=0.0, leave=0.01, actions=("set_position_scale",), position_scale=0.25),
        }
    )
    desk = Desk()
    policy = AlertPolicy("demo", Matrix(row=(ROW, other)), tmp_path, desk)
    seen = []
    for time, (row, value) in enumerate([("ic", -0.1), ("other", -0.1), ("other", 0.1), ("ic", 0.1)]):
        policy.observe(row, [Reading("demo", "1", str(time), time, time + 1, value)])
        policy.act()
        seen.append(desk.scale)
    assert seen == [0.5, 0.25, 0.5, 1.0]
    policy.close()


def test_level_that_left_the_matrix_is_withdrawn_and_the_rest_stays(bench: Bench) -> None:
    bench.see(-0.1)
    bench.policy.act()
    bench.policy.close()
    bench.policy = bench.open(Matrix(row=(ROW.model_copy(update={"critical": None}),)))
    assert bench.policy.levels() == {"ic": 1}
    assert bench.policy.act() == 0
    assert bench.desk.scale == 1.0
    withdrawn = [row for row in read_history(bench.folder / "history.jsonl") if row.change == "withdrawn"]
    assert [(row.level, row.action) for row in withdrawn] == [
        ("critical", "record"),
        ("critical", "set_position_scale"),
    ]
