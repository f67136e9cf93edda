"""Whether every recorded request went where its split sends its key: the routing of the log, done again."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlops.prediction_log.batch import Batch
from mlops.prediction_log.splits import Splits
from mlops.routing import Recorded, prove
from mlops.tap import Why

#: Requests that went elsewhere and are told one by one.
_TOLD = 100
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A request that another version should have had, or that was counted in another key bucket."""

    position: int
    request_id: str
    model: str
    version: str
    expected: str


@dataclass(slots=True)
class Routed:
    """What a proof found, of the requests that a split routed: pins, fallbacks, shadows and smoke calls are none.

    `without_history` are those whose split the log does not have: nothing is proven of them.
    """

    checked: int = 0
    wrong: int = 0
    without_history: int = 0
    elsewhere: list[Elsewhere] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "checked": self.checked,
            "wrong": self.wrong,
            "without_history": self.without_history,
            "elsewhere": [
                {name: getattr(each, name) for name in Elsewhere.__dataclass_fields__} for each in self.elsewhere
            ],
        }

    def add(self, batch: Batch, splits: Splits) -> None:
        """Routes the records of a batch again."""
        for index in np.flatnonzero(batch.why == Why.SPLIT).tolist():
            known = splits.get(batch.boot[index], {})
            proofs = [prove(known, [record]) for record in _recorded(batch, index)]
            if any(proof.unknown for proof in proofs):
                self.without_history += 1
                continue
            self.checked += 1
            if any(proof.holds for proof in proofs):
                continue
            self.wrong += 1
            if len(self.elsewhere) < _TOLD:
                generation = int(batch.split_generation[index])
                expected = known[batch.model, generation].version(next(_recorded(batch, index)).key)
                self.elsewhere.append(
                    Elsewhere(
                        int(batch.position[index]),
                        str(batch.request_id[index]),
                        batch.model,
                        batch.version,
                        expected,
                    )
                )


def _recorded(batch: Batch, index: int) -> Iterator[Recorded]:
    """The request as the log has it; twice where its key may have been text that looks like escaped bytes."""
    key = str(batch.routing_key[index] or batch.request_id[index]).encode()
    for each in dict.fromkeys((key, _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), key))):
        yield Recorded(
            batch.model, int(batch.split_generation[index]), each, int(batch.key_bucket[index]), batch.version
        )
