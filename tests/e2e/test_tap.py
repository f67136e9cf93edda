"""The tap of real servers: what a reader finds of one that runs, that ends, that is killed; and what is refused."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops.tap import Record, announce_reader, boots, default_folder, is_alive, read_catalog
from tests.e2e.conftest import Launcher, Running
from tests.e2e.test_serve import ROW, get
from tests.support.engines import BEST_FIRST
from tests.support.packages import add_constant
from tests.support.shared_memory import all_records
from tickserve.client import Client

MakeClient = Callable[..., Client]


def predict(running: Running, client_of: MakeClient, count: int) -> None:
    client = client_of(running)
    for _ in range(count):
        client.predict(ROW, model="demo")


def versions_of(folder: Path, records: list[Record]) -> list[tuple[str, str]]:
    catalog = read_catalog(boots(folder)[0] / "catalog.jsonl").versions
    return [(catalog[record.version].model, catalog[record.version].version) for record in records]


@pytest.mark.parametrize("engine", BEST_FIRST)
def test_a_running_server_is_read_and_its_end_leaves_nothing(
    launcher: Launcher, client_of: MakeClient, engine: str
) -> None:
    add_constant(launcher.models, 0.5)
    folder = default_folder(launcher.home)
    with launcher.serve("--engine", engine) as running:
        predict(running, client_of, 3)
        (boot,) = boots(folder)
        assert is_alive(boot)
        assert versions_of(folder, all_records(folder)) == [("demo", "1")] * 3
        metrics = get(running, "/metrics")[1]
        assert "tickserve_tap_records_total 3.0" in metrics
        assert "tickserve_tap_dropped_total 0.0" in metrics
        assert running.terminate() == 0
    assert not folder.exists()


@pytest.mark.parametrize("engine", BEST_FIRST)
def test_what_a_killed_server_wrote_is_read_after_the_next_one_started(
    launcher: Launcher, client_of: MakeClient, engine: str
) -> None:
    add_constant(launcher.models, 0.5)
    folder = default_folder(launcher.home)
    announce_reader(folder)
    with launcher.serve("--engine", engine) as running:
        predict(running, client_of, 5)
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(60)
    with launcher.serve("--engine", engine) as running:
        ended, alive = boots(folder)
        assert (is_alive(ended), is_alive(alive)) == (False, True)
        predict(running, client_of, 1)
        assert running.terminate() == 0
    # Nobody had read either.
    assert boots(folder) == [ended, alive]


def test_a_tap_that_has_no_room_or_is_not_in_memory_is_a_wrong_setting(launcher: Launcher) -> None:
    add_constant(launcher.models, 0.5)
    wrong = (("TAP_RING_BYTES", str(1 << 40), "KiB free"), ("TAP", "/proc/tap", "is on proc"))
    for name, value, said in wrong:
        launcher.settings = {f"TICKSERVE_{name}": value, "TICKSERVE_HTTP": "127.0.0.1:0"}
        done = launcher.run("serve", "--listen", "127.0.0.1:0", code=2)
        assert said in done.stderr
    assert boots(default_folder(launcher.home)) == []


def test_a_tap_that_is_off_leaves_no_file_and_no_metric(launcher: Launcher, client_of: MakeClient) -> None:
    add_constant(launcher.models, 0.5)
    launcher.settings = {"TICKSERVE_TAP": "off"}
    with launcher.serve() as running:
        predict(running, client_of, 1)
        assert "tickserve_tap" not in get(running, "/metrics")[1]
        assert not default_folder(launcher.home).exists()
        assert running.terminate() == 0
