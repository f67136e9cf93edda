"""What a process keeps open of a registry, and who waits for whom."""

import contextlib
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlops.registry import Registry, database
from mlops.registry.database import Database
from tests.support.registry import ANN, Packages
from tickserve.errors import UnreachableError


def open_files(path: Path) -> Counter[str]:
    """How many descriptors this process has on each of the files of a database."""
    found: Counter[str] = Counter()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            found[name.removeprefix(str(path))] += name.startswith(str(path))
    return +found


@pytest.fixture
def numbers(tmp_path: Path) -> Iterator[Database]:
    """A file with one table of one row."""
    found = Database(f"sqlite:///{tmp_path / 'registry.db'}")
    found.write(lambda connection: connection.exec_driver_sql("CREATE TABLE numbers (number INTEGER)"))
    add(found)
    yield found
    found.close()


def add(found: Database) -> None:
    found.write(lambda connection: connection.exec_driver_sql("INSERT INTO numbers VALUES (1)"))


def count(found: Database) -> int:
    with found.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM numbers").scalar_one())


def on_another_thread(act: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as other:
        return other.submit(act).result(60)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
def test_threads_that_meet_open_nothing_more(numbers: Database, tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    count(numbers)
    settled = open_files(path)
    # One connection that reads and one that writes.
    assert settled == {"": 2, "-wal": 2, "-shm": 1}
    met = threading.Barrier(12)

    def work(place: int) -> None:
        met.wait(60)
        for _ in range(10):
            if place % 2:
                add(numbers)
            else:
                assert count(numbers) >= 1
            assert open_files(path) == settled

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(work, range(12)))
    assert count(numbers) == 61
    assert open_files(path) == settled
    numbers.close()
    assert open_files(path) == {}


def test_a_read_within_another_one_sees_the_same_moment(numbers: Database) -> None:
    with numbers.read() as outer:
        assert count(numbers) == 1
        on_another_thread(lambda: add(numbers) or 0)
        with numbers.read() as inner:
            assert inner is outer
        assert count(numbers) == 1
    assert count(numbers) == 2


def test_a_read_within_a_write_sees_what_is_being_written(numbers: Database) -> None:
    def change(connection: object) -> int:
        connection.exec_driver_sql("INSERT INTO numbers VALUES (2)")  # type: ignore[attr-defined]
        assert on_another_thread(lambda: count(numbers)) == 1
        return count(numbers)

    assert numbers.write(change) == 2


def test_a_write_within_another_moment_is_refused(numbers: Database) -> None:
    with numbers.read(), pytest.raises(AssertionError, match="the same moment"):
        add(numbers)
    with pytest.raises(AssertionError, match="the same moment"):
        numbers.write(lambda connection: add(numbers))
    add(numbers)
    assert count(numbers) == 2


def test_readers_do_not_wait_behind_a_writer_that_waits_for_another_process(numbers: Database, tmp_path: Path) -> None:
    other = Database(f"sqlite:///{tmp_path / 'registry.db'}")
    with ThreadPoolExecutor(1) as thread:
        waiting = threading.Event()

        def write() -> None:
            waiting.set()
            add(numbers)

        def hold(connection: object) -> int:
            nonlocal written
            written = thread.submit(write)
            assert waiting.wait(60)
            found = on_another_thread(lambda: count(numbers))
            assert not written.done()
            return found

        written = None
        assert other.write(hold) == 1
        assert written is not None
        written.result(60)
    other.close()
    assert count(numbers) == 2


def test_the_wait_for_a_turn_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    found = Database(f"sqlite:///{tmp_path / 'registry.db'}")
    with found.read(), pytest.raises(UnreachableError, match=r"other threads of this process kept .* 0\.05 s"):
        on_another_thread(lambda: count(found))
    found.close()


def test_nobody_who_reads_waits_for_the_store(
    registry: Registry, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.register(packages(1), ANN)
    get, seen = registry._store.get, []

    def slow(*given: object) -> bytes:
        seen.append(on_another_thread(lambda: registry.revision))
        return get(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(type(registry._store), "get", lambda self, *given: slow(*given))
    assert registry.fetch(version).digest == version.digest
    assert seen


@pytest.mark.parametrize(
    ("query", "environment", "expected"),
    [("", "", str(database.CONNECT_TIMEOUT_S)), ("?connect_timeout=3", "", "3"), ("", "4", None)],
)
def test_postgresql_that_lets_nobody_in_is_not_waited_for(
    query: str, environment: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    if environment:
        monkeypatch.setenv("PGCONNECT_TIMEOUT", environment)
    found = Database(f"postgresql://desk@127.0.0.1:1/registry{query}")
    assert found.engine.url.query.get("connect_timeout") == expected
    _, given = found.engine.dialect.create_connect_args(found.engine.url)
    assert given.get("connect_timeout") == expected


def test_file_that_another_process_is_making_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "registry.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE numbers (number INTEGER)")
    # SQLite waits for nobody who writes to a file that has no write-ahead log yet, whatever its timeout.
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO numbers VALUES (1)")
    paused: list[float] = []

    def pause(seconds: float) -> None:
        paused.append(seconds)
        other.execute("COMMIT")

    monkeypatch.setattr(database, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    found = Database(f"sqlite:///{path}")
    assert count(found) == 1
    assert len(paused) == 1
    found.close()
    other.close()
