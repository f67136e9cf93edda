"""A served model for clients that nobody here wrote."""

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Launcher, Running, launcher
from tests.support.packages import add_constant

__all__ = ["launcher", "served"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/integration/" in item.path.as_posix():
            item.add_marker(pytest.mark.integration)


@pytest.fixture
def served(launcher: Launcher) -> Iterator[Running]:
    """A server of one model, `demo`, that answers 0.5."""
    add_constant(launcher.models, 0.5)
    with launcher.serve() as running:
        yield running
