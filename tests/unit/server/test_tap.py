"""The server's tap: where it may be, what it says where it cannot, and what it leaves."""

import stat
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest

from mlops.routing import MAX_HASH
from mlops.tap import PageReader, State, announce_reader, boots, default_folder, read_catalog
from server.config import load_settings
from server.plan import ModelPlan, Plan, Role, Segment, Shadow, Split
from server.tap import Tap, file_system, require_memory, widest_record
from tests.support.models import echo_model, unwritten_plan
from tests.support.shared_memory import memory_folder
from tickserve.errors import ConfigurationError

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - what is tested


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder / "tap"


def open_tap(folder: Path, *, ring_bytes: int = 64 << 10, producers: int = 2) -> Tap:
    return Tap(folder, ring_bytes=ring_bytes, slot_bytes=384, producers=producers)


def plan(generation: int = 1, *versions: str, shadow: Shadow | None = None) -> Plan:
    planned = {number: unwritten_plan(echo_model(), version=number) for number in versions}
    split = Split(b"", (Segment(MAX_HASH, versions[0], Role.STABLE),))
    return Plan(generation, MappingProxyType({"echo": ModelPlan("echo", planned, split, shadow=shadow)}))


def test_files_are_for_the_server_alone(folder: Path) -> None:
    tap = open_tap(folder)
    for path in (folder, tap.boot):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    files = list(tap.boot.iterdir())
    assert sorted(path.name for path in files) == ["catalog.jsonl", "counters", "ring-0", "ring-1"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    tap.close()


def test_all_memory_is_there_from_the_start(folder: Path) -> None:
    tap = open_tap(folder, ring_bytes=1 << 20)
    for path in (*tap.rings, tap.counters):
        facts = path.stat()
        assert facts.st_blocks * 512 >= facts.st_size
    tap.close()


def test_no_room_is_said_with_both_figures_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"KiB free, less than 2 rings of .* KiB.*tap_ring_bytes") as caught:
        open_tap(folder, ring_bytes=1 << 45)
    assert caught.value.field == "tap_ring_bytes"
    assert boots(folder) == []


def test_a_folder_on_a_disk_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"proc.*tap=off"):
        open_tap(Path("/proc/tickserve"))


def test_a_place_that_cannot_be_written_is_refused(folder: Path) -> None:
    folder.touch()
    with pytest.raises(ConfigurationError, match=r"cannot use .*: File exists"):
        open_tap(folder)


@pytest.mark.parametrize("kind", ["writable by others", "a link"])
def test_a_folder_that_others_can_write_to_is_refused(folder: Path, kind: str) -> None:
    if kind == "a link":
        folder.symlink_to(folder.parent)
    else:
        folder.mkdir()
        folder.chmod(0o770)
    with pytest.raises(ConfigurationError, match="nobody else can write"):
        open_tap(folder)


def test_the_innermost_mount_decides(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 0:1 / / rw - ext4 /dev/sda rw\n"
        "2 1 0:2 / /dev/shm rw,nosuid shared:4 - tmpfs tmpfs rw\n"
        "3 2 0:3 / /dev/shm/a\\040b rw - ext4 /dev/sdb rw\n"
        "4 1 0:4 / /twice rw - ext4 /dev/sdc rw\n"
        "5 1 0:5 / /twice rw - tmpfs tmpfs rw\n"
    )
    kinds = [
        file_system(Path(path), mounts) for path in ("/srv", SHARED_MEMORY / "x/y", SHARED_MEMORY / "a b/c", "/twice/x")
    ]
    assert kinds == ["ext4", "tmpfs", "ext4", "tmpfs"]
    assert file_system(Path("/"), tmp_path / "none") == ""


def test_memory_is_accepted() -> None:
    require_memory(SHARED_MEMORY / "nothing/here")


def test_nothing_stays_where_nobody_reads(folder: Path) -> None:
    open_tap(folder).close()
    assert not folder.exists()


def test_what_a_reader_waits_for_stays(folder: Path) -> None:
    announce_reader(folder)
    tap = open_tap(folder)
    tap.close()
    assert boots(folder) == [tap.boot]


def test_two_servers_in_one_folder_leave_each_other_alone(folder: Path) -> None:
    first, second = open_tap(folder), open_tap(folder)
    first.close()
    assert boots(folder) == [second.boot]
    assert second.place(plan(1, "1"))
    second.close()


def test_a_plan_gets_numbers_that_stay_and_blocks_that_are_given_back(folder: Path) -> None:
    tap = open_tap(folder)
    first = tap.place(plan(1, "1", "2"))["echo"]
    tap.keep(plan(1, "1", "2"), {"echo": first})
    second = tap.place(plan(2, "2", "3"))["echo"]
    tap.keep(plan(2, "2", "3"), {"echo": second})
    assert [first.versions[number].version for number in ("1", "2")] == [0, 1]
    assert [second.versions[number].version for number in ("2", "3")] == [1, 2]
    assert (first.split_generation, second.split_generation) == (1, 2)
    # Version 2 is previous in one plan and stable in the other: two identities, two blocks.
    blocks = [*first.versions.values(), *second.versions.values()]
    assert len({placed.block for placed in blocks}) == 4
    assert list(read_catalog(tap.boot / "catalog.jsonl").versions) == [0, 1, 2]
    tap.close()


def test_a_shadow_and_what_it_is_compared_with_have_blocks_of_their_own(folder: Path) -> None:
    tap = open_tap(folder)
    planned = plan(1, "1", "2", "3", shadow=Shadow("2", 10_000, b"s"))
    placed = tap.place(planned)["echo"]
    tap.keep(planned, {"echo": placed})
    with_block = {
        each.block: (each.identity.version, each.identity.role) for each in PageReader(tap.counters).snapshot()
    }
    first, second, third = (placed.versions[number] for number in "123")
    assert with_block[placed.shadow] == (second.version, 3)
    assert with_block[first.compared] == (first.version, 6)
    assert (second.compared, third.compared) == (None, None)
    # The shadow leaves: its blocks and those of the comparison leave the plan, the others stay.
    tap.keep(plan(2, "1", "2", "3"), {"echo": tap.place(plan(2, "1", "2", "3"))["echo"]})
    states = {each.block: each.state for each in PageReader(tap.counters).snapshot()}
    assert {states[placed.shadow], states[first.compared]} == {State.LEFT}
    assert {states[each.block] for each in (first, second, third)} == {State.PLANNED}
    tap.close()


def test_a_shadow_of_one_version_is_compared_with_that_alone(folder: Path) -> None:
    tap = open_tap(folder)
    planned = plan(1, "1", "2", "3", shadow=Shadow("2", 10_000, b"s", of="3"))
    placed = tap.place(planned)["echo"]
    # Version 3 has no part in the split, and so no requests to compare.
    assert placed.shadow is not None
    assert all(found.compared is None for found in placed.versions.values())
    tap.close()


def test_a_plan_after_the_end_is_not_named(folder: Path) -> None:
    tap = open_tap(folder)
    totals = tap.totals()
    tap.close()
    tap.close()
    assert tap.place(plan(1, "1")) == {}
    assert tap.totals() == totals


def test_slots_take_a_row_of_the_widest_model(tmp_path: Path) -> None:
    assert widest_record(tmp_path) == 0
    for model, width in (("narrow", 10), ("wide", 200), ("broken", 0)):
        path = tmp_path / model / "1"
        path.mkdir(parents=True)
        tensor = f'{{"shape": [-1, {width}]}}'
        (path / "manifest.json").write_text(f'{{"inputs": [{tensor}], "outputs": []}}' if width else "{")
    assert 800 < widest_record(tmp_path) < 900


def test_settings_name_a_folder_or_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKSERVE_HOME", str(tmp_path))
    assert load_settings(None, {}).tap == default_folder(tmp_path)
    assert load_settings(None, {"tap": "off"}).tap == "off"
    assert load_settings(None, {"tap": str(SHARED_MEMORY / "mine")}).tap == SHARED_MEMORY / "mine"
    with pytest.raises(ConfigurationError, match="tap_ring_bytes"):
        load_settings(None, {"tap_ring_bytes": 1000})
