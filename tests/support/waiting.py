"""Waiting for what another thread or process does: on a condition, within a bound."""

import time
from collections.abc import Callable
from typing import TypeVar

BOUND_S = 60.0
_T = TypeVar("_T")


def until(look: Callable[[], _T], holds: Callable[[_T], object] = bool, bound_s: float = BOUND_S) -> _T:
    """What `look` gives, as soon as it `holds`; fails with the last of it where it does not in time."""
    deadline = time.monotonic() + bound_s
    while True:
        found = look()
        if holds(found):
            return found
        assert time.monotonic() < deadline, f"not within {bound_s:g} s: {found}"
        time.sleep(0.002)
