"""Differences of real counters pages: nothing lost, nothing twice, over blocks that change hands and restarts."""

import json
from pathlib import Path

import pytest

from mlops.sidecar.counts.differences import PageDifferences
from mlops.tap import PageReader
from mlops.tap.counters import Identity, Page, PageOwner, Tallier, create_page
from mlops.tap.layout import ERRORS, FAILURES, OUTPUT_VIOLATIONS, OVER_EDGE, REQUESTS

CANARY, STABLE, OLD = Identity(1, 2, 0, 500), Identity(0, 1, 0, 500), Identity(0, 1, 0, 0)


class Server:
    """A page with two writers, of which every request is counted."""

    def __init__(self, path: Path) -> None:
        create_page(path, b"b" * 16, 2, blocks=3)
        self.now = 0.0
        self.owner = PageOwner(path, clock=lambda: self.now)
        self.reader = PageReader(path)
        self.writers = [Tallier(Page(path), writer) for writer in (0, 1)]
        self.blocks = self.owner.place([CANARY, STABLE, OLD])

    def count(self, identity: Identity, bucket: int, *columns: int, times: int = 1) -> None:
        for number in range(times):
            self.writers[number % 2].count(self.blocks[identity], bucket, columns)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "counters")


def test_a_difference_is_what_happened_between_two_looks(server: Server) -> None:
    pages = PageDifferences()
    server.count(CANARY, 3, times=5)
    pages.take(server.reader.snapshot())
    server.count(CANARY, 3, ERRORS, FAILURES, times=2)
    server.count(CANARY, 9, OVER_EDGE, OUTPUT_VIOLATIONS, times=3)
    server.count(STABLE, 3, times=7)
    # Of before the edge was set: another block.
    server.count(OLD, 3, times=100)
    found = pages.take(server.reader.snapshot())
    assert found[CANARY][3, [REQUESTS, ERRORS, FAILURES]].tolist() == [2, 2, 2]
    assert found[CANARY][9, [REQUESTS, OVER_EDGE, OUTPUT_VIOLATIONS]].tolist() == [3, 3, 3]
    assert [int(found[each][:, REQUESTS].sum()) for each in (STABLE, OLD)] == [7, 100]
    assert not any(each.any() for each in pages.take(server.reader.snapshot()).values())


def test_a_restart_of_the_reader_loses_and_repeats_nothing(server: Server) -> None:
    pages = PageDifferences()
    server.count(CANARY, 3, times=5)
    pages.take(server.reader.snapshot())
    kept = json.loads(json.dumps(pages.state()))
    server.count(CANARY, 3, times=4)
    found = PageDifferences.restored(kept).take(server.reader.snapshot())
    assert int(found[CANARY][:, REQUESTS].sum()) == 4


def test_a_block_that_changed_hands_begins_anew(server: Server) -> None:
    pages = PageDifferences()
    server.count(OLD, 3, times=9)
    pages.take(server.reader.snapshot())
    server.owner.keep([CANARY, STABLE])
    server.now = 301.0
    newer = Identity(2, 2, 0, 500)
    server.blocks |= server.owner.place([CANARY, STABLE, newer])
    server.count(newer, 3, times=2)
    found = pages.take(server.reader.snapshot())
    assert int(found[newer][:, REQUESTS].sum()) == 2
    assert OLD not in found
