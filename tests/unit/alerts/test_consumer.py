"""Alerts in the sidecar: whose windows count, what is exported, and the server's counts window by window."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlops.alerts.actions import FoundScale, Notice, Why
from mlops.alerts.matrix import Level, Matrix, Row
from mlops.alerts.runner import AlertPolicy
from mlops.sidecar.alerts import AlertConsumer
from mlops.sidecar.rates import RateWindows
from mlops.tap import CATALOG, COUNTERS, Identity, PageOwner, Tallier, create_page, layout, new_boot, open_catalog
from mlops.tap import Version as CatalogVersion
from mlops.tap.catalog import CatalogWriter
from tests.unit.alerts.test_sources import FOUND, INPUT, figure, window
from tickserve.errors import ConfigurationError, UnreachableError

IC = Row(
    name="ic",
    source="outcome",
    figure="ic",
    basis="upper",
    direction="below",
    length=60,
    critical=Level(enter=0.02, leave=0.03, actions=("set_position_scale", "notify"), position_scale=0.5),
)
ERRORS = Row(
    name="errors",
    source="server",
    figure="error_rate",
    basis="lower",
    warning=Level(enter=0.01, leave=0.01, actions=("notify",)),
)
BAD = replace(FOUND, value=-0.02, lower=-0.04, upper=-0.01)


class Desk:
    """One scale, a wall of notices, and whether anybody is there."""

    def __init__(self) -> None:
        self.scale, self.is_away = 1.0, False
        self.told: list[Notice] = []

    def read_scale(self, model: str) -> FoundScale:
        if self.is_away:
            raise UnreachableError("nobody answers")
        return FoundScale(self.scale, 1)

    def write_scale(self, model: str, scale: float, found: FoundScale, why: Why) -> None:
        self.scale = scale

    give_back_scale = write_scale

    def halt(self, model: str, why: Why) -> bool:
        raise AssertionError("no row halts")

    def reduce_share(self, model: str, why: Why) -> bool:
        raise AssertionError("no row moves traffic")

    def roll_back(self, model: str, version: str, why: Why) -> bool:
        raise AssertionError("no row moves traffic")

    def was_written(self, model: str, identity: str) -> bool:
        return False

    def notify(self, notice: Notice) -> None:
        self.told.append(notice)


class Bench:
    """A consumer over a folder, with a clock that is moved by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.desk, self.now = folder, Desk(), 100.0
        self.matrix = Matrix(row=(IC, INPUT, ERRORS))
        self.nanoseconds = 10**18
        self.consumer = self.open()

    def open(self) -> AlertConsumer:
        known = [path.name for path in (self.folder / "alerts").glob("*")]
        windows = RateWindows(self.folder / "tap", 10**9, lambda: self.nanoseconds)
        return AlertConsumer(self.policy, known, windows, clock=lambda: self.now)

    def policy(self, model: str) -> AlertPolicy:
        return AlertPolicy(model, self.matrix, self.folder / "alerts" / model, self.desk)

    def tick(self) -> None:
        """One look, and whatever that starts to its end."""
        self.consumer.tick()
        worker = self.consumer._worker
        if worker is not None:
            worker.join(60)
            assert not worker.is_alive()

    def metric(self, name: str, **labels: str) -> float | None:
        found = {
            tuple(sorted(sample.labels.items())): sample.value
            for family in self.consumer.collect()
            for sample in family.samples
            if sample.name == name
        }
        return found.get(tuple(sorted(labels.items())))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class Records:
    """As much of a batch as alerts look at."""

    def __init__(self, version: str, role: int) -> None:
        self.model, self.version, self.role = "demo", version, np.array([role], np.uint8)


def test_figure_reduces_the_scale_and_shows(bench: Bench) -> None:
    bench.consumer.outcomes([BAD])
    assert bench.metric("tickserve_alert_level", model="demo", row="ic@1d") == 2.0
    assert bench.metric("tickserve_alert_pending_actions", model="demo") == 3.0
    bench.tick()
    assert bench.desk.scale == 0.5
    assert bench.metric("tickserve_alert_pending_actions", model="demo") == 0.0
    assert bench.metric("tickserve_alert_state_stored", model="demo") == 1.0
    done = {"model": "demo", "action": "set_position_scale", "result": "done"}
    assert bench.metric("tickserve_alert_actions_total", **done) == 1.0
    bench.consumer.outcomes([BAD])
    assert bench.metric("tickserve_alert_windows_passed_over_total", model="demo", why="not_new") == 1.0


def test_only_the_version_that_answers_as_stable_counts(bench: Bench) -> None:
    bench.consumer.add(Records("1", 1))  # type: ignore[arg-type]
    bench.consumer.add(Records("2", 2))  # type: ignore[arg-type]
    bench.consumer.add(Records("3", 3))  # type: ignore[arg-type]
    drifted = window(figure("a", "critical"), version="2")
    bench.consumer.windows([drifted])
    bench.consumer.outcomes([replace(BAD, version="2")])
    assert bench.metric("tickserve_alert_level", model="demo", row="in") is None
    bench.consumer.outcomes([replace(BAD, version="")])
    assert bench.metric("tickserve_alert_level", model="demo", row="ic@1d") == 2.0
    kept = bench.consumer.checkpoint()
    bench.consumer.close()
    bench.consumer = bench.open()
    bench.consumer.restore(kept)
    bench.consumer.windows([drifted])
    assert bench.metric("tickserve_alert_level", model="demo", row="in") is None
    bench.consumer.add(Records("2", 1))  # type: ignore[arg-type]
    bench.consumer.windows([drifted])
    assert bench.metric("tickserve_alert_level", model="demo", row="in") == 2.0


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"demo": 1}'])
def test_checkpoint_of_something_else_is_refused(bench: Bench, data: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        bench.consumer.restore(data)


def test_what_is_owed_is_done_after_a_restart_without_a_window(bench: Bench) -> None:
    bench.desk.is_away = True
    bench.consumer.outcomes([BAD])
    bench.tick()
    assert bench.metric("tickserve_alert_pending_actions", model="demo") == 1.0
    bench.consumer.close()
    bench.desk.is_away = False
    bench.consumer = bench.open()
    bench.tick()
    assert bench.desk.scale == 0.5


def test_what_fails_is_tried_after_a_while_and_new_work_at_once(bench: Bench) -> None:
    bench.desk.is_away = True
    bench.consumer.outcomes([BAD])
    failed = {"model": "demo", "action": "set_position_scale", "result": "failed"}
    for seconds, times in ((0.0, 1.0), (0.5, 1.0), (2.0, 2.0), (2.0, 2.0), (4.0, 3.0)):
        bench.now += seconds
        bench.tick()
        assert bench.metric("tickserve_alert_actions_total", **failed) == times
    bench.consumer.windows([window(figure("a", "warning"))])
    bench.tick()
    assert bench.metric("tickserve_alert_actions_total", **failed) == 4.0
    assert [notice.row for notice in bench.desk.told] == ["ic@1d", "in"]


def test_model_that_another_sidecar_acts_for_is_left_alone_until_that_ends(bench: Bench) -> None:
    other = bench.policy("demo")
    bench.consumer.outcomes([BAD])
    assert bench.metric("tickserve_alert_state_stored", model="demo") == 0.0
    assert bench.metric("tickserve_alert_level", model="demo", row="ic@1d") is None
    other.close()
    bench.now += 61
    bench.tick()
    bench.consumer.outcomes([BAD])
    assert bench.metric("tickserve_alert_level", model="demo", row="ic@1d") == 2.0


def test_damaged_state_turns_off_one_model_and_no_other(bench: Bench) -> None:
    (bench.folder / "alerts" / "demo").mkdir(parents=True)
    (bench.folder / "alerts" / "demo" / "state.json").write_text("{")
    with pytest.raises(ConfigurationError, match="damaged"):
        bench.policy("demo")
    bench.consumer.outcomes([BAD, replace(BAD, model="fine")])
    assert bench.metric("tickserve_alert_state_stored", model="demo") == 0.0
    assert bench.metric("tickserve_alert_level", model="fine", row="ic@1d") == 2.0


def test_consumer_thread_does_not_wait_for_an_action(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(notice: Notice) -> None:
        entered.set()
        assert leave.wait(60)

    monkeypatch.setattr(bench.desk, "notify", slow)
    bench.consumer.outcomes([BAD])
    bench.consumer.tick()
    assert entered.wait(60)
    later = replace(BAD, start_ns=5000, end_ns=6000, value=0.1, lower=0.0, upper=0.2)
    bench.consumer.outcomes([later])
    bench.consumer.tick()
    assert bench.metric("tickserve_alert_level", model="demo", row="ic@1d") == 0.0
    leave.set()
    bench.tick()
    bench.tick()
    assert bench.desk.scale == 1.0


class Server:
    """A boot in the tap's folder, whose requests are counted as a server counts them."""

    def __init__(self, folder: Path) -> None:
        boot = new_boot()
        path = folder / boot.hex()
        path.mkdir(parents=True)
        self._catalog = CatalogWriter(open_catalog(path))
        create_page(path / COUNTERS, boot, writers=1, blocks=4)
        self.owner = PageOwner(path / COUNTERS)
        self.tallier = Tallier(self.owner, 0)
        assert (path / CATALOG).exists()

    def install(self, version: str, role: int = 1) -> int:
        number = self._catalog.version(CatalogVersion("demo", version, b"\1" * 32, (), (), ()))
        identity = Identity(number, role, 0, 0)
        return self.owner.place([identity])[identity]

    def count(self, block: int, failures: int, requests: int = 100) -> None:
        for request in range(requests):
            columns = (layout.ERRORS, layout.FAILURES) if request < failures else ()
            self.tallier.count(block, request % 50, columns)


def test_counts_of_servers_are_windows_of_their_own(bench: Bench) -> None:
    server = Server(bench.folder / "tap")
    block, canary = server.install("1"), server.install("2", role=2)
    server.count(block, failures=100)
    bench.tick()
    bench.nanoseconds += 10**9
    server.count(block, failures=0)
    server.count(canary, failures=100)
    bench.tick()
    # What came before the first look, and what a canary does, is in no window.
    assert bench.metric("tickserve_alert_level", model="demo", row="errors") == 0.0
    again = Server(bench.folder / "tap")
    again.count(again.install("1"), failures=50)
    server.count(block, failures=50)
    bench.nanoseconds += 10**9 // 2
    bench.tick()
    assert bench.metric("tickserve_alert_level", model="demo", row="errors") == 0.0
    bench.nanoseconds += 10**9 // 2
    bench.tick()
    assert bench.metric("tickserve_alert_level", model="demo", row="errors") == 1.0
    assert "n 200, 50 key buckets" in bench.desk.told[-1].evidence


def test_clock_that_is_set_back_begins_a_window_anew(bench: Bench) -> None:
    server = Server(bench.folder / "tap")
    block = server.install("1")
    windows = bench.consumer._windows
    assert windows.poll() == []
    bench.nanoseconds -= 10**12
    server.count(block, failures=5)
    assert windows.poll() == []
    server.count(block, failures=7)
    bench.nanoseconds += 10**9
    (found,) = windows.poll()
    assert int(found.counts[:, layout.FAILURES].sum()) == 7
