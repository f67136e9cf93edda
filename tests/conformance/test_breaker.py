"""The breaker on every engine: a version that answers badly or slowly is taken out by its own counts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlops.package import MODEL_FILE, OutputRule
from server.models import BreakerLimits, DirectorySource, Guard, LocalState, Operations, Reconciler
from tests.conformance.conftest import Bench
from tests.support.models import echo_model, failing_model
from tests.support.packages import add_constant, add_sum
from tickserve.client import Client
from tickserve.errors import HaltedError, InternalError, OutputRuleError

LIMITS = BreakerLimits(bad_share=0.2, run_factor=5.0, requests=20, window_s=10.0)
RULE = (OutputRule(name="at-most-100", output="values", kind="range", maximum=100.0),)
#: Version 2 answers their sum.
ROW = [100.0, 2.0, 3.0]


class Rig:
    """A server without its threads: every pass and every look of the breaker is made by the test."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench, self.folder, self.models = bench, folder, folder / "models"
        self.models.mkdir()
        self.now = 0.0
        self.restart()

    def restart(self) -> None:
        self.reconciler = Reconciler(DirectorySource(self.models), self.bench.engine, LocalState(self.folder))
        self.operations = Operations(self.reconciler)
        self.guarded(halts=False)

    def guarded(self, *, halts: bool) -> None:
        self.guard = Guard(
            self.reconciler, self.operations, self.bench.engine.runs, LIMITS, halts=halts, clock=lambda: self.now
        )

    def look(self) -> None:
        self.now += 0.25
        self.guard.check()

    @property
    def stable(self) -> str:
        return str(self.reconciler.snapshot().plan.models["demo"].split.segments[-1].version)

    def events(self) -> list[tuple[str, str]]:
        return [(event.kind, event.version) for event in self.reconciler.events.after(0)]


@pytest.fixture
def rig(bench: Bench, tmp_path: Path) -> Rig:
    return Rig(bench, tmp_path)


def send(client: Client, count: int) -> None:
    for _ in range(count):
        try:
            client.predict(ROW)
        except OutputRuleError:
            continue


def client_of(rig: Rig) -> Client:
    return Client(rig.bench.address, model="demo", timeout_s=60.0, check_features=False)


def install_bad(rig: Rig) -> None:
    """Version 1 answers 1, version 2 the sum of the row, which its rule withholds."""
    add_constant(rig.models, 1.0, output_rules=RULE)
    rig.reconciler.reconcile()
    add_sum(rig.models, 1, output_rules=RULE)
    rig.reconciler.reconcile()
    assert rig.stable == "2"
    rig.look()


def test_bad_answers_bring_the_version_before_back_until_released(rig: Rig) -> None:
    install_bad(rig)
    with client_of(rig) as client:
        send(client, 19)
        rig.look()
        assert rig.stable == "2"
        send(client, 1)
        rig.look()
        assert rig.stable == "1"
        assert client.predict(ROW).version == "1"
    assert ("breaker_tripped", "2") in rig.events()
    rig.reconciler.reconcile()
    assert rig.stable == "1"
    # Also after a restart.
    rig.restart()
    rig.reconciler.reconcile()
    assert rig.stable == "1"
    mark = rig.reconciler.snapshot().overrides.refused["demo"]["2"]
    assert (mark.actor, mark.reason) == ("breaker", "20 of 20 answers were bad, more than 20.0%")
    rig.operations.follow("demo", is_following=True, actor="kim", reason="")
    rig.reconciler.reconcile()
    assert rig.stable == "2"


def test_bad_answers_halt_where_that_is_configured_or_nothing_is_kept_warm(rig: Rig) -> None:
    install_bad(rig)
    rig.guarded(halts=True)
    rig.look()
    with client_of(rig) as client:
        send(client, 30)
        rig.look()
        with pytest.raises(HaltedError, match="was halted by breaker: breaker: version 2: 30 of 30 answers were bad"):
            client.predict(ROW)
    rig.operations.resume("demo", actor="kim", reason="")
    # The start of another process: nothing but the version that is wanted is loaded.
    rig.restart()
    rig.reconciler.reconcile()
    rig.look()
    with client_of(rig) as client:
        send(client, 30)
        rig.look()
        with pytest.raises(HaltedError, match="keeps no earlier version warm"):
            client.predict(ROW)


def test_version_that_fails_on_requests_is_taken_out(rig: Rig) -> None:
    for version, model in (("1", echo_model()), ("2", failing_model())):
        path = rig.models / "demo" / version
        path.mkdir(parents=True)
        (path / MODEL_FILE).write_bytes(model)
        rig.reconciler.reconcile()
        rig.look()
    assert rig.stable == "2"
    with client_of(rig) as client:
        for _ in range(20):
            with pytest.raises(InternalError):
                client.predict([5.0, 2.0, 3.0])
        rig.look()
        assert rig.stable == "1"
        assert client.predict([5.0, 2.0, 3.0]).version == "1"
    assert len(rig.bench.engine.take_faults()) == 20


def test_what_callers_do_wrong_trips_nothing(rig: Rig) -> None:
    add_constant(rig.models, 1.0)
    rig.reconciler.reconcile()
    add_constant(rig.models, 2.0)
    rig.reconciler.reconcile()
    rig.look()
    with client_of(rig) as client:
        for _ in range(40):
            with pytest.raises(Exception, match="features has 2 values"):
                client.predict([1.0, 2.0])
    rig.look()
    assert rig.stable == "2"


def test_version_that_has_become_slow_is_taken_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    add_constant(rig.models, 1.0)
    rig.reconciler.reconcile()
    add_sum(rig.models, 8)
    prepare: Callable[[Any], Any] = rig.bench.engine.prepare
    # As on a machine that was many times faster when it was measured: by more than a busy one can make of it.
    monkeypatch.setattr(rig.bench.engine, "prepare", lambda version: replace(prepare(version), run_time_ns=10_000))
    rig.reconciler.reconcile()
    assert rig.stable == "2"
    rig.look()
    with client_of(rig) as client:
        send(client, 20)
    rig.look()
    assert rig.stable == "1"
    [event] = [event for event in rig.reconciler.events.after(0) if event.kind == "breaker_tripped"]
    assert event.message.startswith("half of 20 runs took")
