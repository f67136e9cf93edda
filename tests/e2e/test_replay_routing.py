"""Replay proves where every request went, from a real server whose splits changed, and sees where that is not so."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mlops.prediction_log.splits import SPLITS
from tests.e2e.test_counts import ask, kill, server
from tests.e2e.test_fleet import Fleet, fleet
from tests.e2e.test_sidecar import beside
from tests.support.engines import ENGINES
from tests.support.registry import ANN

__all__ = ["fleet"]


def turn_around(history: Path) -> None:
    """Changes which version each segment of the last split is of."""
    *before, last = history.read_text().splitlines()
    split = json.loads(last)
    other = {"1": "2", "2": "1"}
    split["segments"] = [[bound, other[version], role] for bound, version, role in split["segments"]]
    history.write_text("\n".join([*before, json.dumps(split)]) + "\n")


@pytest.mark.timeout(300)
@pytest.mark.integration
@pytest.mark.parametrize("engine", ENGINES)
def test_every_request_is_proven_over_changes_of_the_split_and_a_killed_sidecar(fleet: Fleet, engine: str) -> None:
    for value in (1.0, 2.0):
        fleet.add(value)
    fleet.registry.promote("demo", 1, ANN)
    asked = Counter[int]()
    with server(fleet, "desk", engine) as (running, launcher):
        plain = replace(launcher, settings={"TICKSERVE_SIDECAR_ALERTS": "off"})
        options = ("--registry", fleet.settings["TICKSERVE_REGISTRY"])
        with beside(plain) as first:
            for share in (10, 60, 30):
                fleet.run("split", "set", "demo", f"2={share}", "--reason", "try")
                running.control.wait(lambda status, share=share: has(status, share), 60)
                ask(running, 40, asked)
                if share == 60:
                    first.wait_for("tickserve_sidecar_records_total", 80)
                    kill(first.process)
        with beside(plain) as second:
            second.wait_for("tickserve_sidecar_records_total", 120)
            assert second.terminate() == 0
        found = json.loads(
            plain.run("replay", "--json", *options, "--artifacts", fleet.settings["TICKSERVE_ARTIFACTS"]).stdout
        )
        assert found["equal"] == 120
        assert found["routing"] == {"checked": 120, "wrong": 0, "without_history": 0, "elsewhere": []}
        assert asked[2] > 0
        [history] = (launcher.home / "log" / SPLITS).iterdir()
        turn_around(history)
        wrong = plain.run("replay", *options, "--artifacts", fleet.settings["TICKSERVE_ARTIFACTS"], code=1).stdout
        assert "routing of 120: 80 proven, 40 wrong" in wrong
        history.unlink()
        old = plain.run("replay", *options, "--artifacts", fleet.settings["TICKSERVE_ARTIFACTS"]).stdout
        assert "routing: nothing proven, 120 unproven" in old
        assert running.terminate() == 0


def has(status: object, share: int) -> bool:
    model = status.model("demo")  # type: ignore[attr-defined]
    return model is not None and any(each.version == "2" and each.weight_bp == share * 100 for each in model.versions)
