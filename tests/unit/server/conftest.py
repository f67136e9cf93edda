"""An engine that serves on a free port, for tests of what stands above it."""

from collections.abc import Iterator

import pytest

from server.engine.python import PythonEngine


@pytest.fixture
def engine() -> Iterator[PythonEngine]:
    made = PythonEngine(
        ["127.0.0.1:0"], pool_threads=1, max_in_flight=8, max_in_flight_per_client=8, max_message_bytes=1 << 20
    )
    made.start()
    yield made
    made.stop(0.0)
