"""Routing done again offline: whether every recorded request got the version that its split gives its key."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mlops.routing.hashing import MAX_HASH, key_bucket, routing_hash
from mlops.routing.segments import Segment, upper_bound


@dataclass(frozen=True, slots=True)
class SplitTable:
    """A split as engines have it: `bounds` are the inclusive upper bounds of the segments, the last one 2^64 - 1."""

    salt: bytes
    bounds: tuple[int, ...]
    versions: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.bounds) != len(self.versions) or list(self.bounds) != sorted(self.bounds):
            raise ValueError("the bounds of a split rise, one a version")
        if not self.bounds or self.bounds[-1] != MAX_HASH:
            raise ValueError("a split ends at the largest hash")

    def version(self, key: bytes) -> str:
        """The version of a routing key: of the first segment whose upper bound is not below its hash."""
        return self.versions[bisect_left(self.bounds, routing_hash(self.salt, key))]


def split_table(salt: bytes, segments: Sequence[Segment]) -> SplitTable:
    """The table of a split of desired state."""
    return SplitTable(salt, tuple(upper_bound(each.upto_bp) for each in segments), tuple(s.version for s in segments))


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the log holds of one request that the split routed: its key is the routing key, else the request id."""

    model: str
    split_generation: int
    key: bytes
    key_bucket: int
    version: str


@dataclass(frozen=True, slots=True)
class Proof:
    """How many requests were checked; those that went elsewhere; the (model, generation) that no split is known of."""

    checked: int
    wrong: tuple[Recorded, ...] = ()
    unknown: Mapping[tuple[str, int], int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every request is proven: nothing checked proves nothing."""
        return self.checked > 0 and not self.wrong and not self.unknown


def prove(splits: Mapping[tuple[str, int], SplitTable], records: Iterable[Recorded]) -> Proof:
    """Routes every record again.

    Parameters
    ----------
    splits : mapping
        By model and the split's generation, as the tap's catalog names them.
    records : iterable of Recorded
        Requests that the split routed; pins, fallbacks, shadows and smoke calls go where they were sent.
    """
    checked, wrong, unknown = 0, [], dict[tuple[str, int], int]()
    for record in records:
        place = record.model, record.split_generation
        split = splits.get(place)
        if split is None:
            unknown[place] = unknown.get(place, 0) + 1
            continue
        checked += 1
        is_right = split.version(record.key) == record.version
        if not is_right or key_bucket(split.salt, record.key) != record.key_bucket:
            wrong.append(record)
    return Proof(checked, tuple(wrong), unknown)
