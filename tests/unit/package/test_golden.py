"""Golden rows: what counts as the same answer, and which files are not believed."""

import io
import math
import pickle
import struct
import zipfile

import numpy as np
import pytest

from mlops.package import Golden, read_golden, write_golden
from mlops.package import npz as npz_module
from tickserve.errors import PackageError

NAN, INF = math.nan, math.inf


def rows(*outputs: float, rtol: float = 0.0, atol: float = 0.5) -> Golden:
    return Golden({"x": np.zeros((len(outputs), 1), np.float32)}, {"y": np.array(outputs, np.float32)}, rtol, atol)


def given(*outputs: float) -> dict[str, np.ndarray]:
    return {"y": np.array(outputs, np.float32)}


def test_within_the_tolerance_nothing_is_said() -> None:
    assert rows(1.0, -2.0).mismatch(given(1.5, -2.5)) is None
    assert rows(100.0, rtol=0.01, atol=0.0).mismatch(given(101.0)) is None


def test_beyond_the_tolerance_the_place_and_both_figures_are_said() -> None:
    said = rows(1.0, -2.0).mismatch(given(1.0, -2.75))

    assert said is not None
    assert "'y' at [1] is -2.75, the golden rows say -2.0" in said
    assert "1 of 2 values" in said
    assert "0.75" in said


@pytest.mark.parametrize(
    ("golden", "actual", "error"),
    [
        (NAN, NAN, 0.0),
        (NAN, 1.0, INF),
        (1.0, NAN, INF),
        (INF, INF, 0.0),
        (INF, -INF, INF),
        (INF, 1.0, INF),
        (1.0, INF, INF),
        (0.0, -0.0, 0.0),
    ],
)
def test_nan_and_infinity_match_only_themselves(golden: float, actual: float, error: float) -> None:
    assert (rows(golden, atol=1e30).mismatch(given(actual)) is None) == (error == 0.0)
    assert rows(golden).max_error(given(actual)) == error


def test_max_error_is_the_largest_over_all_outputs() -> None:
    golden = Golden({"x": np.zeros(1)}, {"a": np.array([1.0, 2.0]), "b": np.array([5], np.int64)})

    assert golden.max_error({"a": np.array([1.0, 2.25]), "b": np.array([2], np.int64)}) == 3.0
    assert golden.max_error({"a": np.array([1.0, 2.0])}) == INF
    assert golden.max_error({"a": np.array([1.0]), "b": np.array([5], np.int64)}) == INF


def test_whole_numbers_and_text_must_be_equal() -> None:
    labels = Golden({"x": np.zeros(1)}, {"y": np.array([100_000], np.int64)}, rtol=0.1, atol=10.0)
    assert labels.mismatch({"y": np.array([100_001], np.int64)}) is not None
    assert labels.mismatch({"y": np.array([100_000], np.int64)}) is None

    text = Golden({"x": np.zeros(1)}, {"y": np.array(["up", "down"])})
    assert text.mismatch({"y": np.array(["up", "down"], object)}) is None
    assert text.mismatch({"y": np.array(["up", "up"], object)}) is not None
    assert text.max_error({"y": np.array(["up", "up"], object)}) == INF


def test_missing_outputs_and_other_shapes_are_mismatches() -> None:
    assert "not among" in str(rows(1.0).mismatch({"z": np.zeros(1, np.float32)}))
    assert "shape [2]" in str(rows(1.0).mismatch(given(1.0, 1.0)))


@pytest.mark.parametrize("tolerance", [{"rtol": NAN}, {"rtol": -1.0}, {"atol": INF}])
def test_a_tolerance_that_passes_everything_or_nothing_is_refused(tolerance: dict[str, float]) -> None:
    with pytest.raises(PackageError, match="finite number"):
        Golden({"x": np.zeros(1)}, {"y": np.zeros(1)}, **tolerance)


def test_file_round_trip_keeps_every_bit() -> None:
    golden = Golden(
        {"x": np.array([[1.5, NAN]], np.float32), "names": np.array(["a", "longer"])},
        {"y": np.array([[True]]), "z": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))},
        rtol=1e-3,
        atol=1e-7,
    )
    found = read_golden(write_golden(golden))

    assert (found.rtol, found.atol) == (1e-3, 1e-7)
    for before, after in ((golden.inputs, found.inputs), (golden.outputs, found.outputs)):
        assert before.keys() == after.keys()
        for name in before:
            assert before[name].dtype == after[name].dtype
            np.testing.assert_array_equal(before[name], after[name])


def test_equal_rows_give_equal_bytes() -> None:
    forwards = Golden({"a": np.arange(3), "b": np.ones(2)}, {"y": np.zeros((2, 2))})
    backwards = Golden(
        {"b": np.ones(2), "a": np.arange(3)}, {"y": np.asfortranarray(np.zeros((2, 2), np.dtype(">f8")))}
    )
    assert write_golden(forwards) == write_golden(backwards)


def test_numpy_can_read_the_file() -> None:
    with np.load(io.BytesIO(write_golden(rows(1.0))), allow_pickle=False) as archive:
        assert sorted(archive) == ["atol", "input:x", "output:y", "rtol"]


class Exploit:
    """Would run code when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return setattr, (Exploit, "ran", True)


def npz(**members: bytes) -> bytes:
    """A .npz file of these raw members."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return sink.getvalue()


def npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.lib.format.write_array(sink, array, allow_pickle=True)
    return sink.getvalue()


def npy_header(header: bytes, body: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + body


GOOD = {
    "rtol": npy(np.array(0.0)),
    "atol": npy(np.array(0.0)),
    "input:x": npy(np.zeros(1)),
    "output:y": npy(np.ones(1)),
}
ZEROS = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }\n"
BAD_MEMBERS = {
    "pickled object": npy(np.array([Exploit()], object)),
    "raw pickle": pickle.dumps(Exploit()),
    "pickle behind object header": npy_header(
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", pickle.dumps(Exploit())
    ),
    "object field": npy(np.array([(1, Exploit())], [("a", "<i8"), ("b", "O")])),
    "structured": npy(np.zeros(2, [("a", "<i8")])),
    "dates": npy(np.array(["2020-01-01"], "datetime64[D]")),
    "big-endian": npy(np.zeros(2, ">f8")),
    "declares terabytes": npy_header(ZEROS % b"1000000000000,"),
    "declares negative": npy_header(ZEROS % b"-1,", b"\0" * 8),
    "declares too few": npy_header(ZEROS % b"1,", b"\0" * 16),
    "overflowing shape": npy_header(ZEROS % b"4294967296, 4294967296,"),
    "huge header": npy_header(b"{'descr': '<f8', 'x': '" + b"y" * 200_000 + b"'}\n", version=2),
    "nested header": npy_header(b"(" * 9_000, version=2),
    "code as header": npy_header(b"__import__('os').abort()\n"),
    "no header": b"\x93NUMPY",
    "empty": b"",
    "unknown version": b"\x93NUMPY\x09\x00" + b"\0" * 64,
}


@pytest.mark.parametrize("bad", BAD_MEMBERS)
def test_an_array_that_is_not_plain_values_is_refused(bad: str) -> None:
    with pytest.raises(PackageError):
        read_golden(npz(**(GOOD | {"input:x": BAD_MEMBERS[bad]})))
    assert not Exploit.ran


@pytest.mark.parametrize(
    "members",
    [
        {name: data for name, data in GOOD.items() if name != "rtol"},
        {name: data for name, data in GOOD.items() if name != "output:y"},
        {name: data for name, data in GOOD.items() if name != "input:x"},
        GOOD | {"surprise": npy(np.zeros(1))},
        GOOD | {"input:": npy(np.zeros(1))},
        GOOD | {"rtol": npy(np.zeros(2))},
        GOOD | {"rtol": npy(np.array(NAN))},
        GOOD | {"rtol": npy(np.array("0"))},
    ],
    ids=["no rtol", "no outputs", "no inputs", "unknown", "unnamed", "two tolerances", "NaN", "text"],
)
def test_a_file_with_other_arrays_is_refused(members: dict[str, bytes]) -> None:
    with pytest.raises(PackageError):
        read_golden(npz(**members))


def test_a_good_file_is_read() -> None:
    assert read_golden(npz(**GOOD)).mismatch({"y": np.ones(1)}) is None


def npz_declaring(size_bytes: int) -> bytes:
    """A good file, but `input:x` declares another size than it has, in both of its headers."""
    array = npy(np.zeros(1 << 16))
    data, size = npz(**(GOOD | {"input:x": array})), struct.pack("<I", len(array))
    assert data.count(size) == 4  # packed and unpacked size, twice
    return data.replace(size, struct.pack("<I", size_bytes))


def test_what_unpacks_beyond_the_bound_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(*_: object) -> bytes:
        raise AssertionError("was unpacked")

    monkeypatch.setattr(zipfile.ZipFile, "read", unpack)
    with pytest.raises(PackageError, match="unpacks to"):
        read_golden(npz_declaring(1 << 30))


def test_a_member_that_understates_its_size_is_not_believed() -> None:
    with pytest.raises(PackageError):
        read_golden(npz_declaring(200))


def test_a_file_of_too_many_members_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_module, "MAX_ARRAYS", 3)
    with pytest.raises(PackageError, match="4 arrays"):
        read_golden(npz(**GOOD))


def test_a_name_that_appears_twice_is_refused() -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("input:x.npy", GOOD["input:x"])
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("input:x.npy", GOOD["input:x"])
    with pytest.raises(PackageError, match="twice"):
        read_golden(sink.getvalue())


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + b"\0" * 18, b"\x93NUMPY", pickle.dumps({"rtol": 1})])
def test_bytes_that_are_no_archive_are_refused(data: bytes) -> None:
    with pytest.raises(PackageError):
        read_golden(data)
