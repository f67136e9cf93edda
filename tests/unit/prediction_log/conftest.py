"""A tap in shared memory, and a log of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shared_memory import memory_folder


@pytest.fixture
def tap() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder
