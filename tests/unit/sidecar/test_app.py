"""A sidecar in this process, with faults where they happen."""

import threading
from pathlib import Path
from typing import Any

import pytest

from mlops.prediction_log import keeping
from mlops.sidecar.app import Sidecar, serve
from mlops.sidecar.settings import SidecarSettings
from tests.support.shared_memory import memory_folder
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
            assert trimmed.wait(20)
        finally:
            sidecar.stop()
            thread.join(20)
    assert not thread.is_alive()


def test_a_disk_that_is_full_at_the_start_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.pwrite", full)
    with memory_folder() as tap, pytest.raises(UnreachableError, match=r"cannot be opened now.*No space left"):
        serve(settings(tmp_path, tap))
