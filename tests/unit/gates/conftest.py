from pathlib import Path

import pytest

from tests.support.evaluations import OUTCOMES
from tests.unit.package.builders import build_small


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good package of a regression, not to be changed."""
    return build_small(tmp_path_factory.mktemp("packages"), outcomes=OUTCOMES)
