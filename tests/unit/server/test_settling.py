"""When a folder is taken: a package at once, any other when it has looked the same for long enough."""

from pathlib import Path

import pytest

from mlops.package import MANIFEST_FILE, MODEL_FILE
from server.models import Settling
from server.models.fingerprint import Fingerprint

FOLDER = Path("/models/demo/1")
UNIX_NOW = 2_000_000_000.0
SETTLE_S = 5.0


class Clock:
    """Goes on when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settling(clock: Clock) -> Settling:
    return Settling(SETTLE_S, clock=clock, unix_clock=lambda: UNIX_NOW)


def model(size: int = 10, age_s: float = 0.0) -> Fingerprint:
    return ((MODEL_FILE, size, round((UNIX_NOW - age_s) * 1e9)),)


def test_package_is_taken_at_once(settling: Settling) -> None:
    assert settling.is_settled(FOLDER, ((MANIFEST_FILE, 10, round(UNIX_NOW * 1e9)), *model()))


def test_bare_model_is_taken_when_it_has_not_changed_for_the_time(settling: Settling, clock: Clock) -> None:
    assert not settling.is_settled(FOLDER, model())
    clock.now += SETTLE_S - 1
    assert not settling.is_settled(FOLDER, model())
    clock.now += 1
    assert settling.is_settled(FOLDER, model())


def test_every_change_begins_the_time_anew(settling: Settling, clock: Clock) -> None:
    for size in (10, 20, 30):
        assert not settling.is_settled(FOLDER, model(size))
        clock.now += SETTLE_S - 1
    assert not settling.is_settled(FOLDER, model(30))
    clock.now += SETTLE_S
    assert settling.is_settled(FOLDER, model(30))
    assert not settling.is_settled(FOLDER, (("golden.npz", 1, 1), *model(30)))


@pytest.mark.parametrize(("age_s", "is_settled"), [(3600.0, True), (SETTLE_S - 1, False), (-3600.0, False)])
def test_files_say_at_the_first_look_how_old_they_are(settling: Settling, age_s: float, is_settled: bool) -> None:
    assert settling.is_settled(FOLDER, model(age_s=age_s)) is is_settled


def test_change_time_ahead_of_the_clock_does_not_keep_a_model_out(settling: Settling, clock: Clock) -> None:
    ahead = model(age_s=-3600.0)
    assert not settling.is_settled(FOLDER, ahead)
    clock.now += SETTLE_S
    assert settling.is_settled(FOLDER, ahead)


def test_folder_that_was_away_is_looked_at_anew(settling: Settling, clock: Clock) -> None:
    assert not settling.is_settled(FOLDER, model())
    settling.forget_others(set())
    clock.now += SETTLE_S
    assert not settling.is_settled(FOLDER, model())


def test_folder_without_files_waits_too(settling: Settling, clock: Clock) -> None:
    assert not settling.is_settled(FOLDER, ())
    clock.now += SETTLE_S
    assert settling.is_settled(FOLDER, ())
