"""Descriptors are provided for every connection that the settings allow."""

import subprocess
import sys

PROGRAM = """
import resource
from server.descriptors import provide_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
provide_descriptors({connections})
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def run(soft: int, hard: int, connections: int) -> list[str]:
    program = PROGRAM.format(soft=soft, hard=hard, connections=connections)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def test_the_soft_limit_is_raised_as_far_as_needed() -> None:
    assert run(256, 4096, 1024) == ["1152"]


def test_a_limit_that_is_enough_is_left_alone() -> None:
    assert run(2048, 4096, 1024) == ["2048"]


def test_a_hard_limit_that_is_too_low_is_said_with_what_to_do() -> None:
    said, limit = run(256, 512, 1024)
    assert limit == "512"
    assert "too_few_descriptors" in said
    assert "1152" in said
    assert "max_connections" in said
