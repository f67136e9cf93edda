"""Sums in the registry's database: what is written is what is read, on each back end."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from mlops.registry import Registry, schema
from mlops.registry.database import Database
from mlops.registry.leases import database_now
from mlops.rollout.sums import CountedOutputs, read_late, read_outputs, read_reporters, read_windows
from mlops.rollout.sums.body import pack, unpack
from mlops.rollout.sums.read import refuse
from mlops.rollout.sums.write import (
    Progress,
    forget,
    outputs_row,
    read_progress,
    require_name,
    touch,
    write_outputs,
    write_progress,
    write_windows,
)
from tests.support.counting import START_NS, Counting, CountingLife
from tests.support.registry import Backend
from tests.support.shared_memory import memory_folder
from tests.support.sums import BOOT, SECOND, outputs, side, window
from tickserve.errors import ExistsError, RegistryError

TOLD = {"7": np.arange(5)}


@pytest.fixture
def database(registry: Registry, backend: Backend) -> Iterator[Database]:
    opened = Database(backend.url)
    yield opened
    opened.close()


def put_outputs(connection: Any, windows: Sequence[CountedOutputs]) -> None:
    write_outputs(connection, [outputs_row("demo", each) for each in windows])


def progress(**fields: object) -> Progress:
    usual = {
        "boot": BOOT,
        "model": "demo",
        "server": "alpha",
        "complete_to_ns": 20 * SECOND,
        "outputs_to_ns": 10 * SECOND,
        "window_ns": 10 * SECOND,
        "dropped": 3,
        "state": TOLD,
    }
    return Progress(**(usual | fields))


def test_windows_are_read_as_they_were_written(database: Database) -> None:
    written = [
        window(start_ns=20 * SECOND, counts=side(3, failures=2, slow=1)),
        window(start_ns=20 * SECOND, version=2, role=2, share_bp=1_000, edge_ns=500),
        window(start_ns=1_790_000_000 * SECOND, reporter="there"),
        window(start_ns=30 * SECOND, window_ns=70 * SECOND, share_bp=-1),
        window(start_ns=40 * SECOND, window_ns=5 * SECOND),
        # From before, of another model: not asked for.
        window(start_ns=10 * SECOND),
    ]
    database.write(lambda connection: write_windows(connection, "demo", written))
    database.write(lambda connection: write_windows(connection, "other", [window(start_ns=20 * SECOND)]))
    with database.read() as connection:
        found = read_windows(connection, "demo", 20 * SECOND)
    assert [(each.reporter, each.version, each.start_ns // SECOND, each.share_bp) for each in found] == [
        ("here", 1, 20, 9_000),
        ("here", 2, 20, 1_000),
        ("here", 1, 30, -1),
        ("here", 1, 40, 9_000),
        ("there", 1, 1_790_000_000, 9_000),
    ]
    assert found[0].counts.as_dict() == written[0].counts.as_dict()


def test_a_row_written_again_is_there_once_with_what_was_said_last(database: Database) -> None:
    for requests in (1, 1, 4):
        database.write(
            lambda connection, requests=requests: write_windows(connection, "demo", [window(counts=side(requests))])
        )
        database.write(lambda connection, n=requests: put_outputs(connection, [outputs(answers=n)]))
    with database.read() as connection:
        [row] = read_windows(connection, "demo", 0)
        [told] = read_outputs(connection, "demo", 0, 20 * SECOND)
    assert (int(row.counts.requests[5]), told.answers) == (4, 4)


def test_late_windows_are_those_that_were_not_taken_however_many_boots_there_were(database: Database) -> None:
    rows = [window(start_ns=place * 10 * SECOND) for place in range(1, 6)]
    other = window(start_ns=20 * SECOND, reporter="there")
    database.write(lambda connection: write_windows(connection, "demo", [*rows, other]))
    many = {f"here {boot:032x}": 10**18 for boot in range(1_000, 3_000)}
    with database.read() as connection:
        found = read_late(connection, "demo", 15 * SECOND, 50 * SECOND, many | {f"here {BOOT}": 40 * SECOND}, refuse)
        assert [(each.reporter, each.start_ns // SECOND) for each in found] == [("there", 20), ("here", 40)]
        assert len(read_late(connection, "demo", 15 * SECOND, 50 * SECOND, {}, refuse)) == 5


def test_outputs_lie_whole_in_the_time_that_is_asked_for(database: Database) -> None:
    written = [outputs(start_ns=start * SECOND, positions=(start, start + 9)) for start in (0, 10, 20, 30)]
    written.append(outputs(start_ns=10 * SECOND, version=2, role=3, bins=None, unbinned=768))
    database.write(lambda connection: put_outputs(connection, written))
    with database.read() as connection:
        found = read_outputs(connection, "demo", 10 * SECOND, 39 * SECOND)
    assert [(each.start_ns // SECOND, each.version, each.positions) for each in found] == [
        (10, 1, (10, 19)),
        (10, 2, (0, 767)),
        (20, 1, (20, 29)),
    ]
    first, second = found[:2]
    assert first.bins is not None
    assert first.bins.sum() == 768
    assert second.bins is None
    assert second.unbinned == 768


def test_reporters_say_how_far_they_are_and_where_they_go_on(database: Database) -> None:
    def write(connection: Any) -> None:
        write_progress(connection, "here", "me", progress())
        write_progress(connection, "here", "me", progress(boot="11" * 16, has_ended=True))

    database.write(write)
    with database.read() as connection:
        first, second = read_reporters(connection, "demo")
        assert read_reporters(connection, "other") == ()
        known = read_progress(connection, "here")
        now = database_now(connection)
    assert (first.server, first.complete_to_ns, first.outputs_to_ns, first.window_ns, first.dropped) == (
        "alpha",
        20 * SECOND,
        10 * SECOND,
        10 * SECOND,
        3,
    )
    assert (first.has_ended, second.has_ended) == (False, True)
    assert not first.is_silent(now)
    assert first.is_silent(now + timedelta(seconds=61))
    database.write(lambda connection: write_progress(connection, "there", "other", progress(model="other")))
    database.write(lambda connection: touch(connection, "here", [BOOT], 50 * SECOND, 7))
    with database.read() as connection:
        assert [each.dropped for each in read_reporters(connection, "other")] == [3], "it is another one's"
    with database.read() as connection:
        assert [(each.outputs_to_ns // SECOND, each.dropped) for each in read_reporters(connection, "demo")] == [
            (50, 7),
            (10, 3),
        ]
    assert known[BOOT, "demo"].state["7"].tolist() == [0, 1, 2, 3, 4]
    assert known["11" * 16, "demo"].has_ended


def test_a_name_is_one_sidecars_until_that_is_silent(database: Database) -> None:
    database.write(lambda connection: write_progress(connection, "here", "me", progress()))
    with database.read() as connection:
        require_name(connection, "here", "me")
        require_name(connection, "there", "other")
        with pytest.raises(
            ExistsError, match=r"another sidecar counts as 'here'.*of server 'alpha'.*setting `reporter`"
        ):
            require_name(connection, "here", "other")
        before = database_now(connection) - timedelta(seconds=61)
    database.write(lambda connection: connection.execute(update(schema.reporters).values(at=before)))
    with database.read() as connection:
        require_name(connection, "here", "other")


def test_old_windows_of_everybody_are_forgotten_and_those_that_may_go_on_are_not(database: Database) -> None:
    def write(connection: Any) -> None:
        write_progress(connection, "here", "me", progress())
        for reporter in ("here", "gone"):
            windows = [window(reporter=reporter, start_ns=start * SECOND) for start in (10, 20, 30)]
            write_windows(connection, "demo", windows)
        put_outputs(connection, [outputs(start_ns=10 * SECOND), outputs(start_ns=30 * SECOND)])

    database.write(write)
    assert database.write(lambda connection: forget(connection, 30 * SECOND)) == 5
    with database.read() as connection:
        assert {each.start_ns // SECOND for each in read_windows(connection, "demo", 0)} == {30}
        assert len(read_outputs(connection, "demo", 0, 99 * SECOND)) == 1
        assert len(read_reporters(connection, "demo")) == 1


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x02abc", pack(TOLD)[:-3], pack(TOLD) + b"x", pack(TOLD), pack({})],
    ids=["empty", "format", "cut", "longer", "other arrays", "no arrays"],
)
def test_a_damaged_row_is_named(database: Database, damage: bytes) -> None:
    database.write(lambda connection: write_windows(connection, "demo", [window()]))
    database.write(lambda connection: put_outputs(connection, [outputs()]))
    for table in (schema.window_counts, schema.window_outputs):
        database.write(lambda connection, table=table: connection.execute(update(table).values(body=damage)))
    with database.read() as connection:
        with pytest.raises(RegistryError, match=r"window_counts with reporter=here, boot=0+, model=demo, version=1"):
            read_windows(connection, "demo", 0)
        with pytest.raises(RegistryError, match=r"window_outputs with .*start_ns=10000000000"):
            read_outputs(connection, "demo", 0, 99 * SECOND)


def test_every_changed_byte_of_a_body_is_seen() -> None:
    body = pack({"a": np.arange(40), "b": np.zeros((2, 3), np.int64)})
    for place in range(len(body)):
        changed = bytearray(body)
        changed[place] ^= 1
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
            unpack(bytes(changed))


def test_verify_does_not_look_at_sums(database: Database, registry: Registry) -> None:
    database.write(lambda connection: write_windows(connection, "demo", [window()]))
    assert registry.verify().findings == ()


def test_a_sidecar_counts_into_it_over_restarts_and_outages(
    registry: Registry, backend: Backend, tmp_path: Path
) -> None:
    with memory_folder() as tap:
        life = CountingLife(tap, began_ns=START_NS)
        counting = Counting(tap, tmp_path, url=backend.url)
        for number in range(1, 9):
            life.count(1, times=number)
            counting.is_away = number in (3, 4, 5)
            if number == 7:
                counting.begin()
            counting.step(10.0)
        assert [requests for *_, requests in counting.whole()] == list(range(1, 9))
        assert sum(int(row.counts.requests.sum()) for row in counting.rows()) == 36
        assert registry.verify().findings == ()
        counting.close()
