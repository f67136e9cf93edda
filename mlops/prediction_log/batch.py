"""A batch: records of one version in the order of the log, as columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlops.tap import BrokenRule, Finding

#: Stages that `stage_ns` has a column for, in order.
STAGES = ("wait", "decode", "validate_input", "run", "validate_output", "encode")


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one (model, version), in position order. How many are together says nothing.

    A record is one request, and may hold several rows of the model. Arrays have one entry for each record unless
    said otherwise; times are Unix nanoseconds.

    Parameters
    ----------
    position : int64
        The place in the total order of the log.
    time_ns, event_time_ns : int64
        When it was answered; when its features were true as the client says, 0 for never said.
    rows : uint32
        Rows of the model; 0 where the shape was refused.
    status, reason, role, why, flags, key_bucket
        As docs/formats/tap.md numbers them.
    entities : sequence of tuple of str
        For each record: what its rows were about, one for each row, or none.
    stage_ns : uint64 (records, 6)
        Durations of `STAGES`.
    inputs, outputs : mapping of array (sum of rows, columns)
        By tensor name, in the tensor's datatype, every dimension after the first flattened; BYTES are objects of
        `bytes`. Of those records only that have all of their inputs (outputs) in full.
    input_records, output_records : int64
        For each row of `inputs` (`outputs`) the index of its record.
    shapes : mapping of tuple of int
        The shape that each of these tensors has in a record; -1 in the first place where that is the rows.
    boot, ring, sequence
        Where the record came from: the life of the server (hex), its ring, the number in that.
    missed : int64
        How many records of the log, of any model, had gone missing up to this one: between two records it rises by
        those that were dropped between them.
    """

    model: str
    version: str
    digest: str
    position: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    event_time_ns: NDArray[np.int64]
    rows: NDArray[np.uint32]
    status: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    role: NDArray[np.uint8]
    why: NDArray[np.uint8]
    flags: NDArray[np.uint16]
    key_bucket: NDArray[np.uint8]
    request_id: NDArray[Any]
    routing_key: NDArray[Any]
    entities: Sequence[tuple[str, ...]]
    plan_generation: NDArray[np.uint64]
    split_generation: NDArray[np.uint64]
    stage_ns: NDArray[np.uint64]
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    input_records: NDArray[np.int64]
    output_records: NDArray[np.int64]
    shapes: Mapping[str, tuple[int, ...]]
    boot: NDArray[Any]
    ring: NDArray[np.uint32]
    sequence: NDArray[np.uint64]
    missed: NDArray[np.int64]
    #: By index of the record; those without any are absent.
    findings: Mapping[int, tuple[Finding, ...]] = field(default_factory=dict)
    broken_rules: Mapping[int, tuple[BrokenRule, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.position)

    def take(self, chosen: NDArray[Any]) -> Self:
        """The records of a mask or of rising indices."""
        indices = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        place = np.full(len(self), -1, np.int64)
        place[indices] = np.arange(len(indices))
        changed: dict[str, Any] = {"shapes": self.shapes}
        for name in _PER_RECORD:
            changed[name] = getattr(self, name)[indices]
        changed["entities"] = [self.entities[index] for index in indices]
        for side in ("input", "output"):
            owners = place[getattr(self, f"{side}_records")]
            kept = owners >= 0
            changed[f"{side}s"] = {name: rows[kept] for name, rows in getattr(self, f"{side}s").items()}
            changed[f"{side}_records"] = owners[kept]
        for name in ("findings", "broken_rules"):
            found = getattr(self, name)
            changed[name] = {int(place[index]): items for index, items in found.items() if place[index] >= 0}
        return type(self)(self.model, self.version, self.digest, **changed)

    def can_follow(self, other: "Batch") -> bool:
        """Whether this may be joined after `other`: the same package, and columns of the same widths."""
        if (self.model, self.version, self.digest) != (other.model, other.version, other.digest):
            return False
        if self.shapes != other.shapes:
            return False
        return all(_widths(getattr(self, side)) == _widths(getattr(other, side)) for side in ("inputs", "outputs"))


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch of several that `can_follow` one another, in their order."""
    first = batches[0]
    if len(batches) == 1:
        return first
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    changed: dict[str, Any] = {
        name: np.concatenate([getattr(batch, name) for batch in batches]) for name in _PER_RECORD
    }
    changed["shapes"] = first.shapes
    changed["entities"] = [entity for batch in batches for entity in batch.entities]
    for side in ("input", "output"):
        changed[f"{side}s"] = {
            name: np.concatenate([getattr(batch, f"{side}s")[name] for batch in batches])
            for name in getattr(first, f"{side}s")
        }
        changed[f"{side}_records"] = np.concatenate(
            [getattr(batch, f"{side}_records") + start for batch, start in zip(batches, starts, strict=False)]
        )
    for name in ("findings", "broken_rules"):
        changed[name] = {
            int(start) + index: items
            for batch, start in zip(batches, starts, strict=False)
            for index, items in getattr(batch, name).items()
        }
    return Batch(first.model, first.version, first.digest, **changed)


_PER_RECORD = [
    each.name
    for each in fields(Batch)
    if each.name
    not in {
        "model",
        "version",
        "digest",
        "entities",
        "inputs",
        "outputs",
        "input_records",
        "output_records",
        "shapes",
        "findings",
        "broken_rules",
    }
]


def _widths(tensors: Mapping[str, NDArray[Any]]) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    return [(name, rows.dtype, rows.shape[1:]) for name, rows in tensors.items()]
