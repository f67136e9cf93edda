"""A sidecar in this process, with faults where they happen."""

import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from mlops.prediction_log import keeping
from mlops.prediction_log.batch import Batch
from mlops.prediction_log.index import LogIndex
from mlops.sidecar.app import Sidecar, serve
from mlops.sidecar.settings import SidecarSettings
from tests.support.logs import Log
from tests.support.shared_memory import memory_folder
from tests.support.taps import TapLife
from tickserve.errors import UnreachableError


def settings(home: Path, tap: Path) -> SidecarSettings:
    return SidecarSettings(
        home=home, tap=tap, listen=(f"unix:{home}/o.sock",), http="127.0.0.1:0", alerts="off", segment_s=0.01
    )


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_where_nothing_can_become_parquet_what_is_too_old_still_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed, trim = threading.Event(), keeping.trim

    def watched(*args: Any, **options: Any) -> keeping.Removed:
        trimmed.set()
        return trim(*args, **options)

    monkeypatch.setattr(keeping, "compact", full)
    monkeypatch.setattr(keeping, "trim", watched)
    with memory_folder() as tap:
        sidecar = Sidecar(settings(tmp_path, tap))
        thread = threading.Thread(target=sidecar.run)
        thread.start()
        try:
            assert trimmed.wait(60)
        finally:
            sidecar.stop()
            thread.join(60)
    assert not thread.is_alive()


def test_a_disk_that_is_full_at_the_start_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.pwrite", full)
    with memory_folder() as tap, pytest.raises(UnreachableError, match=r"cannot be opened now.*No space left"):
        serve(settings(tmp_path, tap))


class Exporting:
    """A consumer that counts, and exports one gauge; it fails in the midst of that while it is broken."""

    def __init__(self, name: str) -> None:
        self.name, self.is_broken, self.records = name, False, 0

    def add(self, batch: Batch) -> None:
        self.records += len(batch)

    def checkpoint(self) -> bytes:
        return b""

    def restore(self, data: bytes) -> None:
        pass

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(f"test_{self.name}", "A gauge.", 7.0)
        if self.is_broken:
            raise RuntimeError("broken")


def scrape(sidecar: Sidecar) -> list[str]:
    with urllib.request.urlopen(f"http://{sidecar.http_address}/metrics", timeout=20) as response:
        return list(response.read().decode().splitlines())


def test_a_consumer_that_cannot_be_exported_counts_as_failed_and_hides_nobody_else(tmp_path: Path) -> None:
    consumers = [Exporting("first"), Exporting("second")]
    with memory_folder() as tap:
        sidecar = Sidecar(settings(tmp_path, tap), lambda context: consumers)
        thread = threading.Thread(target=sidecar.run)
        thread.start()
        try:
            consumers[0].is_broken = True
            broken = scrape(sidecar)
            assert 'tickserve_sidecar_consumer_failed{consumer="first"} 1.0' in broken
            assert 'tickserve_sidecar_consumer_failed{consumer="second"} 0.0' in broken
            assert "test_second 7.0" in broken
            assert "test_first 7.0" not in broken
            consumers[0].is_broken = False
            assert {"test_first 7.0", 'tickserve_sidecar_consumer_failed{consumer="first"} 0.0'} <= set(scrape(sidecar))
        finally:
            sidecar.stop()
            thread.join(60)


@pytest.mark.parametrize("is_parquet", [True, False])
def test_a_damaged_file_of_the_log_is_counted_and_stops_no_consumer(tmp_path: Path, is_parquet: bool) -> None:
    with memory_folder() as tap:
        log, life = Log(tap, tmp_path / "log", segment_bytes=1), TapLife(tap)
        for _ in range(3):
            life.write(2)
            log.drain()
        log.writer.close()
        log.follower.close()
        if is_parquet:
            keeping.compact(log.folder, LogIndex(log.folder))
        min(log.folder.rglob("*.parquet" if is_parquet else "*.seg")).write_bytes(b"PAR1")
        consumer = Exporting("first")
        sidecar = Sidecar(settings(tmp_path, tap), lambda context: [consumer])
        thread = threading.Thread(target=sidecar.run)
        thread.start()
        try:
            until = time.monotonic() + 60
            while "tickserve_sidecar_damaged_files 1.0" not in (lines := scrape(sidecar)) or consumer.records < 4:
                assert time.monotonic() < until, lines
            assert 'tickserve_sidecar_consumer_failed{consumer="first"} 0.0' in lines
        finally:
            sidecar.stop()
            thread.join(60)
    assert consumer.records == 4


def test_the_handler_of_a_signal_stops_it_though_it_is_about_to_wait(tmp_path: Path) -> None:
    def interrupted(frame: FrameType, event: str, called: Any) -> None:
        # As the interpreter runs a handler between two steps of the main thread: here when it has the lock of what it
        # waits for, or is about to wait.
        waits, caller = frame, frame.f_back
        if event == "c_return" and called.__name__ == "__enter__" and caller is not None:
            waits, caller = caller, caller.f_back
        elif event != "c_call" or called.__name__ != "get":
            return
        if "_follow" in [each.f_code.co_name for each in (waits, caller) if each is not None]:
            sys.setprofile(None)
            sidecar.stop()

    def run() -> None:
        sys.setprofile(interrupted)
        sidecar.run()

    with memory_folder() as tap:
        sidecar = Sidecar(settings(tmp_path, tap), lambda context: [])
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
