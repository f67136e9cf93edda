"""A rollout as it is run: server, sidecar and clients are processes, and nobody helps."""

import tempfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak.canary import Plan, run
from tests.support.engines import BEST_FIRST, ENGINES

#: Tolerances wide enough to be decided within a test.
QUICK = {
    "shares": (10.0, 50.0),
    "keys": 500,
    "skew": 0.5,
    "window_s": 1.0,
    "cells": 0.5,
    "latency": 0.7,
    "alpha": 0.05,
    "most_s": 240.0,
}
RATES = {"native": 800.0, "python": 300.0}


def play(**changes: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        return run(Path(folder), Plan(**(QUICK | changes)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", BEST_FIRST)
def test_a_good_version_gets_everything_by_itself(engine: str) -> None:
    found = play(engine=engine, rate=RATES[engine])
    assert (found["engine"], found["phase"]) == (engine, "finished"), found
    assert found["shares"][-3:] == [10.0, 50.0, 100.0]
    assert (found["failed"], found["wrong"]) == (0, 0)
    # All of it, once it had everything.
    assert found["last_version"] == 2


#: A tolerance that takes so long to be shown that what is bad shows first.
STRICT = {"cells": 0.05}
BAD = {
    "violations": ("violations: more of the canary's keys", STRICT),
    "failing": ("errors: more of the canary's keys", STRICT),
    "slow": ("latency: over the edge", STRICT | {"shares": (25.0, 50.0)}),
    "shifted": ("sign_flips: shown to be above", {}),
}


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("canary", "engine"),
    # The python engine has costs of its own, which vary by more than the slow version takes.
    [(canary, engine) for canary in BAD for engine in ENGINES if (canary, engine) != ("slow", "python")],
)
def test_a_bad_version_is_taken_back_by_itself(canary: str, engine: str) -> None:
    reason, changes = BAD[canary]
    found = play(canary=canary, engine=engine, rate=RATES[engine], **changes)
    assert (found["engine"], found["phase"]) == (engine, "aborted"), found
    assert found["reason"].startswith(reason)
    assert found["shares"][-1] == 0.0
    # What it says reached clients did, and nothing does once the server has obeyed.
    assert f"{found['bad_answers']} bad answers reached clients" in found["reason"]
    assert found["bad_answers"] <= found["failed"] + found["flagged_of_canary"]
    assert (found["failed"] > 0) == (canary == "failing")
    assert (found["wrong"], found["last_version"]) == (0, 1)


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("canary", "phase", "live"), [("good", "finished", 2), ("failing", "aborted", 1)])
def test_blue_green_watches_itself(canary: str, phase: str, live: int, engine: str) -> None:
    strict = {} if canary == "good" else STRICT
    found = play(canary=canary, strategy="blue_green", shares=(50.0,), engine=engine, rate=RATES[engine], **strict)
    assert (found["engine"], found["phase"], found["last_version"]) == (engine, phase, live), found
    assert 100.0 in found["shares"]
    assert found["wrong"] == 0
