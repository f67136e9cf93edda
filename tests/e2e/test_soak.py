"""The short form of `make soak` for swaps: nothing lost, nothing wrong; its timings are for the long one."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.soak.swap import SCENARIOS, SWAP, run
from tests.support.engines import BEST_FIRST, ENGINES


@pytest.fixture(autouse=True)
def converges_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a swap takes on a busy machine: an answer is wrong by its version and value, not by its time."""
    monkeypatch.setattr("benchmarks.soak.swap._CONVERGE_NS", 60_000_000_000)


@pytest.mark.parametrize("engine", BEST_FIRST)
def test_swaps_under_load_lose_and_mistake_nothing(engine: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        found = run(Path(folder), SWAP, swaps=8, duration_s=8.0, engine=engine, rate=50.0)
    assert (found["engine"], found["swaps"]) == (engine, 8)
    assert (found["failed"], found["wrong"]) == (0, 0)
    assert found["versions_seen"] == 9
    assert found["requests"] > 100
    assert found["threads_growth"] <= 4


@pytest.mark.integration
@pytest.mark.parametrize("engine", ENGINES)
def test_slow_version_is_taken_out_under_load_and_nothing_is_lost(engine: str) -> None:
    scenario = replace(SCENARIOS["swap-slow"], slow_every=2)
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        # The second version answers for 5 s, for as long as the breaker lets it.
        found = run(Path(folder), scenario, swaps=1, duration_s=10.0, engine=engine, rate=80.0)
    assert (found["failed"], found["wrong"]) == (0, 0)
    assert (found["slow_installed"], found["slow_taken_out"]) == (1, 1)
