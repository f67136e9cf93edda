"""Edits that make a wrong message of a right one, each a value that Hypothesis can draw, show and shrink."""

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.conformance.requests import varint

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_NESTING = 4


@dataclass(frozen=True)
class Flip:
    """One bit turned."""

    place: int
    bit: int

    def apply(self, data: bytes, _other: bytes) -> bytes:
        at = self.place % (len(data) or 1)
        return data[:at] + bytes(byte ^ 1 << self.bit for byte in data[at : at + 1]) + data[at + 1 :]


@dataclass(frozen=True)
class Insert:
    """Bytes put in between."""

    place: int
    what: bytes

    def apply(self, data: bytes, _other: bytes) -> bytes:
        at = self.place % (len(data) + 1)
        return data[:at] + self.what + data[at:]


@dataclass(frozen=True)
class Delete:
    """Bytes taken out."""

    place: int
    size: int

    def apply(self, data: bytes, _other: bytes) -> bytes:
        at = self.place % (len(data) + 1)
        return data[:at] + data[at + self.size :]


@dataclass(frozen=True)
class Truncate:
    """Everything from a place on taken out."""

    place: int

    def apply(self, data: bytes, _other: bytes) -> bytes:
        return data[: self.place % (len(data) + 1)]


@dataclass(frozen=True)
class Splice:
    """Everything from a place on replaced by the end of another message."""

    place: int
    other_place: int

    def apply(self, data: bytes, other: bytes) -> bytes:
        return data[: self.place % (len(data) + 1)] + other[self.other_place % (len(other) + 1) :]


@dataclass(frozen=True)
class Duplicate:
    """One field sent again, where it stands in its message; the lengths around it stay as they were."""

    index: int
    times: int

    def apply(self, data: bytes, _other: bytes) -> bytes:
        found = [*fields(data)]
        if not found:
            return data
        start, _, _, end = found[self.index % len(found)]
        return data[:end] + data[start:end] * self.times + data[end:]


@dataclass(frozen=True)
class Lengthen:
    """The length of one field changed, and not the field."""

    index: int
    change: int

    def apply(self, data: bytes, _other: bytes) -> bytes:
        found = [field for field in fields(data) if field[1] < field[2]]
        if not found:
            return data
        _, length_at, start, end = found[self.index % len(found)]
        return data[:length_at] + varint(max(0, end - start + self.change)) + data[start:]


Edit = Flip | Insert | Delete | Truncate | Splice | Duplicate | Lengthen


def mutated(data: bytes, other: bytes, edits: list[Edit]) -> bytes:
    """The message with all edits made, one after the other."""
    for edit in edits:
        data = edit.apply(data, other)
    return data


def edit_lists() -> st.SearchStrategy[list[Edit]]:
    """One to four edits."""
    place = st.integers(0, 255)
    change = st.sampled_from([-2, -1, 1, 2, 100, 2**14, 2**31, 2**32, 2**63])
    return st.lists(
        st.one_of(
            st.builds(Flip, place, st.integers(0, 7)),
            st.builds(Insert, place, st.binary(min_size=1, max_size=8)),
            st.builds(Delete, place, st.integers(1, 8)),
            st.builds(Truncate, place),
            st.builds(Splice, place, place),
            st.builds(Duplicate, place, st.integers(1, 3)),
            st.builds(Lengthen, place, change),
        ),
        min_size=1,
        max_size=4,
    )


def fields(data: bytes, start: int = 0, end: int | None = None, depth: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Fields at any depth: where each starts, where its length is, where its value starts and ends.

    What stands where a message may is taken for one as long as it reads like one. Without a length the second and
    third place are the same.
    """
    end = len(data) if end is None else end
    at = start
    while at < end:
        tag, value_at = _varint(data, at, end)
        kind = tag & 7
        if not tag >> 3 or kind not in (_VARINT, _BYTES, *_FIXED):
            return
        length_at = value_at
        if kind == _VARINT:
            _, value_end = _varint(data, value_at, end)
        elif kind == _BYTES:
            size, value_at = _varint(data, length_at, end)
            value_end = value_at + size
        else:
            value_end = value_at + _FIXED[kind]
        if value_end > end or value_at > end:
            return
        yield at, length_at, value_at, value_end
        if kind == _BYTES and depth < _NESTING:
            yield from fields(data, value_at, value_end, depth + 1)
        at = value_end


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and the place after it, which is beyond the end where the number does not end."""
    number = 0
    for shift, place in enumerate(range(at, min(end, at + 10))):
        number |= (data[place] & 0x7F) << 7 * shift
        if data[place] < 0x80:
            return number, place + 1
    return 0, end + 1
