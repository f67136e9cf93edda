"""What was counted on the counters page of a server since it was last looked at, whatever blocks change hands."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlops.rollout.counts import Counts
from mlops.tap.counters import BlockCounts, Identity
from mlops.tap.layout import BUCKETS, COLUMNS


class PageDifferences:
    """What happened on one page between two looks at it. One for each boot of each server.

    Invariant: of each block the counts that were told are kept with its epoch, so nothing is told twice or lost while
    the page is looked at at least every five minutes.
    """

    def __init__(self) -> None:
        self._told: dict[int, tuple[int, Counts]] = {}

    def take(self, snapshot: Sequence[BlockCounts]) -> dict[Identity, Counts]:
        """Counts since the last look (since the boot at the first), int64 of shape (256, 8), by what they are of."""
        found: dict[Identity, Counts] = {}
        for block in snapshot:
            counts = block.counts.astype(np.int64)
            epoch, before = self._told.get(block.block, (-1, counts))
            # Another epoch: the block changed hands and began at zero.
            difference = counts - before if epoch == block.epoch else counts
            self._told[block.block] = block.epoch, counts
            known = found.get(block.identity)
            found[block.identity] = difference if known is None else known + difference
        return found

    def state(self) -> dict[str, Any]:
        """As JSON has it: kept with what was made of the differences, it makes a restart lose and repeat nothing."""
        return {str(block): [epoch, counts.ravel().tolist()] for block, (epoch, counts) in self._told.items()}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "PageDifferences":
        """Goes on from `state()`."""
        found = cls()
        for block, (epoch, counts) in state.items():
            found._told[int(block)] = epoch, np.array(counts, np.int64).reshape(BUCKETS, COLUMNS)
        return found
