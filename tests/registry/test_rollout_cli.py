"""Rollouts from the command line, with their exit codes."""

from pathlib import Path
from typing import Any

import pytest

from tests.registry.test_cli import Run, run  # noqa: F401 - a fixture
from tests.support.registry import Packages

SPEC = """
keys = 500
window_s = 1.0

[[steps]]
share = 10.0
min_time_s = 5.0
max_time_s = 3600.0
"""


@pytest.fixture
def live(run: Run, packages: Packages, tmp_path: Path) -> Path:  # noqa: F811
    for version in (1, 2):
        run("models", "register", packages(version))
        run("models", "approve", "demo", version, "--reason", "fine", "--inconclusive")
        if version == 1:
            run("models", "promote", "demo", 1, "--reason", "go")
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC)
    return spec


def start(run: Run, spec: Path, *more: Any, code: int = 0) -> Any:  # noqa: F811
    return run("rollout", "start", "demo", 2, "--spec", spec, "--reason", "new", "--actor", "kim", *more, code=code)


def test_a_rollout_is_started_told_and_shown(run: Run, live: Path) -> None:  # noqa: F811
    assert "never had a rollout" in run("rollout", "status", "demo", code=2)
    found = start(run, live, "--json")
    assert (found["phase"], found["canary"], found["stable"], found["controller"]) == ("preparing", 2, 1, "")
    shown = run("rollout", "status", "demo")
    assert "demo: canary of version 2 beside 1" in shown
    assert "none: nothing advances until a sidecar decides" in shown
    assert "no server that reports to this registry serves the model" in shown
    assert "is refused while the rollout" in start(run, live, code=1)
    assert "rollout abort demo" in run("models", "promote", "demo", 2, "--reason", "r", code=1)
    assert "rollout abort demo" in run("split", "set", "demo", "2=5", "--reason", "r", code=1)
    assert run("rollout", "pause", "demo", "--reason", "lunch", "--json")["phase"] == "paused"
    assert "paused already: lunch" in run("rollout", "pause", "demo", "--reason", "r", code=1)
    assert run("rollout", "continue", "demo", "--reason", "back", "--json")["phase"] == "preparing"
    done = run("rollout", "abort", "demo", "--reason", "enough", "--actor", "ann", "--json")
    assert (done["phase"], done["reason"], done["share_bp"]) == ("aborted", "enough", 0)
    assert "no rollout of model 'demo' is open" in run("rollout", "abort", "demo", "--reason", "r", code=2)
    log = run("rollout", "log", "demo", "--json")
    assert [each["event"] for each in log] == ["ordered", "paused", "continued", "aborted"]
    assert log[0]["facts"]["spec"]["keys"] == 500
    assert "enough" in run("rollout", "log", "demo")
    assert "enough" in run("rollout", "status", "demo", "--watch"), "what is over is shown once"
    assert run("models", "verify", "--json")["findings"] == []


def test_finish_by_hand_makes_it_live(run: Run, live: Path) -> None:  # noqa: F811
    start(run, live)
    assert run("rollout", "finish", "demo", "--reason", "sure", "--json")["phase"] == "finished"
    assert run("desired", "show", "demo", "--json")["state"]["split"][0]["version"] == 2


def test_what_cannot_be_is_said(run: Run, live: Path, packages: Packages) -> None:  # noqa: F811
    live.write_text(SPEC.replace("10.0", "1.0"))
    assert "step 1 cannot reach a decision" in start(run, live, code=2)
    live.write_text("keys = ")
    assert "is no TOML" in start(run, live, code=2)
    live.write_text(SPEC)
    run("models", "register", packages(3))
    for version, reason in ((3, "approve it first"), (1, "is live already"), (9, "9")):
        told = run("rollout", "start", "demo", version, "--spec", live, "--reason", "r", code=2 if version == 9 else 1)
        assert reason in told
    run("desired", "set", "demo", "--halt", "--reason", "stop")
    assert "is halted" in start(run, live, code=1)


def test_gates_stand_before_it(run: Run, packages: Packages, tmp_path: Path) -> None:  # noqa: F811
    for version in (1, 2):
        run("models", "register", packages(version))
        run("models", "approve", "demo", version, "--reason", "fine", *(["--inconclusive"] if version == 1 else []))
    run("models", "promote", "demo", 1, "--reason", "go")
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC)
    assert "gates could not decide on version 2" in start(run, spec, code=1)
    changes = run("models", "history", "demo", "--json")
    assert changes[0]["action"] == "rollout-start-refused"
