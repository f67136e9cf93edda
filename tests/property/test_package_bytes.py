"""No byte of a package can change unnoticed, and no bytes at all make a reader fail in any other way than it says."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mlops.package import (
    BASELINE_FILE,
    DIGEST_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    add_version,
    parse_manifest,
    read_baseline,
    read_golden,
    read_graph,
    read_package,
)
from mlops.package.npz import read_arrays, write_arrays
from tests.unit.package.builders import build_small
from tickserve.errors import DamagedPackageError, PackageError

FILES = (MODEL_FILE, MANIFEST_FILE, GOLDEN_FILE, BASELINE_FILE, DIGEST_FILE)
READERS: dict[str, Callable[[bytes], object]] = {
    MODEL_FILE: read_graph,
    MANIFEST_FILE: parse_manifest,
    GOLDEN_FILE: read_golden,
    BASELINE_FILE: read_baseline,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same package under its digest, and as a version of a models directory."""
    root = tmp_path_factory.mktemp("packages")
    built = build_small(root)
    return {"by digest": built, "by version": add_version(root / "models", built)[1]}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(["by digest", "by version"]),
    file=st.sampled_from(FILES),
    position=st.floats(0, 1, exclude_max=True),
    mask=st.integers(1, 255),
)
def test_one_changed_byte_anywhere_is_damage(
    folders: dict[str, Path], place: str, file: str, position: float, mask: int
) -> None:
    path = folders[place] / file
    good = path.read_bytes()
    index = int(position * len(good))
    try:
        path.write_bytes(good[:index] + bytes([good[index] ^ mask]) + good[index + 1 :])
        with pytest.raises(DamagedPackageError):
            read_package(folders[place])
    finally:
        path.write_bytes(good)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), position=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_damage(folders: dict[str, Path], file: str, position: float) -> None:
    path = folders["by version"] / file
    good = path.read_bytes()
    try:
        path.write_bytes(good[: int(position * len(good))])
        with pytest.raises(DamagedPackageError):
            read_package(folders["by version"])
    finally:
        path.write_bytes(good)


@st.composite
def mangled(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes near enough to good ones that they get past the first checks."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        data[start:end] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.mark.parametrize("file", READERS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_readers_take_mangled_bytes_or_refuse_them(folders: dict[str, Path], file: str, data: st.DataObject) -> None:
    good = (folders["by digest"] / file).read_bytes()
    try:
        READERS[file](data.draw(mangled(good)))
    except PackageError as error:
        assert len(error.message) > 10  # noqa: PT017 - any other exception is the failure


@settings(max_examples=150)
@given(header=st.binary(max_size=64) | st.text(alphabet="{}()[]',: '<f8descrshape0123456789True\n", max_size=64))
def test_array_headers_are_taken_or_refused(header: bytes | str) -> None:
    raw = header.encode() if isinstance(header, str) else header
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw)
    with pytest.raises(PackageError):
        read_arrays(sink.getvalue(), "file")


@settings(max_examples=100)
@given(
    array=npst.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.bool_, np.uint8]),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_arrays_round_trip_bit_for_bit(array: np.ndarray) -> None:
    found = read_arrays(write_arrays({"a": array}), "file")["a"]

    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()
