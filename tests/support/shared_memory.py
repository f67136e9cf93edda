"""A folder in shared memory, which tests' own folders are not."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlops.tap import Record, RingReader, boots, records, rings


@contextmanager
def memory_folder() -> Iterator[Path]:
    """An empty folder on tmpfs, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tickserve-test-", dir="/dev/shm"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def all_records(folder: Path) -> list[Record]:
    """Reads and consumes every record of the one boot in a folder, by ring."""
    (boot,) = boots(folder)
    found: list[Record] = []
    for path in rings(boot):
        reader = RingReader(path)
        found += [record for _, record in records(reader)]
        reader.close()
    return found
