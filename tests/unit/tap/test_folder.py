"""The folder of the tap: which boots live, which of the others stay; and the catalog."""

import os
from pathlib import Path

import pytest

from mlops.tap import (
    COUNTERS,
    CatalogWriter,
    PageReader,
    RingReader,
    RingWriter,
    Split,
    Version,
    announce_reader,
    boots,
    create_page,
    create_ring,
    default_folder,
    is_alive,
    new_boot,
    open_catalog,
    read_catalog,
    ring_path,
    ring_shape,
    rings,
    tidy,
)
from mlops.tap.folder import KEPT_BOOTS
from tests.support.tap import record
from tickserve.errors import DamagedTapError


def make_boot(folder: Path, *, writes: int = 1) -> Path:
    """A boot that ended, with records that nobody read."""
    boot = new_boot()
    path = folder / boot.hex()
    path.mkdir(parents=True)
    os.close(open_catalog(path))
    create_ring(ring_path(path, 0), ring_shape(64 << 10, 384), boot, 0, 1)
    create_page(path / COUNTERS, boot, writers=1, blocks=1)
    writer = RingWriter(ring_path(path, 0))
    for _ in range(writes):
        writer.write(record())
    writer.close()
    return path


def read_all(boot: Path) -> None:
    reader, page = RingReader(rings(boot)[0]), PageReader(boot / COUNTERS)
    reader.consume(reader.read())
    page.finish()
    reader.close()
    page.close()


def test_without_a_reader_what_ended_goes(tmp_path: Path) -> None:
    ended = [make_boot(tmp_path) for _ in range(2)]
    assert tidy(tmp_path) == ended
    assert boots(tmp_path) == []


def test_with_a_reader_what_is_unread_stays_and_what_is_read_goes(tmp_path: Path) -> None:
    announce_reader(tmp_path)
    first, second = make_boot(tmp_path), make_boot(tmp_path)
    read_all(first)
    assert tidy(tmp_path) == [first]
    assert boots(tmp_path) == [second]


def test_counts_that_nobody_took_keep_a_boot_too(tmp_path: Path) -> None:
    announce_reader(tmp_path)
    boot = make_boot(tmp_path, writes=0)
    assert tidy(tmp_path) == []
    read_all(boot)
    assert tidy(tmp_path) == [boot]


def test_no_more_than_a_few_unread_boots_stay(tmp_path: Path) -> None:
    announce_reader(tmp_path)
    made = [make_boot(tmp_path) for _ in range(KEPT_BOOTS + 2)]
    assert tidy(tmp_path) == made[:2]
    assert boots(tmp_path) == made[2:]


def test_a_boot_that_lives_is_never_removed(tmp_path: Path) -> None:
    boot = tmp_path / new_boot().hex()
    boot.mkdir()
    assert is_alive(boot), "it is being made"
    descriptor = open_catalog(boot)
    assert is_alive(boot)
    assert tidy(tmp_path) == []
    os.close(descriptor)
    assert tidy(tmp_path) == [boot]


def test_a_boot_whose_files_are_damaged_keeps_nobody_waiting(tmp_path: Path) -> None:
    announce_reader(tmp_path)
    boot = make_boot(tmp_path)
    os.truncate(ring_path(boot, 0), 10)
    (boot / COUNTERS).unlink()
    assert tidy(tmp_path) == [boot]


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / ("0" * 32)).touch()
    (tmp_path / ("x" * 32)).mkdir()
    assert tidy(tmp_path) == []
    assert (tmp_path / "mine").exists()


def test_boots_sort_by_the_time_they_were_made(tmp_path: Path) -> None:
    made = [make_boot(tmp_path) for _ in range(3)]
    assert boots(tmp_path) == made


def test_each_home_has_its_folder() -> None:
    one, other = default_folder(Path("/a")), default_folder(Path("/b"))
    assert one != other
    assert one.name.startswith(f"tickserve-{os.getuid()}-")


VERSION = Version("demo", "1", b"\1" * 32, (), (), ("rsi", "größe"))
SPLIT = Split("demo", 3, b"salt", ((10, "1", 1), ((1 << 64) - 1, "2", 2)))


def test_catalog_gives_one_number_to_one_version(tmp_path: Path) -> None:
    catalog = CatalogWriter(open_catalog(tmp_path))
    other = Version("demo", "1", b"\2" * 32, (), (), ())
    assert [catalog.version(version) for version in (VERSION, other, VERSION)] == [0, 1, 0]
    assert read_catalog(tmp_path / "catalog.jsonl").versions == {0: VERSION, 1: other}


def test_catalog_names_a_split_by_the_plan_that_brought_it(tmp_path: Path) -> None:
    catalog = CatalogWriter(open_catalog(tmp_path))
    again = Split("demo", 4, SPLIT.salt, SPLIT.segments)
    changed = Split("demo", 5, SPLIT.salt, SPLIT.segments[:1])
    assert [catalog.split(split) for split in (SPLIT, again, changed, SPLIT)] == [3, 3, 5, 3]
    assert read_catalog(tmp_path / "catalog.jsonl").splits == {("demo", 3): SPLIT, ("demo", 5): changed}


def test_catalog_says_whose_life_it_is(tmp_path: Path) -> None:
    catalog = CatalogWriter(open_catalog(tmp_path))
    assert read_catalog(tmp_path / "catalog.jsonl").server == ""
    catalog.server("desk-1")
    assert catalog.version(VERSION) == 0
    found = read_catalog(tmp_path / "catalog.jsonl")
    assert (found.server, found.versions) == ("desk-1", {0: VERSION})


def test_a_line_that_is_not_whole_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "catalog.jsonl"
    CatalogWriter(open_catalog(tmp_path)).version(VERSION)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-1])
    assert list(read_catalog(path).versions) == [0]
    path.write_bytes(whole + b"{}\n")
    with pytest.raises(DamagedTapError, match="line 2"):
        read_catalog(path)
    path.write_bytes(whole + b'{"kind":"later","any":1}\n')
    assert list(read_catalog(path).versions) == [0]
