"""What servers say of themselves, and who lags: held against one clock, whatever those of their machines say."""

from datetime import timedelta

import pytest

from mlops.registry import Registry
from mlops.registry.fleet import ServedModel, ServerReport
from mlops.registry.journal import utc_now
from tests.support.registry import ANN, Backend, Clock, Packages

LATE = ServedModel("serving", {"1": 10_000}, 1, True, "held by kim: freeze")


def report(clock: Clock, state: str = "serving") -> ServerReport:
    return ServerReport("desk-a", clock.now, state, "native", models={"demo": LATE})


def promote(registry: Registry, packages: Packages) -> None:
    registry.register(packages(1.0), ANN)
    registry.approve("demo", 1, ANN)
    registry.promote("demo", 1, ANN)


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(hours=1)])
def test_server_whose_clock_is_another_one_lags_all_the_same(
    backend: Backend, packages: Packages, clock: Clock, step: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    with backend.open() as here:
        promote(here, packages)
        desired = here.desired("demo")
        assert desired is not None
        with backend.open() as there:
            monkeypatch.setattr(there, "_clock", lambda: utc_now() + step)
            there.say(report(clock))
        assert [(lag.server, lag.why) for lag in here.lags(desired)] == [("desk-a", "held by kim: freeze")]


def test_server_that_says_nothing_for_too_long_is_silent_and_lags_no_more(
    registry: Registry, packages: Packages, clock: Clock
) -> None:
    promote(registry, packages)
    desired = registry.desired("demo")
    assert desired is not None
    registry.say(report(clock))
    clock.step(15.0)
    assert [found.state for found in registry.reports()] == ["serving"]
    assert len(registry.lags(desired)) == 1
    clock.step(0.1)
    assert [found.state for found in registry.reports()] == ["silent"]
    assert registry.lags(desired) == []
    registry.say(report(clock, "stopped"))
    clock.step(60.0)
    assert [found.state for found in registry.reports()] == ["stopped"]
