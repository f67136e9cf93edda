"""Which versions of a directory are served: the newest n, or those that are named."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from server.models.values import Target, only

_FORM = re.compile(r"latest ([1-9][0-9]{0,3})|specific ([1-9][0-9]{0,17}(?:, ?[1-9][0-9]{0,17})*)")


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """`latest` versions are served, the highest of them to all and the others to who asks for them by number; or the
    versions of `specific`, likewise.
    """

    latest: int = 1
    specific: frozenset[int] = frozenset()

    def targets(self, numbers: Collection[int]) -> tuple[Target, ...]:
        """What should be served of these versions; the first that can be. A version that cannot be served is passed
        over for the next lower one.
        """
        ordered = sorted(numbers, reverse=True)
        if self.specific:
            ordered = [number for number in ordered if number in self.specific]
        count = len(ordered) if self.specific else self.latest
        return tuple(
            only(str(number), pins=frozenset(str(lower) for lower in ordered[place : place + count]))
            for place, number in enumerate(ordered)
        )


LATEST = VersionPolicy()


def parse_policy(text: str) -> VersionPolicy:
    """`latest N`, or `specific N, N, ...`. Raises ValueError."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"version policy {text!r}: 'latest N' or 'specific N, N' is expected")
    if found[1]:
        return VersionPolicy(latest=int(found[1]))
    return VersionPolicy(specific=frozenset(int(number) for number in found[2].split(",")))
