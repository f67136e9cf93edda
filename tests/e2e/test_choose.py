"""Desired state without a registry: an operator chooses a version of the models directory, and gives it back."""

import json
import os
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Running
from tests.e2e.test_hot_swap import Desk
from tests.support.packages import add_constant
from tickserve.client import Client, ServerStatus


def stable(status: ServerStatus) -> str:
    found = status.model("demo")
    assert found is not None
    return found.stable


def scale(running: Running) -> float:
    with Client(running.address, model="demo", timeout_s=60.0) as client:
        return client.predict([1.0, 2.0, 3.0]).position_scale


def test_chosen_version_answers_until_it_is_released_over_a_restart_too(launcher: Launcher) -> None:
    for value in (1.0, 2.0):
        add_constant(launcher.models, value)
    with launcher.serve() as running:
        assert stable(running.control.status()) == "2"
        done = launcher.run(*("choose", "demo", "1", "--reason", "2 trades too often", "--actor", "kim"))
        assert done.stdout == "demo: version 1 is desired, revision 1\n"
        running.control.wait(lambda status: stable(status) == "1", 60)
        launcher.run(*("choose", "demo", "1", "--reason", "half", "--actor", "kim", "--position-scale", "0.5"))
        running.control.wait(lambda status: scale(running) == 0.5, 60)
        assert running.terminate() == 0
    with launcher.serve() as running:
        status = running.control.status()
        model = status.model("demo")
        assert model is not None
        assert model.desired is not None
        assert (model.stable, model.desired.actor, model.desired.reason) == ("1", "kim", "half")
        # What is not named stays.
        launcher.run(*("choose", "demo", "2", "--reason", "mended", "--actor", "ann"))
        running.control.wait(lambda status: stable(status) == "2", 60)
        assert scale(running) == 0.5
        said = json.loads(launcher.run(*("release", "demo", "--reason", "done", "--actor", "ann", "--json")).stdout)
        assert said == {"model": "demo", "revision": 4}
        running.control.wait(lambda status: scale(running) == 1.0, 60)
        assert running.terminate() == 0
    assert [(event["kind"], event["actor"], event["message"]) for event in written(launcher.home, "desired")] == [
        ("desired", "kim", "revision 1: 2 trades too often"),
        ("desired", "kim", "revision 2: half"),
        ("desired", "ann", "revision 3: mended"),
        ("desired", "ann", "revision 4: done"),
    ]


def test_rollback_says_what_it_left_and_how_to_follow_the_policy_again(launcher: Launcher) -> None:
    for value in (1.0, 2.0):
        add_constant(launcher.models, value)
    with launcher.serve() as running:
        launcher.run(*("choose", "demo", "1", "--reason", "older", "--actor", "kim"))
        running.control.wait(lambda status: stable(status) == "1", 60)
        launcher.run(*("release", "demo", "--reason", "done", "--actor", "kim"))
        running.control.wait(lambda status: stable(status) == "2", 60)
        launcher.run(*("halt", "demo", "--reason", "a\nb\x1b[2J", "--actor", "kim"))
        assert "a b\\x1b[2J" in " ".join(launcher.run("status").stdout.split())
        launcher.run("resume", "demo")
        launcher.run(*("rollback", "demo", "--reason", "bad fills", "--actor", "ann"))
        running.control.wait(lambda status: not status.models[0].overrides, 60)
        said = " ".join(launcher.run("status").stdout.split())
        assert "by ann: rolled back from version 2: bad fills (tickserve release demo)" in said
        # It ends by itself.
        told = launcher.run("events", "--until-now").stdout.splitlines()
        assert [line.split()[4] for line in told][-1] == "rolled_back"
        assert [line for line in told if line.endswith(" halted demo by kim: a\\nb\\x1b[2J")]
        after = launcher.run("events", "--until-now", "--after", str(len(told) - 1)).stdout.splitlines()
        assert after == told[-1:]
        refused = launcher.run("events", "--after", "999999999", code=1).stderr
        assert "error: the newest event of this server is" in refused
        assert running.terminate() == 0
    with launcher.serve():
        # What the next process tells comes after all that this one told.
        again = launcher.run("events", "--until-now", "--after", told[-1].split()[0]).stdout.splitlines()
        assert "installed" in [line.split()[4] for line in again]


def test_what_cannot_be_chosen_changes_nothing(launcher: Launcher) -> None:
    add_constant(launcher.models, 1.0)
    with launcher.serve() as running:
        done = launcher.run("choose", "demo", "9", "--reason", "new", code=2)
        assert "holds no version '9'; versions here: 1" in " ".join(done.stderr.split())
        done = launcher.run("choose", "other", "1", "--reason", "new", code=2)
        assert "unknown model 'other'; models here: demo" in done.stderr
        launcher.run("choose", "demo", "1", code=2)
        done = launcher.run("choose", "demo", "1", "--reason", os.fsdecode(b"n\xffw"), code=2)
        assert done.stderr == "error: argument 'n\\udcffw' is no UTF-8\n"
        assert stable(running.control.status()) == "1"
        assert running.terminate() == 0
    assert written(launcher.home, "desired") == []


@pytest.mark.parametrize("arguments", [("choose", "demo", "1"), ("release", "demo")])
def test_server_that_follows_a_registry_is_told_there(launcher: Launcher, arguments: tuple[str, ...]) -> None:
    desk = Desk(launcher, "python")
    desk.add(1.0)
    desk.promote(1)
    with desk.serve() as running:
        done = launcher.run(*arguments, "--reason", "new", code=1)
        assert "this server follows the registry" in done.stderr
        assert running.terminate() == 0
    desk.registry.close()


def written(home: Path, kind: str) -> list[dict[str, str]]:
    events = [json.loads(line) for line in (home / "server" / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["kind"] == kind]
