"""Counts of one window: by sub-block and cell, with exact sums by bin; they add up over batches, servers and time."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mlops.drift.columns import Array, Column, Columns, Integers

#: A scaled integer is `high * 2^24 + low`; float64 adds up to 2^29 of either exactly.
LOW_BITS = 24
_LOW = (1 << LOW_BITS) - 1
_NEVER_FIRST, _NEVER_LAST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


@dataclass(eq=False)
class ColumnCounts:
    """Of one column: int64 counts (sub-blocks, cells), and sums of the scaled integers by bin in two halves."""

    cells: Integers
    high: Integers
    low: Integers

    def sums(self) -> list[int]:
        """Exact sums by bin."""
        return [(int(high) << LOW_BITS) + int(low) for high, low in zip(self.high, self.low, strict=True)]

    def add(self, other: "ColumnCounts") -> None:
        """Takes in the counts of other rows."""
        self.cells += other.cells
        self.high += other.high
        self.low += other.low


@dataclass(eq=False)
class SideCounts:
    """All columns of the inputs or outputs."""

    columns: list[ColumnCounts]

    @staticmethod
    def empty(columns: Columns, sub_blocks: int) -> "SideCounts":
        """Nothing counted yet."""
        return SideCounts([_empty(column, sub_blocks) for column in columns.columns])

    def count(self, columns: Columns, tensors: dict[str, Array], sub_block: Integers) -> None:
        """Adds rows, each into its sub-block. `tensors` are as `Columns.newest_steps` gives them."""
        for column, counts in zip(columns.columns, self.columns, strict=True):
            values = tensors[column.tensor][:, column.place]
            codes = column.codes(values)
            shape = counts.cells.shape
            flat = np.bincount(sub_block * shape[1] + codes, minlength=shape[0] * shape[1])
            counts.cells += flat.reshape(shape)
            if column.is_numeric:
                scaled = column.scaled(values)
                bins = shape[1]
                # Missing values have q = 0 and fall behind the last bin.
                counts.high += np.bincount(codes, scaled >> LOW_BITS, bins)[:-1].astype(np.int64)
                counts.low += np.bincount(codes, scaled & _LOW, bins)[:-1].astype(np.int64)

    def add(self, other: "SideCounts") -> None:
        """Takes in the counts of other rows."""
        for mine, theirs in zip(self.columns, other.columns, strict=True):
            mine.add(theirs)


@dataclass(eq=False)
class WindowCounts:
    """What is known of one window while it is open. Adding two gives the counts of the records of both.

    `first` and `last` are event times by sub-block; where nothing was counted `first` is above `last`. `missed_before`
    and `missed_last` are what had gone missing of the log before the first record and up to the last.
    """

    start_ns: int
    end_ns: int
    sides: list[SideCounts]
    first: Integers
    last: Integers
    first_position: int = -1
    last_position: int = -1
    records: int = 0
    rows: int = 0
    missed_before: int = 0
    missed_last: int = 0

    @staticmethod
    def empty(start_ns: int, end_ns: int, sides: Iterable[Columns], sub_blocks: int) -> "WindowCounts":
        """Nothing counted yet."""
        return WindowCounts(
            start_ns,
            end_ns,
            [SideCounts.empty(columns, sub_blocks) for columns in sides],
            np.full(sub_blocks, _NEVER_FIRST, np.int64),
            np.full(sub_blocks, _NEVER_LAST, np.int64),
        )

    def note(self, positions: Integers, times: Integers, sub_block: Integers, rows: int, missed: Integers) -> None:
        """Takes in which records were counted; at least one. `missed` has what was before each, and up to each."""
        np.minimum.at(self.first, sub_block, times)
        np.maximum.at(self.last, sub_block, times)
        first, last = int(positions.min()), int(positions.max())
        self.first_position = first if self.first_position < 0 else min(self.first_position, first)
        self.last_position = max(self.last_position, last)
        before = int(missed[0].min())
        self.missed_before = min(self.missed_before, before) if self.records else before
        self.missed_last = max(self.missed_last, int(missed[1].max()))
        self.records += len(positions)
        self.rows += rows

    def add(self, other: "WindowCounts") -> None:
        """Takes in the counts of other records of the same window."""
        if (self.start_ns, self.end_ns) != (other.start_ns, other.end_ns):
            raise ValueError("counts of two windows do not add up")
        for mine, theirs in zip(self.sides, other.sides, strict=True):
            mine.add(theirs)
        self.first, self.last = np.minimum(self.first, other.first), np.maximum(self.last, other.last)
        if other.records:
            known = [each.first_position for each in (self, other) if each.records]
            self.first_position = min(known)
            self.last_position = max(self.last_position, other.last_position)
            self.missed_before = min(each.missed_before for each in (self, other) if each.records)
            self.missed_last = max(self.missed_last, other.missed_last)
        self.records += other.records
        self.rows += other.rows

    @property
    def dropped(self) -> int:
        """Records of any model that went missing while these came."""
        return self.missed_last - self.missed_before

    @property
    def dropped_share(self) -> float:
        """The same as a share of all records that there were while these came, 0 where nothing was counted."""
        return self.dropped / (self.dropped + self.last_position - self.first_position + 1)

    @property
    def first_ns(self) -> int:
        """Event time of the earliest record."""
        return int(self.first.min())

    @property
    def last_ns(self) -> int:
        """Event time of the latest record."""
        return int(self.last.max())


def _empty(column: Column, sub_blocks: int) -> ColumnCounts:
    bins = column.cells - 1 if column.is_numeric else 0
    return ColumnCounts(
        np.zeros((sub_blocks, column.cells), np.int64), np.zeros(bins, np.int64), np.zeros(bins, np.int64)
    )
