"""What a process keeps open of a registry in a file."""

import contextlib
import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from mlops.registry.database import Database


def open_files(path: Path) -> Counter[str]:
    """How many descriptors this process has on each of the files of a database."""
    found: Counter[str] = Counter()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            found[name.removeprefix(str(path))] += name.startswith(str(path))
    return +found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
def test_threads_that_met_leave_one_connection_behind(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    database = Database(f"sqlite:///{path}")

    database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE numbers (number INTEGER)"))

    def read(met: threading.Barrier) -> None:
        with database.read() as connection:
            connection.exec_driver_sql("SELECT * FROM numbers").all()
            met.wait(30)

    def meet() -> Counter[str]:
        met = threading.Barrier(6)
        threads = [threading.Thread(target=read, args=(met,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not met.broken
        return open_files(path)

    for _ in range(3):
        found = meet()
        # To close a file would end the locks of others on it, so SQLite may keep those for the next connections.
        assert (found["-wal"], found["-shm"], found[""] <= 6) == (1, 1, True)
    database.close()
    assert open_files(path) == {}
