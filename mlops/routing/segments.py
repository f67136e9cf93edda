"""Splits as segments of the routing hashes, and how they move when weights change: as few keys as can be.

A split is an ordered list of segments on a grid of 1/10,000; a version may own several. When weights change, versions
that shrink give exactly what they lose to versions that grow, so a key moves only to a version that grows, and the keys
that move are the fewest that give the new weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlops.routing.hashing import MAX_HASH

#: Shares of a split are in 1/10,000.
WHOLE_BP = 10_000
#: Of one split. A request walks through them, so a history of splits must not make them many.
MAX_SEGMENTS = 64


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the routing hashes: up to `upto_bp`, in 1/10,000 of them all, and from where the one before ends."""

    version: str
    upto_bp: int


def upper_bound(upto_bp: int) -> int:
    """The last routing hash below `upto_bp` 1/10,000 of them all: cumulative x 2^64 / 10,000, less one."""
    return upto_bp * (MAX_HASH + 1) // WHOLE_BP - 1


def whole(version: str) -> tuple[Segment, ...]:
    """One version that has every key."""
    return (Segment(version, WHOLE_BP),)


def weights(segments: Iterable[Segment]) -> dict[str, int]:
    """What each version has, in 1/10,000, in the order of the hashes."""
    found: dict[str, int] = {}
    start = 0
    for segment in segments:
        found[segment.version] = found.get(segment.version, 0) + segment.upto_bp - start
        start = segment.upto_bp
    return found


def fits(segments: Sequence[Segment], wanted: Mapping[str, int]) -> bool:
    """Whether segments are a split of these weights: rising, without gaps or twins side by side, to the end."""
    bounds = [0, *(segment.upto_bp for segment in segments)]
    is_rising = all(before < after for before, after in pairwise(bounds))
    has_twins = any(one.version == next_.version for one, next_ in pairwise(segments))
    return is_rising and not has_twins and bounds[-1] == WHOLE_BP and weights(segments) == dict(wanted)


def moved(before: Sequence[Segment], wanted: Mapping[str, int]) -> tuple[Segment, ...]:
    """The segments of new weights, moved from `before` by the minimal-move rule.

    What a shrinking version gives is taken in the order of `wanted` (of `before` for versions that leave), and given in
    the order of `wanted`. Each hand-over prefers whole segments, then a piece that touches the receiver, so it adds at
    most one segment; between two versions there are never more than two. The same input always gives the same segments.

    Parameters
    ----------
    before : sequence of Segment
        A split; of a model without one, `whole` of the version that everything is taken from.
    wanted : mapping of str to int
        Version by weight in 1/10,000; positive, summing to 10,000.

    Raises
    ------
    ValueError
        Where `before` is no split or `wanted` no weights, or where more than MAX_SEGMENTS segments would come of it.

    Examples
    --------
    >>> moved(whole("1"), {"2": 1000, "1": 9000})
    (Segment(version='2', upto_bp=1000), Segment(version='1', upto_bp=10000))
    """
    had = weights(before)
    if not fits(before, had):
        raise ValueError("the segments before are no split")
    if sum(wanted.values()) != WHOLE_BP or any(weight < 1 for weight in wanted.values()):
        raise ValueError(f"the weights {dict(wanted)} are not positive numbers that sum to {WHOLE_BP}")
    versions = [*wanted, *(version for version in had if version not in wanted)]
    gains = {version: wanted.get(version, 0) - had.get(version, 0) for version in versions}
    pieces = _Pieces(before)
    for receiver in versions:
        for giver in versions:
            amount = min(gains[receiver], -gains[giver])
            if amount > 0:
                pieces.give(giver, receiver, amount)
                gains[receiver] -= amount
                gains[giver] += amount
    if len(pieces.sizes) > MAX_SEGMENTS:
        raise ValueError(
            f"this split would be {len(pieces.sizes)} segments, at most {MAX_SEGMENTS} are served; take a new salt, "
            "which moves every key, or go by way of a version that has everything"
        )
    return pieces.segments()


def layout(segments: Sequence[Segment], wanted: Mapping[str, int]) -> tuple[Segment, ...]:
    """The segments where they are a split of these weights, else those without a history: all taken from the last."""
    return tuple(segments) if fits(segments, wanted) else moved(whole([*wanted][-1]), wanted)


def following(before: Sequence[Segment], wanted: Mapping[str, int]) -> tuple[Segment, ...]:
    """The segments to keep beside new weights; empty where `layout` gives them without.

    Parameters
    ----------
    before : sequence of Segment
        The layout before; empty where there was none, or where another salt moves every key anyway.

    Raises
    ------
    ValueError
        As `moved`.
    """
    found = moved(before, wanted) if before else layout((), wanted)
    return () if found == layout((), wanted) else found


class _Pieces:
    """Segments by their sizes. Invariant: sizes are positive, and no two side by side are one version's."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        starts = [0, *(segment.upto_bp for segment in segments)]
        self.owners = [segment.version for segment in segments]
        self.sizes = [end - start for start, end in pairwise(starts)]

    def segments(self) -> tuple[Segment, ...]:
        found, upto_bp = [], 0
        for owner, size in zip(self.owners, self.sizes, strict=True):
            upto_bp += size
            found.append(Segment(owner, upto_bp))
        return tuple(found)

    def give(self, giver: str, receiver: str, amount: int) -> None:
        """Hands over `amount` of what `giver` has."""
        while amount:
            place = self._best_whole(giver, receiver, amount)
            if place is not None:
                amount -= self.sizes[place]
                self.owners[place] = receiver
                self._join(place)
                continue
            place, is_above = self._best_cut(giver, receiver)
            self.sizes[place] -= amount
            at = place + 1 if is_above else place
            self.owners.insert(at, receiver)
            self.sizes.insert(at, amount)
            self._join(at)
            return

    def _best_whole(self, giver: str, receiver: str, amount: int) -> int | None:
        """The segment to hand over whole: one between two of the receiver's before one beside it, then the largest."""
        places = [place for place, owner in enumerate(self.owners) if owner == giver and self.sizes[place] <= amount]
        return max(places, key=lambda place: (self._touches(place, receiver), self.sizes[place], -place), default=None)

    def _best_cut(self, giver: str, receiver: str) -> tuple[int, bool]:
        """The segment to cut, and whether its upper part goes: beside the receiver, else the first's lower one."""
        places = [place for place, owner in enumerate(self.owners) if owner == giver]
        for place in places:
            if self._is(place - 1, receiver):
                return place, False
            if self._is(place + 1, receiver):
                return place, True
        return places[0], False

    def _touches(self, place: int, version: str) -> int:
        return self._is(place - 1, version) + self._is(place + 1, version)

    def _is(self, place: int, version: str) -> bool:
        return 0 <= place < len(self.owners) and self.owners[place] == version

    def _join(self, place: int) -> None:
        for at in (place + 1, place):
            if 0 < at < len(self.owners) and self.owners[at] == self.owners[at - 1]:
                self.sizes[at - 1] += self.sizes.pop(at)
                self.owners.pop(at)
