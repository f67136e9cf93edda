"""What is decided at a server is obeyed whatever its disk does, and written as soon as the disk takes it."""

import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.engine.python import PythonEngine
from server.models import DirectorySource, LocalState, Operations, Reconciler, ServedFile
from server.models.local import Overrides
from server.models.served import LastServed
from tests.support.packages import add_constant
from tests.support.reconciling import no_room, stable
from tests.support.waiting import BOUND_S
from tickserve.errors import ControlError

WHY = "9 of 10 answers were bad"


class Home:
    """Servers over one folder, one after the other, as restarts make them."""

    def __init__(self, engine: PythonEngine, folder: Path) -> None:
        self.engine, self.folder = engine, folder

    def start(self) -> Reconciler:
        """What a process does first."""
        served = ServedFile(self.folder / "served.json")
        reconciler = Reconciler(
            DirectorySource(self.folder / "models"), self.engine, LocalState(self.folder), served=served
        )
        reconciler.reconcile()
        return reconciler


@pytest.fixture
def home(engine: PythonEngine, tmp_path: Path) -> Home:
    return Home(engine, tmp_path)


@pytest.fixture
def reconciler(home: Home) -> Reconciler:
    """It serves version 2 and keeps 1 warm."""
    models = home.folder / "models"
    models.mkdir()
    add_constant(models, 1.0)
    made = home.start()
    add_constant(models, 2.0)
    made.reconcile()
    assert stable(made) == "2"
    return made


@contextmanager
def hanging_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    release, sync = threading.Event(), os.fsync

    def hang(descriptor: int) -> None:
        release.wait(2 * BOUND_S)
        sync(descriptor)

    monkeypatch.setattr("server.models.files.os.fsync", hang)
    try:
        yield
    finally:
        release.set()


@pytest.mark.parametrize("halts", [False, True])
def test_what_the_breaker_decided_while_the_disk_was_full_is_written_later(
    home: Home, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch, halts: bool
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("server.models.files.os.fsync", no_room)
        Operations(reconciler).trip("demo", "2", WHY, halts=halts)
        reconciler.reconcile()
        assert (LocalState(home.folder).read_halts(), stable(home.start())) == ({}, "2")
    reconciler.reconcile()
    restarted = home.start()
    assert stable(restarted) == ("2" if halts else "1")
    assert list(restarted.halts) == (["demo"] if halts else [])


@pytest.mark.parametrize("halts", [False, True])
def test_breaker_does_not_wait_for_a_disk_that_hangs(
    home: Home, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch, halts: bool
) -> None:
    operations = Operations(reconciler)
    with ThreadPoolExecutor(1) as threads, hanging_disk(monkeypatch):
        threads.submit(operations.trip, "demo", "2", WHY, halts=halts).result(BOUND_S)
        assert stable(reconciler) == ("2" if halts else "1")
        assert list(reconciler.halts) == (["demo"] if halts else [])
    reconciler.reconcile()
    assert stable(home.start()) == stable(reconciler)


def test_version_is_not_refused_on_disk_before_the_way_back_is_there(home: Home, reconciler: Reconciler) -> None:
    (home.folder / "served.json").unlink()
    (home.folder / "served.json").mkdir()
    operations = Operations(reconciler)
    with pytest.raises(ControlError, match=r"before the disk takes it \(Is a directory"):
        operations.rollback("demo", actor="kim", reason="bad fills")
    # As good as nothing else to serve: a process that starts now would know of no version that is not refused.
    assert LocalState(home.folder).read_overrides().refused == {}
    (home.folder / "served.json").rmdir()
    reconciler.reconcile()
    assert stable(home.start()) == "1"


def test_going_back_works_while_the_server_drains(home: Home, reconciler: Reconciler) -> None:
    reconciler.stop()
    Operations(reconciler).trip("demo", "2", WHY, halts=False)
    assert stable(reconciler) == "1"
    reconciler.keep()
    assert stable(home.start()) == "1"


class KilledError(BaseException):
    """Stands for the end of the process."""


def test_version_that_is_refused_while_files_are_written_leaves_a_way_back_too(
    home: Home, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations, write_served, write_overrides = Operations(reconciler), ServedFile.write, LocalState.write_overrides
    trips = iter([lambda: operations.trip("demo", "2", WHY, halts=False)])

    def written_before_it(file: ServedFile, served: Mapping[str, LastServed]) -> OSError | None:
        error = write_served(file, served)
        next(trips, lambda: None)()
        return error

    def written_last(local: LocalState, overrides: Overrides) -> None:
        write_overrides(local, overrides)
        raise KilledError

    reconciler.change_halts(dict)
    with monkeypatch.context() as patch:
        patch.setattr(ServedFile, "write", written_before_it)
        patch.setattr(LocalState, "write_overrides", written_last)
        with pytest.raises(KilledError):
            reconciler.keep()
    assert LocalState(home.folder).read_overrides().refused != {}
    assert stable(home.start()) == "1"


def test_nothing_is_refused_on_disk_once_the_way_back_is_not_written_any_more(
    home: Home, reconciler: Reconciler
) -> None:
    Operations(reconciler).trip("demo", "2", WHY, halts=False)
    reconciler.close()
    assert reconciler.keep_overrides() is not None
    assert stable(home.start()) == "2"
