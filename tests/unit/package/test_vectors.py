"""The test vector of docs/formats: one whole package that any reader, and any builder, must agree on byte for byte."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlops.package import ColumnMapping, Golden, ReferenceRows, build_package, check_model, feature_digest, read_package
from mlops.package.signature import sign_digest, write_signature
from tests.support.packages import flip_byte
from tests.unit.package.test_signature import KEY, PUBLIC
from tickserve.errors import DamagedPackageError, PackageError

DOCS = Path(__file__).resolve().parents[3] / "docs" / "formats"
NAMES = ("momentum", "rsi", "volume")
GOLDEN = Golden(
    {"features": np.array([[1, 2, 0], [4, -8, 3]], np.float32)},
    {"values": np.array([[1.0], [5.0]], np.float32)},
    rtol=0.0,
    atol=0.0,
)
ROWS = np.array([[0, 0, 0], [1, 2, 0], [4, -8, 3], [0.5, 0.25, 1], [np.nan, 1, 1], [2, 2, 2]], np.float32)


@pytest.fixture
def vector() -> Path:
    [folder] = (DOCS / "vectors").iterdir()
    return folder


def build(out: Path, model: bytes) -> Path:
    return build_package(
        out,
        name="vector",
        model=model,
        golden=GOLDEN,
        reference=ReferenceRows("train", {"features": ROWS}),
        feature_names=NAMES,
        task="regression",
        signal=ColumnMapping(output="values", column=0),
        description="The test vector of docs/formats/package.md.",
    )


def test_the_builder_writes_the_vector_byte_for_byte(vector: Path, tmp_path: Path) -> None:
    folder = build(tmp_path, (vector / "model.onnx").read_bytes())
    (folder / "signature.json").write_bytes(write_signature(sign_digest(folder.name, KEY)))
    assert folder.name == vector.name
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in vector.iterdir()
    }


def test_the_vector_verifies_and_repeats_its_golden_rows(vector: Path) -> None:
    package = read_package(vector)
    check_model(package)
    assert package.signature is not None
    assert package.signature.public_key == PUBLIC


def test_what_the_manual_says_of_the_vector_is_so(vector: Path) -> None:
    """Read as another implementation would: no code of ours."""
    manifest = (vector / "manifest.json").read_bytes()
    entries = json.loads(manifest)
    assert hashlib.sha256(manifest).hexdigest() == vector.name
    for name, entry in entries["files"].items():
        data = (vector / name).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry["sha256"], entry["size_bytes"])
    with np.load(io.BytesIO((vector / "golden.npz").read_bytes()), allow_pickle=False) as golden:
        momentum, rsi, _ = golden["input:features"].T
        assert (golden["output:values"][:, 0] == momentum / 2 - rsi / 4 + 1).all()

    manual = (DOCS / "package.md").read_text()
    for name in ("manifest.json", *entries["files"], "signature.json"):
        data = (vector / name).read_bytes()
        assert f"| `{name}` | {len(data)} | `{hashlib.sha256(data).hexdigest()}` |" in manual
    digest = hashlib.sha256(b"momentum\0rsi\0volume\0").digest()
    assert feature_digest(NAMES) == digest
    assert digest.hex() in manual


def extra_file(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")


def missing_file(folder: Path) -> None:
    (folder / "baseline.json").unlink()


def with_space(folder: Path) -> None:
    data = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(data.replace(b":", b": ", 1))
    for covered in ("manifest.sha256", "signature.json"):
        (folder / covered).unlink()


def other_golden(folder: Path) -> None:
    shutil.copy(folder / "baseline.json", folder / "golden.npz")


CHANGES: dict[str, tuple[Callable[[Path], None], type[PackageError]]] = {
    "a file `notes.txt` beside the others": (extra_file, DamagedPackageError),
    "no `baseline.json`": (missing_file, DamagedPackageError),
    "a space behind the first colon of `manifest.json`, neither `manifest.sha256` nor `signature.json`": (
        with_space,
        PackageError,
    ),
    "`golden.npz` replaced by a copy of `baseline.json`": (other_golden, DamagedPackageError),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_vector_is_refused_as_the_manual_says(vector: Path, tmp_path: Path, change: str) -> None:
    spoil, error = CHANGES[change]
    folder = tmp_path / "package"
    shutil.copytree(vector, folder)
    spoil(folder)
    with pytest.raises(PackageError) as refused:
        read_package(folder)
    assert type(refused.value) is error
    assert f"| {change} | {error.__name__} |" in (DOCS / "package.md").read_text()


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden.npz", "baseline.json", "signature.json"])
def test_any_flipped_byte_of_the_vector_is_refused(vector: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / vector.name
    shutil.copytree(vector, folder)
    for position in range((folder / name).stat().st_size):
        flip_byte(folder / name, position)
        with pytest.raises(PackageError):
            read_package(folder)
        flip_byte(folder / name, position)
    assert re.fullmatch("[0-9a-f]{64}", read_package(folder).digest)
