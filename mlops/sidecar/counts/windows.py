"""From looks at one model's counters to aligned windows: nothing lost, nothing twice, and no share that was not so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlops.rollout.counts import Counts, SideCounts
from mlops.rollout.sums import MIXED_SHARE, CountedWindow
from mlops.rollout.sums.body import Arrays
from mlops.routing import WHOLE_BP
from mlops.sidecar.counts.differences import PageDifferences
from mlops.tap import BlockCounts, Identity
from mlops.tap.catalog import Split
from mlops.tap.layout import CANARY_ROLE, COMPARED_ROLE, OVER_EDGE, RUN_OVER_EDGE, SHADOW_ROLE, STABLE_ROLE

#: By role: the column that says how often the edge was passed.
_SLOW = {
    STABLE_ROLE: OVER_EDGE,
    CANARY_ROLE: OVER_EDGE,
    SHADOW_ROLE: RUN_OVER_EDGE,
    COMPARED_ROLE: RUN_OVER_EDGE,
}
#: A split is in the catalog before it routes, and what it found on its way is answered by the one before.
_SETTLED_NS = 1_000_000_000
#: Two clocks that are read one after the other may be so far apart without a step.
_LEAST_STEP_NS = 200_000_000


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by the clock that says when windows end and by one that does not step; nanoseconds."""

    unix_ns: int
    steady_ns: int


@dataclass(slots=True)
class _SplitSeen:
    split: Split | None
    #: By the clock that does not step; None where it was there from the beginning.
    since_ns: int | None


class ModelWindows:
    """One model at one boot.

    Invariant: windows follow one another without gaps or overlaps, each from the end of the one before; together with
    `state`, taken with the last of them, they are all that was counted since the boot began.

    Parameters
    ----------
    start_ns : int
        The end of what was written: the start of the boot where nothing was.
    state : mapping
        As `state` gave it then.
    """

    def __init__(self, reporter: str, boot: str, start_ns: int, state: Arrays | None = None) -> None:
        self._reporter, self._boot = reporter, boot
        self._pages = PageDifferences.restored(
            {block: [int(each[0]), each[1:]] for block, each in (state or {}).items()}
        )
        self.start_ns = start_ns
        #: The look that the open window began with; None where that was in another life of this process.
        self._looked: Moment | None = None
        self._seen = _SplitSeen(None, None)

    @property
    def state(self) -> Arrays:
        """What the next differences are taken from."""
        return {block: np.array([epoch, *counts], np.int64) for block, (epoch, counts) in self._pages.state().items()}

    def see(self, splits: Sequence[Split], now: Moment) -> None:
        """Takes the model's splits as the catalog has them, oldest first."""
        newest = max(splits, key=lambda split: split.generation, default=None)
        if newest is None or newest == self._seen.split:
            return
        is_only = len(splits) == 1 and self._seen.split is None
        self._seen = _SplitSeen(newest, None if is_only else now.steady_ns)

    def end_ns(self, unix_ns: int, window_ns: int) -> int | None:
        """Where the open window ends if it is over; None while it is not."""
        boundary = unix_ns // window_ns * window_ns
        return boundary if boundary > self.start_ns else None

    def close(
        self,
        blocks: Sequence[BlockCounts],
        versions: Mapping[int, int],
        window_ns: int,
        now: Moment,
    ) -> list[CountedWindow]:
        """Ends the open window, which `end_ns` says is over, with a look at the model's blocks.

        Parameters
        ----------
        versions : mapping
            The version by its index in the catalog.
        """
        end_ns = self.end_ns(now.unix_ns, window_ns)
        if end_ns is None:
            raise ValueError(f"the window from {self.start_ns} is not over at {now.unix_ns}")
        shares = self._shares(end_ns, window_ns, now)
        sums: dict[tuple[int, int, int], SideCounts] = {}
        for identity, counts in self._pages.take(blocks).items():
            if identity.role in _SLOW:
                key = versions[identity.version], identity.role, identity.edge_ns
                found = _side(identity, counts)
                sums[key] = sums[key] + found if key in sums else found
        start_ns, self.start_ns, self._looked = self.start_ns, end_ns, now
        return [
            CountedWindow(
                reporter=self._reporter,
                boot=self._boot,
                version=version,
                role=role,
                edge_ns=edge_ns,
                start_ns=start_ns,
                window_ns=end_ns - start_ns,
                share_bp=MIXED_SHARE if shares is None else shares.get(version, 0),
                counts=counts,
            )
            for (version, role, edge_ns), counts in sorted(sums.items())
            if _is_anything(counts)
        ]

    def _shares(self, end_ns: int, window_ns: int, now: Moment) -> dict[int, int] | None:
        """The shares of the open window; None where they were not the same from before it to its end."""
        seen, looked = self._seen, self._looked
        if seen.split is None or (looked is None and end_ns - self.start_ns != window_ns):
            return None
        if looked is not None:
            # A clock that stepped between the two looks: the window is not what it says.
            stepped = abs((now.unix_ns - looked.unix_ns) - (now.steady_ns - looked.steady_ns))
            if stepped > max(window_ns // 10, _LEAST_STEP_NS):
                return None
        if seen.since_ns is not None and (looked is None or seen.since_ns + _SETTLED_NS > looked.steady_ns):
            return None
        return shares_of(seen.split)


def shares_of(split: Split) -> dict[int, int]:
    """Each version's share of the keys, of 10,000."""
    found: dict[int, int] = {}
    before = -1
    for bound, version, _ in split.segments:
        # Bounds lie on a grid of 1/10,000 of the hashes (docs/traffic.md).
        found[int(version)] = found.get(int(version), 0) + round((bound - before) * WHOLE_BP / (1 << 64))
        before = bound
    return found


def _side(identity: Identity, counts: Counts) -> SideCounts:
    return SideCounts.of_page(counts, _SLOW[identity.role])


def _is_anything(counts: SideCounts) -> bool:
    return bool(counts.requests.any() or counts.failures.any() or counts.violations.any() or counts.slow.any())
