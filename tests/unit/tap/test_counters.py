"""The counters page: exact differences, blocks that change hands, readers beside writers."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlops.tap import Identity, PageOwner, PageReader, State, Tallier, create_page
from mlops.tap.counters import KEEP_S
from mlops.tap.layout import ERRORS, HEADER_BYTES, REQUESTS
from tests.support.tap import BOOT
from tickserve.errors import DamagedTapError

ONE, TWO, THREE = (Identity(version, 1, 0, 0) for version in range(3))


class Clock:
    """Monotonic, and moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A page of two blocks and two writers."""

    def __init__(self, path: Path) -> None:
        create_page(path, BOOT, writers=2, blocks=2)
        self.clock = Clock()
        self.owner = PageOwner(path, self.clock)
        self.reader = PageReader(path)

    def install(self, *identities: Identity) -> dict[Identity, int]:
        placed = self.owner.place(identities)
        self.owner.keep(identities)
        return placed


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "counters")
    yield bench
    bench.owner.close()
    bench.reader.close()


def test_counts_add_up_over_writers_by_bucket_and_column(bench: Bench) -> None:
    placed = bench.install(ONE, TWO)
    for writer in (0, 1):
        Tallier(bench.owner, writer).count(placed[ONE], 255, (ERRORS,))
    Tallier(bench.owner, 1).count(placed[TWO], 0, ())
    found = {block.identity: block for block in bench.reader.snapshot()}
    assert found[ONE].counts[255].tolist() == [2, 2, 0, 0, 0, 0, 0, 0]
    assert (found[ONE].counts.sum(), found[TWO].counts.sum()) == (4, 1)
    assert found[TWO].counts[0, REQUESTS] == 1


def test_an_identity_keeps_its_block_and_epoch_over_plans(bench: Bench) -> None:
    first = bench.install(ONE)
    epoch = bench.reader.snapshot()[0].epoch
    assert bench.install(ONE, TWO)[ONE] == first[ONE]
    assert bench.reader.snapshot()[0].epoch == epoch


def test_what_left_the_plan_can_still_be_read_and_counted(bench: Bench) -> None:
    placed = bench.install(ONE)
    bench.install(TWO)
    Tallier(bench.owner, 0).count(placed[ONE], 1, ())
    (left,) = [block for block in bench.reader.snapshot() if block.identity == ONE]
    assert (left.state, left.counts.sum()) == (State.LEFT, 1)
    assert left.left_unix_ns > 0


def test_what_comes_back_in_time_goes_on(bench: Bench) -> None:
    placed = bench.install(ONE)
    Tallier(bench.owner, 0).count(placed[ONE], 1, ())
    bench.install(TWO)
    bench.clock.now = KEEP_S - 1
    assert bench.install(ONE, TWO)[ONE] == placed[ONE]
    bench.clock.now = 3 * KEEP_S
    bench.install(ONE, TWO)
    (block,) = [block for block in bench.reader.snapshot() if block.identity == ONE]
    assert (block.state, block.counts.sum(), block.left_unix_ns) == (State.PLANNED, 1, 0)


def test_a_block_that_changes_hands_begins_anew_under_another_epoch(bench: Bench) -> None:
    placed = bench.install(ONE, TWO)
    Tallier(bench.owner, 0).count(placed[ONE], 1, ())
    before = {block.block: block.epoch for block in bench.reader.snapshot()}
    bench.install(TWO)
    assert bench.install(TWO, THREE).keys() == {TWO}, "not yet free"
    assert bench.owner.unplaced == 1
    bench.clock.now = KEEP_S
    placed_later = bench.install(TWO, THREE)
    assert placed_later[THREE] == placed[ONE]
    (block,) = [block for block in bench.reader.snapshot() if block.identity == THREE]
    assert block.counts.sum() == 0
    assert block.epoch == before[block.block] + 2


def test_many_versions_need_no_more_blocks_than_are_planned_at_a_time(bench: Bench) -> None:
    for version in range(100):
        bench.clock.now += KEEP_S
        assert len(bench.install(Identity(version, 1, 0, 0))) == 1
    assert bench.owner.unplaced == 0


def test_a_free_block_keeps_its_counts_until_it_is_needed(bench: Bench) -> None:
    placed = bench.install(ONE)
    Tallier(bench.owner, 0).count(placed[ONE], 1, ())
    bench.install(TWO)
    bench.clock.now = KEEP_S
    bench.install(TWO)
    (block,) = [block for block in bench.reader.snapshot() if block.identity == ONE]
    assert (block.state, block.counts.sum()) == (State.FREE, 1)


@pytest.mark.parametrize(("offset", "value"), [(0, b"X"), (8, b"\2"), (32, b"\3"), (36, b"\3"), (40, b"\1")])
def test_a_header_that_contradicts_the_file_is_refused(tmp_path: Path, offset: int, value: bytes) -> None:
    path = tmp_path / "counters"
    create_page(path, BOOT, writers=2, blocks=2)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(value)
    with pytest.raises(DamagedTapError):
        PageReader(path)


def test_random_bytes_in_blocks_do_not_stop_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    create_page(path, BOOT, writers=1, blocks=4)
    random = np.random.default_rng(1)
    size = path.stat().st_size
    for _ in range(20):
        with open(path, "r+b") as file:
            file.seek(HEADER_BYTES)
            file.write(random.bytes(size - HEADER_BYTES))
        reader = PageReader(path)
        assert len(reader.snapshot()) <= 4
        reader.close()


COUNTER = """
import sys
from pathlib import Path
from mlops.tap import Tallier
from mlops.tap.counters import Page
tallier = Tallier(Page(Path(sys.argv[1])), int(sys.argv[2]))
for number in range(30_000):
    tallier.count(0, number % 256, (1,) if number % 3 == 0 else ())
"""


def test_differences_over_windows_lose_nothing_beside_writers(bench: Bench, tmp_path: Path) -> None:
    bench.install(ONE)
    command = [sys.executable, "-c", COUNTER, str(tmp_path / "counters")]
    writers = [subprocess.Popen([*command, str(writer)]) for writer in (0, 1)]
    total, before = 0, np.zeros((256, 8), np.uint64)
    while True:
        is_over = all(writer.poll() is not None for writer in writers)
        (block,) = bench.reader.snapshot()
        assert (block.counts >= before).all(), "counts never fall"
        total += int((block.counts - before)[:, REQUESTS].sum())
        before = block.counts
        if is_over:
            break
    assert [writer.returncode for writer in writers] == [0, 0]
    assert (total, int(before[:, ERRORS].sum())) == (60_000, 20_000)
