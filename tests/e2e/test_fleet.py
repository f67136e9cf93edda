"""Several servers on one registry: who serves what, who lags and why, and promotions that wait for all of them."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.registry import Registry
from mlops.tap import default_folder
from tests.e2e.conftest import Launcher
from tests.support.models import ballasted_model
from tests.support.packages import build_constant
from tests.support.registry import ANN, add, gates
from tests.support.waiting import until
from tickserve.client import ServerStatus


class Fleet:
    """A registry and the servers on it, each with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = {
            "TICKSERVE_SOURCE": "registry",
            "TICKSERVE_REGISTRY": f"sqlite:///{folder}/registry.db",
            "TICKSERVE_ARTIFACTS": str(folder / "artifacts"),
        }
        self.registry = Registry(
            self.settings["TICKSERVE_REGISTRY"],
            self.settings["TICKSERVE_ARTIFACTS"],
            folder / "cache",
            folder / "keys",
            evaluate=gates("pass"),
        )
        self.homes: list[Path] = []

    def add(self, value: float, **changes: Any) -> int:
        return add(self.registry, build_constant(self.folder / "packages", value, **changes))

    def serve(self, name: str, engine: str, **settings: str) -> Any:
        home = self.folder / name
        (home / "models").mkdir(parents=True)
        self.homes.append(home)
        named = {"TICKSERVE_SERVER_NAME": name, "TICKSERVE_ENGINE": engine}
        return Launcher(home, self.settings | named | settings).serve()

    def run(self, *arguments: str) -> tuple[int, Any]:
        """What the program says as JSON, with gates that pass, and its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.lenient", *arguments, "--json"],
            env=Launcher(self.folder, self.settings).environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def promote(self, version: int, *, wait_s: float) -> tuple[int, Any]:
        code, said = self.run(
            *("models", "promote", "demo", str(version), "--reason", "better", "--wait", "--wait-s", str(wait_s))
        )
        return code, said["lagging"]

    def lagging(self) -> tuple[int, Any]:
        code, said = self.run("status", "--all")
        return code, said["lagging"]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        made = Fleet(Path(folder))
        yield made
        made.registry.close()
        for home in made.homes:
            shutil.rmtree(default_folder(home), ignore_errors=True)


def serves(version: str) -> Any:
    def is_there(status: ServerStatus) -> bool:
        model = status.model("demo")
        return model is not None and model.stable == version

    return is_there


@pytest.mark.integration
def test_promotion_waits_for_all_and_names_the_one_that_is_held(fleet: Fleet) -> None:
    for value in (1.0, 2.0):
        fleet.add(value)
    fleet.registry.promote("demo", 1, ANN)
    with fleet.serve("desk-a", "auto") as first, fleet.serve("desk-b", "python") as second:
        assert fleet.promote(1, wait_s=60.0) == (0, [])
        assert fleet.lagging() == (0, [])
        second.control.hold("demo", actor="kim", reason="freeze")
        code, lagging = fleet.promote(2, wait_s=4.0)
        held = [{"server": "desk-b", "model": "demo", "why": "held by kim: freeze"}]
        assert (code, held[0] in lagging) == (1, True), lagging
        # The other one does not wait for it.
        first.control.wait(serves("2"), 60)
        until(fleet.lagging, (1, held).__eq__)
        _, said = fleet.run("status", "--all")
        found = {server["server"]: (server["engine"], server["models"]["demo"]["split"]) for server in said["servers"]}
        assert found["desk-b"] == ("python", {"1": 10_000})
        assert found["desk-a"][1] == {"2": 10_000}
        second.control.follow("demo", actor="kim")
        second.control.wait(serves("2"), 60)
        assert fleet.promote(2, wait_s=60.0) == (0, [])
        assert (first.terminate(), second.terminate()) == (0, 0)


@pytest.mark.integration
def test_promotion_names_the_server_that_cannot_load_the_version(fleet: Fleet) -> None:
    fleet.add(1.0)
    fleet.add(2.0, model=ballasted_model(2.0, 4 << 20))
    fleet.registry.promote("demo", 1, ANN)
    small = {"TICKSERVE_MEMORY_BUDGET_MB": "2"}
    with fleet.serve("desk-a", "auto") as first, fleet.serve("desk-b", "auto", **small) as second:
        code, lagging = fleet.promote(2, wait_s=10.0)
        assert (code, "desk-b" in [lag["server"] for lag in lagging]) == (1, True), lagging
        first.control.wait(serves("2"), 60)
        until(lambda: [lag["server"] for lag in fleet.lagging()[1]], ["desk-b"].__eq__)
        until(lambda: fleet.lagging()[1][0]["why"], lambda why: "of the 2.0 MiB of memory_budget_mb are taken" in why)
        assert serves("1")(second.control.status())
        # Gone back to for all of them, none lags.
        code, _ = fleet.run("models", "rollback", "demo", "--reason", "desk-b cannot")
        first.control.wait(serves("1"), 60)
        assert fleet.promote(1, wait_s=60.0) == (0, [])
        assert (first.terminate(), second.terminate()) == (0, 0)
