"""The counters page: cumulative counts by version, role and key bucket, in blocks that change hands."""

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlops.tap import layout
from mlops.tap.files import Mapped, allocate
from mlops.tap.layout import BLOCK_HEADER, BLOCK_HEADER_BYTES, BUCKETS, COLUMNS, HEADER_BYTES, PAGE_HEADER, State

BLOCKS = 64
#: Longer than any request runs and than readers are apart: nothing is counted in a block after it changed hands.
KEEP_S = 300.0
_EPOCH, _STATE_BYTE, _LEFT_WORD = 0, 13, 5
_TRIES = 1000


class Identity(NamedTuple):
    """What is counted apart: a version (index in the catalog), its role, what its latencies are held against."""

    version: int
    role: int
    budget_ns: int
    edge_ns: int


def block_bytes(writers: int) -> int:
    """The size of one block."""
    return BLOCK_HEADER_BYTES + writers * layout.WRITER_BYTES


def create_page(path: Path, boot: bytes, writers: int, blocks: int = BLOCKS) -> None:
    """Makes a page of zeros. Raises OSError."""
    size = block_bytes(writers)
    header = PAGE_HEADER.pack(
        layout.PAGE_MAGIC,
        layout.FORMAT,
        HEADER_BYTES,
        boot,
        blocks,
        writers,
        size,
        os.getpid(),
        time.time_ns(),
    )
    allocate(path, HEADER_BYTES + blocks * size, header)


class Page(Mapped):
    """A page that is mapped. Raises DamagedTapError where the file is none, OSError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, layout.PAGE_MAGIC, PAGE_HEADER)

    @property
    def unplaced(self) -> int:
        """Identities that found no free block."""
        return self._words[layout.UNPLACED]

    @property
    def is_final(self) -> bool:
        """Whether a reader has taken the last counts."""
        return bool(self._words[layout.FINAL])

    def finish(self) -> None:
        """Says that the last counts were taken; for a reader, once the server has ended."""
        self._words[layout.FINAL] = 1

    def _read_header(self, fields: list[Any]) -> None:
        self.blocks, self.writers, size, self.pid, _ = fields
        if size != block_bytes(self.writers) or len(self._map) != HEADER_BYTES + self.blocks * size:
            raise self._damaged(f"it has {len(self._map)} bytes, not those of {self.blocks} blocks")

    def _at(self, block: int) -> int:
        return HEADER_BYTES + block * block_bytes(self.writers)


class PageOwner(Page):
    """The control plane's side: gives blocks to identities and takes them back. Under one lock.

    Parameters
    ----------
    clock : callable
        Monotonic, in seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(path)
        self._clock = clock
        self._blocks: dict[Identity, int] = {}
        self._left: dict[Identity, float] = {}
        self._free = list(reversed(range(self.blocks)))

    def place(self, planned: Collection[Identity]) -> dict[Identity, int]:
        """The block of each identity of a plan; those that found none are absent, and counted."""
        self._take_back()
        for identity in planned:
            block = self._blocks.get(identity)
            if block is None and self._free:
                block = self._blocks[identity] = self._free.pop()
                self._begin(block, identity)
            elif block is None:
                self._words[layout.UNPLACED] += 1
        return {identity: self._blocks[identity] for identity in planned if identity in self._blocks}

    def keep(self, planned: Collection[Identity]) -> None:
        """Says which are in the plan from now on; the time of the others begins, or goes on."""
        now = self._clock()
        for identity, block in self._blocks.items():
            if identity in planned:
                if self._left.pop(identity, None) is not None:
                    self._set_state(block, State.PLANNED, 0)
            elif identity not in self._left:
                self._left[identity] = now
                self._set_state(block, State.LEFT, time.time_ns())
        self._take_back()

    def _take_back(self) -> None:
        now = self._clock()
        for identity in [identity for identity, left in self._left.items() if now - left >= KEEP_S]:
            del self._left[identity]
            block = self._blocks.pop(identity)
            self._map[self._at(block) + _STATE_BYTE] = State.FREE
            # Last in the row, so that its counts stay to be read for as long as can be.
            self._free.insert(0, block)

    def _begin(self, block: int, identity: Identity) -> None:
        at = self._at(block)
        epoch, size = at // 8 + _EPOCH, block_bytes(self.writers)
        self._words[epoch] += 1
        self._map[at + 8 : at + size] = bytes(size - 8)
        version, role, budget_ns, edge_ns = identity
        BLOCK_HEADER.pack_into(self._map, at + 8, version, role, State.PLANNED, budget_ns, edge_ns, time.time_ns(), 0)
        self._words[epoch] += 1

    def _set_state(self, block: int, state: State, left_unix_ns: int) -> None:
        at = self._at(block)
        self._map[at + _STATE_BYTE] = state
        self._words[at // 8 + _LEFT_WORD] = left_unix_ns


class Tallier:
    """One writer of a page: adds one request to its row. Not for several threads."""

    def __init__(self, page: Page, writer: int) -> None:
        self._words = page._words
        self._first = (HEADER_BYTES + BLOCK_HEADER_BYTES + writer * layout.WRITER_BYTES) // 8
        self._step = block_bytes(page.writers) // 8

    def count(self, block: int, bucket: int, columns: Collection[int]) -> None:
        """Counts one request: in column `REQUESTS`, and in these."""
        row = self._first + block * self._step + bucket * COLUMNS
        words = self._words
        words[row] += 1
        for column in columns:
            words[row + column] += 1


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """One block as it stood. `counts` are (256, 8), by key bucket and column, summed over writers.

    Two of one `block` with one `epoch` differ by exactly what happened between.
    """

    block: int
    epoch: int
    identity: Identity
    state: State
    allotted_unix_ns: int
    left_unix_ns: int
    counts: np.ndarray[Any, np.dtype[np.uint64]]


class PageReader(Page):
    """A reader's side."""

    def snapshot(self) -> list[BlockCounts]:
        """Every block that was ever used. One that changes hands for as long as it is looked at is left out."""
        found = (self._block(block) for block in range(self.blocks))
        return [block for block in found if block is not None]

    def _block(self, block: int) -> BlockCounts | None:
        at, size = self._at(block), block_bytes(self.writers)
        for _ in range(_TRIES):
            epoch = self._words[at // 8]
            if epoch == 0:
                return None
            data = self._map[at : at + size]
            if epoch % 2 or self._words[at // 8] != epoch:
                continue
            version, role, state, budget_ns, edge_ns, allotted, left = BLOCK_HEADER.unpack_from(data, 8)
            if state not in State.__members__.values():
                return None
            counts = np.frombuffer(data, "<u8", offset=BLOCK_HEADER_BYTES).reshape(self.writers, BUCKETS, COLUMNS)
            return BlockCounts(
                block=block,
                epoch=epoch,
                identity=Identity(version, role, budget_ns, edge_ns),
                state=State(state),
                allotted_unix_ns=allotted,
                left_unix_ns=left,
                counts=counts.sum(axis=0),
            )
        return None
