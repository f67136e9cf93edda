"""The artifact store keeps files whole or not at all, on a disk and elsewhere."""

import hashlib
import os
from pathlib import Path

import pytest

from mlops.registry.store import ArtifactStore
from tests.support.packages import flip_byte
from tickserve.errors import ConfigurationError, DamagedPackageError, UnreachableError

DATA = b"a model" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def full(*_: object) -> None:
        assert not (tmp_path / "sha256" / SHA256[:2] / SHA256).exists(), "its name appears only with all its bytes"
        raise OSError(28, "No space left on device")

    store = ArtifactStore(str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(os, fault, full)
        with pytest.raises(UnreachableError, match="No space left"):
            store.put(DATA)
    assert files(tmp_path) == []
    assert store.put(DATA) == SHA256
    assert files(tmp_path) == [SHA256]


def test_storing_again_mends_a_damaged_file(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    store.put(DATA)
    Path(store.path(SHA256)).write_bytes(DATA[:-1] + b"x")
    with pytest.raises(DamagedPackageError, match="is damaged"):
        store.get(SHA256, len(DATA))
    store.put(DATA)
    assert store.get(SHA256, len(DATA)) == DATA


def test_any_flipped_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    data = DATA[:700]
    sha256 = store.put(data)
    for position in range(len(data)):
        flip_byte(Path(store.path(sha256)), position)
        with pytest.raises(DamagedPackageError, match="is damaged"):
            store.get(sha256, len(data))
        flip_byte(Path(store.path(sha256)), position)
    assert store.get(sha256, len(data)) == data


def test_a_store_that_is_no_disk_works_the_same(request: pytest.FixtureRequest) -> None:
    store = ArtifactStore(f"memory://{request.node.name}")
    assert not store.has(SHA256)
    store.put(DATA)
    assert store.get(SHA256, len(DATA)) == DATA
    assert [(file.name, file.is_whole) for file in store.list_files()] == [(SHA256, True)]
    store.delete(SHA256)
    assert list(store.list_files()) == []


def test_a_url_stays_a_url() -> None:
    with pytest.raises(ConfigurationError, match="nosuchstore"):
        ArtifactStore("nosuchstore://bucket/models")
