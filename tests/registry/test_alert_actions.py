"""What alerts do in a real registry: attributed, audited, based on what was read, and never twice."""

from pathlib import Path
from typing import Any

import pytest

from mlops.alerts.actions import ACTOR, Notice
from mlops.alerts.history import read_history
from mlops.alerts.matrix import Level, Matrix, Row
from mlops.alerts.reading import Reading
from mlops.alerts.registry_actions import RegistryActions
from mlops.alerts.runner import AlertPolicy
from mlops.registry import Registry, Share
from mlops.registry.desired import make_state
from mlops.registry.leases import Leases
from mlops.rollout.controller import LEASE
from tests.support.registry import ANN, Packages, add
from tests.support.rollouts import World, make_spec

ROW = Row(
    name="ic",
    source="outcome",
    figure="ic",
    basis="upper",
    direction="below",
    length=60,
    warning=Level(
        enter=0.02, leave=0.03, actions=("set_position_scale", "notify", "request_review"), position_scale=0.5
    ),
    critical=Level(enter=0.0, leave=0.02, actions=("halt", "request_retraining")),
)


class Desk:
    """A policy over a registry, and a time that goes on."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry, self.folder = registry, folder
        self.told: list[Notice] = []
        self.actions = RegistryActions(lambda: registry, self.told.append)
        self.time = 0
        self.open()

    def open(self) -> None:
        self.policy = AlertPolicy("demo", Matrix(row=(ROW,)), self.folder, self.actions)

    def see(self, value: float) -> int:
        self.time += 1
        reading = Reading(
            "demo", "1", str(self.time), self.time, self.time + 1, value, evidence=f"upper bound {value} of 60 periods"
        )
        self.policy.observe("ic", [reading])
        return self.policy.act()

    def operate(self, **entries: Any) -> None:
        state = self.registry.desired("demo").state  # type: ignore[union-attr]
        known = {name: getattr(state, name) for name in type(state).model_fields}
        self.registry.set_desired("demo", make_state(**(known | entries)), ANN, None)

    @property
    def scale(self) -> float:
        return self.registry.desired("demo").state.position_scale  # type: ignore[union-attr]

    def results(self, do: str) -> list[str]:
        return [row.result for row in read_history(self.folder / "history.jsonl") if row.action == do]


@pytest.fixture
def desk(registry: Registry, packages: Packages, tmp_path: Path) -> Desk:
    add(registry, packages(1.0))
    add(registry, packages(2.0))
    registry.promote("demo", 1, ANN)
    return Desk(registry, tmp_path / "alerts")


def test_scale_is_reduced_with_the_evidence_and_restored(desk: Desk) -> None:
    desk.operate(position_scale=0.8)
    assert desk.see(0.01) == 0
    found = desk.registry.desired("demo")
    assert found is not None
    assert (found.state.position_scale, found.actor) == (0.5, ACTOR)
    assert "ic warning raised: upper bound 0.01 of 60 periods" in found.reason
    assert [notice.do for notice in desk.told] == ["request_review", "notify"]
    assert desk.see(0.05) == 0
    assert desk.scale == 0.8
    assert [notice.change for notice in desk.told] == ["raised", "raised", "cleared"]
    assert desk.results("set_position_scale") == ["done", "done"]
    assert desk.registry.verify().findings == ()


def test_somebody_elses_scale_is_not_restored_over(desk: Desk) -> None:
    desk.see(0.01)
    desk.operate(position_scale=0.2)
    desk.see(0.05)
    assert desk.scale == 0.2
    assert desk.results("set_position_scale") == ["done", "overtaken"]
    desk.operate(position_scale=1.0)
    desk.see(0.01)
    assert desk.scale == 0.5


def test_promotions_and_other_changes_in_between_stay(desk: Desk) -> None:
    desk.see(0.01)
    desk.registry.promote("demo", 2, ANN)
    assert desk.scale == 0.5
    desk.see(0.05)
    found = desk.registry.desired("demo")
    assert found is not None
    assert (found.state.named("stable"), found.state.position_scale) == (2, 1.0)


def test_change_between_reading_and_writing_is_read_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    write, moved = desk.registry.set_desired, []

    def racing(model: str, state: Any, author: Any, expected: int | None) -> Any:
        if author.actor == ACTOR and not moved:
            moved.append(1)
            desk.registry.promote("demo", 2, ANN)
        return write(model, state, author, expected)

    monkeypatch.setattr(desk.registry, "set_desired", racing)
    assert desk.see(0.01) == 0
    found = desk.registry.desired("demo")
    assert found is not None
    assert (found.state.named("stable"), found.state.position_scale) == (2, 0.5)


def test_operator_who_changes_the_scale_first_counts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    write, moved = desk.registry.set_desired, []

    def racing(model: str, state: Any, author: Any, expected: int | None) -> Any:
        if author.actor == ACTOR and not moved:
            moved.append(1)
            desk.operate(position_scale=0.6)
        return write(model, state, author, expected)

    monkeypatch.setattr(desk.registry, "set_desired", racing)
    assert desk.see(0.01) == 0
    assert desk.scale == 0.5
    desk.see(0.05)
    assert desk.scale == 0.6


def test_halt_is_made_once_and_ended_by_people_alone(desk: Desk) -> None:
    desk.see(-0.1)
    found = desk.registry.desired("demo")
    assert found is not None
    assert found.state.halt is not None
    assert found.state.halt.actor == ACTOR
    assert "ic critical raised" in found.state.halt.reason
    assert desk.results("request_retraining") == ["done"]
    desk.see(0.05)
    assert desk.registry.desired("demo").state.halt is not None  # type: ignore[union-attr]
    desk.operate(halt=None)
    desk.see(0.05)
    assert desk.registry.desired("demo").state.halt is None  # type: ignore[union-attr]
    desk.operate(halt={"reason": "mine", "actor": "ann", "since": "2026-01-01T00:00:00+00:00"})
    desk.see(-0.1)
    assert desk.registry.desired("demo").state.halt.actor == "ann"  # type: ignore[union-attr]
    assert desk.results("halt") == ["done", "unchanged"]


def test_halt_that_was_made_before_a_crash_is_not_made_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(BaseException):
        pass

    halt = desk.actions.halt

    def crashing(*given: Any) -> bool:
        halt(*given)
        raise Gone

    monkeypatch.setattr(desk.actions, "halt", crashing)
    with pytest.raises(Gone):
        desk.see(-0.1)
    monkeypatch.undo()
    desk.operate(halt=None)
    desk.policy.close()
    desk.open()
    assert desk.policy.act() == 0
    assert desk.registry.desired("demo").state.halt is None  # type: ignore[union-attr]
    assert desk.results("halt") == ["done"]


def test_registry_that_is_away_is_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from tickserve.errors import UnreachableError

    def away(*_: Any, **__: Any) -> Any:
        raise UnreachableError("the registry's database failed")

    monkeypatch.setattr(desk.registry, "desired", away)
    assert desk.see(0.01) == 1
    assert [notice.do for notice in desk.told] == ["request_review", "notify"]
    monkeypatch.undo()
    assert desk.policy.act() == 0
    assert desk.scale == 0.5


def test_row_that_left_the_matrix_gives_back_what_it_held(desk: Desk) -> None:
    desk.see(0.01)
    desk.policy.close()
    desk.policy = AlertPolicy(
        "demo", Matrix(row=(ROW.model_copy(update={"name": "other"}),)), desk.folder, desk.actions
    )
    assert desk.policy.act() == 0
    assert desk.scale == 1.0
    assert desk.policy.levels() == {"ic": 0}


def test_a_model_that_nothing_is_desired_of_waits(registry: Registry, packages: Packages, tmp_path: Path) -> None:
    add(registry, packages(1.0))
    desk = Desk(registry, tmp_path / "alerts")
    assert desk.see(0.01) == 1
    registry.promote("demo", 1, ANN)
    assert desk.policy.act() == 0
    assert desk.scale == 0.5


TRAFFIC = Row(
    name="errors",
    source="server",
    figure="error_rate",
    basis="lower",
    warning=Level(enter=0.01, leave=0.01, actions=("reduce_share",)),
    critical=Level(enter=0.1, leave=0.01, actions=("roll_back", "notify")),
)


def traffic(desk: Desk, value: float, version: str = "2") -> None:
    desk.time += 1
    policy = AlertPolicy("demo", Matrix(row=(TRAFFIC,)), desk.folder / "traffic", desk.actions)
    evidence = f"lower bound {value}"
    policy.observe(
        "errors", [Reading("demo", version, str(desk.time), desk.time, desk.time + 1, value, evidence=evidence)]
    )
    assert policy.act() == 0
    policy.close()


def split(desk: Desk) -> dict[int, int]:
    return {share.version: share.weight_bp for share in desk.registry.desired("demo").state.split}  # type: ignore[union-attr]


def test_share_of_canaries_is_taken_by_an_alert_on_the_live_version(desk: Desk) -> None:
    desk.operate(
        split=(Share(version=2, role="canary", weight_bp=100), Share(version=1, role="stable", weight_bp=9_900))
    )
    traffic(desk, 0.05, "1")
    assert split(desk) == {1: 10_000}
    found = desk.registry.desired("demo")
    assert found is not None
    assert found.actor == ACTOR
    assert "errors warning raised: lower bound 0.05" in found.reason


def test_live_version_is_rolled_back_by_an_alert_once(desk: Desk) -> None:
    desk.registry.promote("demo", 2, ANN)
    traffic(desk, 0.5, "2")
    assert split(desk) == {1: 10_000}
    assert [notice.do for notice in desk.told] == ["notify"]
    desk.registry.promote("demo", 2, ANN)
    traffic(desk, 0.0, "2")
    traffic(desk, 0.5, "1")
    assert split(desk) == {2: 10_000}, "the version that the alert is about is not live any more"
    assert desk.registry.verify().findings == ()


def test_nothing_to_go_back_to_is_no_failure(desk: Desk) -> None:
    traffic(desk, 0.5, "1")
    assert split(desk) == {1: 10_000}
    rows = read_history(desk.folder / "traffic" / "history.jsonl")
    assert {(row.action, row.result) for row in rows} >= {("roll_back", "unchanged"), ("reduce_share", "unchanged")}


def test_who_decides_on_rollouts_is_fenced_off_by_what_an_alert_moved_and_by_nothing_else(desk: Desk) -> None:
    leases = Leases(desk.registry.journal.database)
    holder = leases.acquire(LEASE, "controller")
    assert holder is not None
    traffic(desk, 0.5, "1")
    assert leases.renew(holder), "there was nothing to go back to"
    desk.registry.promote("demo", 2, ANN)
    traffic(desk, 0.0, "2")
    traffic(desk, 0.5, "2")
    assert split(desk) == {1: 10_000}
    assert not leases.renew(holder)
    with desk.registry.journal.database.read() as connection:
        assert leases.holder(connection, LEASE) == ""
    again = leases.acquire(LEASE, "controller")
    assert again is not None
    assert again.token > holder.token + 1


@pytest.mark.parametrize("strategy", ["canary", "blue_green"])
def test_open_rollout_is_ended_by_its_own_decision(desk: Desk, strategy: str) -> None:
    world = World(desk.registry)
    step = {"share": 10.0, "min_time_s": 3.0, "max_time_s": 60.0}
    world.start(make_spec(strategy=strategy, steps=[step]))
    world.report()
    world.look()
    assert 2 in split(desk)
    traffic(desk, 0.5 if strategy == "blue_green" else 0.05, "2" if strategy == "blue_green" else "1")
    assert split(desk) == {1: 10_000}
    last = world.decisions[-1]
    assert (last.event, last.actor) == ("aborted", ACTOR)
    assert "lower bound" in last.reason
    assert desk.registry.verify().findings == ()
