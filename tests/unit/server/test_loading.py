"""Loading beside serving: no more at once than is allowed, and what comes too late is dropped."""

import threading
from typing import Any

from server.models import ThreadLoader
from server.models.loading import Loaded
from tests.support.waiting import BOUND_S, until

KEYS = [("demo", str(version)) for version in range(1, 5)]


class Jobs:
    """Loads that end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ends = {version: threading.Event() for _, version in KEYS}

    def of(self, version: str) -> Any:
        def load() -> Loaded:
            self.begun.append(version)
            assert self.ends[version].wait(BOUND_S)
            plan: Any = f"plan {version}"
            prepared: Any = None
            return Loaded(plan, prepared)

        return load


def test_no_more_are_loaded_at_once_than_there_are_threads() -> None:
    jobs, woken = Jobs(), threading.Semaphore(0)
    loader = ThreadLoader(2, 60.0, wake=woken.release, drop=lambda _: None)
    for key in KEYS:
        assert loader.start(key, jobs.of(key[1]))
        assert not loader.start(key, jobs.of(key[1]))
    until(lambda: len(jobs.begun) == 2)
    assert loader.loading == set(KEYS)
    for place, (_, version) in enumerate(KEYS):
        assert len(jobs.begun) == min(place + 2, 4)
        jobs.ends[version].set()
        assert woken.acquire(timeout=BOUND_S)
        until(lambda: len(jobs.begun), min(place + 3, 4).__eq__)
    assert {result.key for result in loader.take()} == set(KEYS)
    assert loader.loading == set()


def test_what_is_loaded_too_late_is_dropped_and_can_be_tried_again_after_that() -> None:
    jobs, dropped, now = Jobs(), [], [0.0]
    loader = ThreadLoader(1, 60.0, wake=lambda: None, drop=dropped.append, clock=lambda: now[0])
    first, second = KEYS[:2]
    assert loader.start(first, jobs.of("1"))
    assert loader.start(second, jobs.of("2"))
    until(lambda: jobs.begun == ["1"])
    now[0] = 60.0
    [late] = loader.take()
    assert (late.key, late.loaded) == (first, None)
    assert "was not loaded within 60 s" in str(late.error)
    # Another one has its turn; this one has not ended.
    until(lambda: jobs.begun == ["1", "2"])
    assert not loader.start(first, jobs.of("1"))
    jobs.ends["1"].set()
    until(lambda: dropped == ["plan 1"])
    jobs.ends["2"].set()
    until(lambda: loader.take())
    assert loader.start(first, jobs.of("1"))
    until(lambda: [result.key for result in loader.take()] == [first])
