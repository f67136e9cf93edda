"""What a rollout is judged on: integer counts by key bucket of one window, which add up over servers."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.tap.layout import BUCKETS, ERRORS, FAILURES, OUTPUT_VIOLATIONS, REQUESTS

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SideCounts:
    """One version in one role: int64 counts by key bucket, shape (256,) each.

    `failures` are errors that are not the client's, `violations` broken output rules, `slow` the answers over the
    frozen edge; of copied requests, the runs over it by processor time.
    """

    requests: Counts
    answers: Counts
    failures: Counts
    violations: Counts
    slow: Counts

    @classmethod
    def empty(cls) -> "SideCounts":
        """Nothing happened."""
        return cls(*(np.zeros(BUCKETS, np.int64) for _ in fields(cls)))

    @classmethod
    def of_page(cls, difference: NDArray[Any], slow: int) -> "SideCounts":
        """Of the difference of two readings of a block of the counters page, shape (256, 8).

        `slow` is the column of the answers over the edge, or of the runs over it.
        """
        found = difference.astype(np.int64)
        requests = found[:, REQUESTS]
        return cls(
            requests,
            # A reading may catch a request between two of its columns; the next difference makes up for it.
            np.maximum(requests - found[:, ERRORS], 0),
            found[:, FAILURES],
            found[:, OUTPUT_VIOLATIONS],
            found[:, slow],
        )

    def __add__(self, other: "SideCounts") -> "SideCounts":
        return SideCounts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def bad(self) -> int:
        """Answers that were bad: refused by the server's fault, or against an output rule.

        One that a rule withholds is both, so of a key bucket the larger count is taken: exact where every broken rule
        withholds, or one kind alone is there; where it is not, at least half of them.
        """
        return int(np.maximum(self.failures, self.violations).sum())

    @property
    def bad_rate(self) -> float:
        """Bad answers a request; 0 without any."""
        asked = int(self.requests.sum())
        return self.bad / asked if asked else 0.0

    def as_dict(self) -> dict[str, list[int]]:
        """As JSON has it."""
        return {each.name: getattr(self, each.name).tolist() for each in fields(self)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, list[int]]) -> "SideCounts":
        """What `as_dict` gave."""
        return cls(*(np.array(plain[each.name], np.int64) for each in fields(cls)))


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """What clients got of the canary in some time, and what stable made of its own requests and, as a shadow, of those.

    Keys differ, and a share of them may hold the few that are always bad: only the shadow shows that. Of blue-green
    stable has no requests of its own.
    """

    canary: SideCounts
    stable: SideCounts
    shadow: SideCounts


@dataclass(frozen=True, slots=True, eq=False)
class WindowCounts:
    """One aligned window of one rollout, under one split: the canary has `share_bp` of the keys, stable the rest."""

    share_bp: int
    canary: SideCounts
    stable: SideCounts
