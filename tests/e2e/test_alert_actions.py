"""What alerts do at one server without a registry: its own desired state, and back again."""

from pathlib import Path

import pytest

from mlops.alerts.actions import ACTOR, Notice
from mlops.alerts.history import read_history
from mlops.alerts.matrix import Level, Matrix, Row
from mlops.alerts.reading import Reading
from mlops.alerts.runner import AlertPolicy
from mlops.alerts.server_actions import ServerActions
from tests.e2e.conftest import Launcher, Running
from tests.support.packages import add_constant
from tickserve.client import Client
from tickserve.errors import HaltedError

ROW = Row(
    name="ic",
    source="outcome",
    figure="ic",
    basis="upper",
    direction="below",
    length=60,
    warning=Level(enter=0.02, leave=0.03, actions=("set_position_scale",), position_scale=0.7),
    critical=Level(enter=0.0, leave=0.02, actions=("halt",)),
)


def make_policy(running: Running, folder: Path) -> AlertPolicy:
    told: list[Notice] = []
    return AlertPolicy("demo", Matrix(row=(ROW,)), folder, ServerActions(running.control, told.append))


def see(policy: AlertPolicy, time: int, value: float) -> None:
    policy.observe("ic", [Reading("demo", "1", str(time), time, time + 1, value, evidence="seen")])
    assert policy.act() == 0


def scale_of(client: Client) -> float:
    return client.predict([1.0, 2.0, 3.0]).position_scale


@pytest.mark.parametrize("is_pinned", [False, True])
def test_scale_at_a_server_goes_down_and_back(launcher: Launcher, is_pinned: bool) -> None:
    add_constant(launcher.models, 0.5)
    with launcher.serve() as running, Client(running.address, model="demo", timeout_s=60.0) as client:
        if is_pinned:
            running.control.set_desired(
                "demo", "1", actor="ann", reason="mine", expected_revision=0, position_scale=0.9
            )
            running.control.wait(lambda _: scale_of(client) == pytest.approx(0.9), 60)
        policy = make_policy(running, launcher.home / "alerts")
        see(policy, 1, 0.01)
        running.control.wait(lambda _: scale_of(client) == pytest.approx(0.7), 60)
        see(policy, 2, 0.05)
        before = pytest.approx(0.9) if is_pinned else 1.0
        running.control.wait(lambda _: scale_of(client) == before, 60)
        desired = running.control.status().models[0].desired
        assert desired is not None
        # What the version policy said is the version policy's again.
        assert desired.actor == (ACTOR if is_pinned else "")


def test_halt_at_a_server_is_obeyed_and_ended_by_people(launcher: Launcher) -> None:
    add_constant(launcher.models, 0.5)
    folder = launcher.home / "alerts"
    with launcher.serve() as running, Client(running.address, model="demo", timeout_s=60.0) as client:
        policy = make_policy(running, folder)
        see(policy, 1, -0.1)
        with pytest.raises(HaltedError, match="ic critical raised: seen"):
            client.predict([1.0, 2.0, 3.0])
        see(policy, 2, 0.05)
        with pytest.raises(HaltedError):
            client.predict([1.0, 2.0, 3.0])
        running.control.resume("demo", actor="ann")
        assert client.predict([1.0, 2.0, 3.0]).version == "1"
        results = [(row.action, row.result) for row in read_history(folder / "history.jsonl") if row.action != "record"]
        assert results == [
            ("set_position_scale", "done"),
            ("halt", "done"),
            ("set_position_scale", "done"),
        ]


@pytest.mark.integration
def test_server_that_is_away_is_tried_again(launcher: Launcher) -> None:
    add_constant(launcher.models, 0.5)
    with launcher.serve() as running:
        policy = make_policy(running, launcher.home / "alerts")
        running.terminate()
        policy.observe("ic", [Reading("demo", "1", "1", 1, 2, 0.01)])
        assert policy.act() == 1
        policy.close()
    with launcher.serve() as running:
        policy = make_policy(running, launcher.home / "alerts")
        assert policy.act() == 0
        assert running.control.status().models[0].name == "demo"
