"""A directory of models: what is listed, and versions that are added whole, once, and by any number of processes."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlops.package import MODEL_FILE, add_version, list_versions, read_bare_model, read_package
from mlops.package.directory import _numbers
from tests.unit.package.builders import build_small, copy_as, linear_model
from tickserve.errors import DamagedPackageError, PackageError

ROOT = Path(__file__).resolve().parents[3]


def make(root: Path, *folders: str) -> None:
    for folder in folders:
        (root / folder).mkdir(parents=True)


def test_versions_are_listed_in_ascending_order_by_number(tmp_path: Path) -> None:
    make(tmp_path, "b/10", "b/9", "b/2", "a/1")

    found = list_versions(tmp_path)

    assert list(found) == ["a", "b"]
    assert list(found["b"]) == [2, 9, 10]
    assert found["a"] == {1: tmp_path / "a" / "1"}


def test_whatever_is_no_version_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "m/1", "m/0", "m/01", "m/-1", "m/v2", "m/1.0", "m/.incoming-5", "m/٣", "m/" + "9" * 30)
    make(tmp_path, ".hidden/1", "empty", "lost+found/1")
    (tmp_path / "m" / "3").write_bytes(b"a file")
    (tmp_path / "m" / "config.pbtxt").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")

    assert list_versions(tmp_path) == {"m": {1: tmp_path / "m" / "1"}}


def test_a_bad_model_name_spoils_no_other_model_and_is_refused_when_read(tmp_path: Path) -> None:
    make(tmp_path, "Bad Name/1", "good/1")
    (tmp_path / "Bad Name" / "1" / MODEL_FILE).write_bytes(linear_model())

    found = list_versions(tmp_path)

    assert list(found) == ["Bad Name", "good"]
    with pytest.raises(PackageError, match="model name 'Bad Name'"):
        read_bare_model(found["Bad Name"][1], "Bad Name")


def test_a_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="does not exist"):
        list_versions(tmp_path / "absent")


def test_added_versions_count_up_and_verify(tmp_path: Path) -> None:
    first, second = (build_small(tmp_path / "packages", description=text) for text in ("first", "second"))
    models = tmp_path / "models"

    assert add_version(models, first) == (1, models / "small" / "1")
    assert add_version(models, second) == (2, models / "small" / "2")

    assert {number: read_package(path).digest for number, path in list_versions(models)["small"].items()} == {
        1: first.name,
        2: second.name,
    }


def test_adding_a_package_again_gives_the_version_that_is_there(package: Path, tmp_path: Path) -> None:
    other = build_small(tmp_path / "packages", description="other")
    add_version(tmp_path, package)
    add_version(tmp_path, other)

    assert add_version(tmp_path, package) == (1, tmp_path / "small" / "1")
    assert list(list_versions(tmp_path)["small"]) == [1, 2]


def test_a_damaged_copy_is_not_taken_for_the_package(package: Path, tmp_path: Path) -> None:
    _, path = add_version(tmp_path, package)
    os.truncate(path / MODEL_FILE, 10)

    assert add_version(tmp_path, package) == (2, tmp_path / "small" / "2")


def test_a_flipped_byte_of_an_added_manifest_is_noticed(package: Path, tmp_path: Path) -> None:
    _, path = add_version(tmp_path, package)
    manifest = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(manifest.replace(b"2020-01-01", b"2021-01-01"))

    with pytest.raises(DamagedPackageError):
        read_package(path)


def test_a_damaged_package_is_not_added(package: Path, tmp_path: Path) -> None:
    bad = copy_as(package, tmp_path / "bad")
    os.truncate(bad / MODEL_FILE, 10)

    with pytest.raises(DamagedPackageError):
        add_version(tmp_path / "models", bad)
    assert not (tmp_path / "models").exists()


def test_a_number_that_anything_else_has_is_not_free(package: Path, tmp_path: Path) -> None:
    make(tmp_path, "small/4", "small/.incoming-left-by-a-crash")
    (tmp_path / "small" / "4" / "something").write_bytes(b"")
    (tmp_path / "small" / "7").write_bytes(b"a file")

    assert add_version(tmp_path, package) == (8, tmp_path / "small" / "8")


def test_a_number_taken_at_the_last_moment_means_the_next_one(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build_small(tmp_path / "packages", description="other")
    calls: list[Path] = []

    def overtaken(folder: Path) -> list[int]:
        numbers = _numbers(folder)
        calls.append(folder)
        if len(calls) == 1:  # another process adds between our look and our rename
            shutil.copytree(other, folder / "1")
        return numbers

    monkeypatch.setattr("mlops.package.directory._numbers", overtaken)

    assert add_version(tmp_path / "models", package)[0] == 2
    assert read_package(tmp_path / "models" / "small" / "1").digest == other.name
    assert len(calls) == 2


def test_processes_that_add_at_once_lose_and_repeat_nothing(tmp_path: Path) -> None:
    packages = [build_small(tmp_path / "packages", description=str(number)) for number in range(6)]
    program = (
        "import sys; from pathlib import Path; from mlops.package import add_version\n"
        "sys.stdin.read(1)\n"
        "for package in sys.argv[2:]: add_version(Path(sys.argv[1]), Path(package))"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "models"), *map(str, packages)]
    writers = [subprocess.Popen(arguments, stdin=subprocess.PIPE, cwd=ROOT) for _ in range(2)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()  # the start signal
    assert [writer.wait(60) for writer in writers] == [0, 0]

    found = list_versions(tmp_path / "models")["small"]
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert {read_package(path).digest for path in found.values()} == {path.name for path in packages}
    assert sorted(os.listdir(tmp_path / "models" / "small")) == ["1", "2", "3", "4", "5", "6"]


def test_a_folder_that_cannot_be_written_is_a_clear_error(package: Path, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"a file where the model's folder would be")

    with pytest.raises(PackageError, match="cannot be written"):
        add_version(tmp_path, package)


def test_a_full_disk_leaves_nothing_behind(package: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mlops.package import add_version\n"
        "from tickserve.errors import PackageError\n"
        "try: add_version(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except PackageError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(package)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert "cannot be written: File too large" in run.stdout
    assert os.listdir(tmp_path / "small") == []
