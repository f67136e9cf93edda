"""Reading a package: a good one gives what was built, and every bad one is refused with the place named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rfc8785
from onnx import TensorProto, helper

from mlops.package import (
    BASELINE_FILE,
    DIGEST_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Golden,
    TensorSpec,
    read_bare_model,
    read_package,
    write_golden,
)
from mlops.package.verify import MAX_BYTES, witness_file
from tests.unit.package.builders import FEATURES, ROWS, WEIGHTS, copy_as, linear_model, rewrite, seal
from tickserve.errors import DamagedPackageError, PackageError

PAYLOAD = (MODEL_FILE, GOLDEN_FILE, BASELINE_FILE)


def test_package_reads_back_what_was_built(package: Path) -> None:
    found = read_package(package)

    assert found.digest == package.name == found.manifest.digest
    assert found.model == linear_model()
    assert found.manifest.feature_names == FEATURES
    assert found.manifest.inputs == (TensorSpec(name="features", datatype="FP32", shape=(-1, 3)),)
    assert found.manifest.outputs == (TensorSpec(name="prediction", datatype="FP32", shape=(-1, 1)),)
    assert found.golden is not None
    assert found.golden.mismatch({"prediction": ROWS[:8] @ WEIGHTS}) is None
    assert found.baseline is not None
    assert [column.name for column in found.baseline.inputs.columns] == list(FEATURES)


def test_a_package_works_under_any_name_with_or_without_its_witness(package: Path, tmp_path: Path) -> None:
    copy = copy_as(package, tmp_path / "3")
    assert read_package(copy).digest == package.name

    (copy / DIGEST_FILE).unlink()
    assert read_package(copy).digest == package.name


@pytest.mark.parametrize("name", [*PAYLOAD, MANIFEST_FILE])
def test_a_missing_file_is_named(package: Path, tmp_path: Path, name: str) -> None:
    copy = copy_as(package, tmp_path / "1")
    (copy / name).unlink()

    with pytest.raises(DamagedPackageError, match=f"{name} is missing") as caught:
        read_package(copy)
    assert caught.value.field == name


@pytest.mark.parametrize("name", ["model.onnx.data", ".hidden", "README"])
def test_an_extra_file_is_refused(package: Path, tmp_path: Path, name: str) -> None:
    copy = copy_as(package, tmp_path / "1")
    (copy / name).write_bytes(b"")

    with pytest.raises(DamagedPackageError, match="no file of a package") as caught:
        read_package(copy)
    assert caught.value.field == name


def test_a_sub_folder_is_refused(package: Path, tmp_path: Path) -> None:
    copy = copy_as(package, tmp_path / "1")
    (copy / "more").mkdir()

    with pytest.raises(DamagedPackageError, match="'more'"):
        read_package(copy)


def replace_by_symlink(path: Path) -> None:
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("replace", [replace_by_symlink, replace_by_pipe, replace_by_folder])
@pytest.mark.parametrize("name", [*PAYLOAD, MANIFEST_FILE, DIGEST_FILE])
def test_only_regular_files_are_read(package: Path, tmp_path: Path, name: str, replace: Callable[[Path], None]) -> None:
    copy = copy_as(package, tmp_path / "1")
    replace(copy / name)

    with pytest.raises(DamagedPackageError, match="regular file") as caught:
        read_package(copy)
    assert caught.value.field == name


@pytest.mark.parametrize("name", MAX_BYTES)
def test_a_file_over_its_bound_is_refused_unread(package: Path, tmp_path: Path, name: str) -> None:
    copy = copy_as(package, tmp_path / "1")
    (copy / name).touch()
    os.truncate(copy / name, MAX_BYTES[name] + 1)  # sparse: takes no space

    with pytest.raises(DamagedPackageError, match="at most") as caught:
        read_package(copy)
    assert caught.value.field == name


@pytest.mark.parametrize("name", PAYLOAD)
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_a_cut_or_longer_file_is_damaged(
    package: Path, tmp_path: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    copy = copy_as(package, tmp_path / "1")
    (copy / name).write_bytes(change((copy / name).read_bytes()))

    with pytest.raises(DamagedPackageError, match="is damaged") as caught:
        read_package(copy)
    assert caught.value.field == name


def test_a_truncated_model_is_refused_even_where_its_hash_is_right(package: Path, tmp_path: Path) -> None:
    bad = rewrite(package, tmp_path, {MODEL_FILE: linear_model()[:-7]})

    with pytest.raises(PackageError, match="no ONNX file, or is cut short"):
        read_package(bad)


def test_the_folder_name_must_be_the_digest(package: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedPackageError, match="folder's name says another"):
        read_package(copy_as(package, tmp_path / ("0" * 64)))


def test_a_manifest_that_is_not_the_witnessed_one_is_damaged(package: Path, tmp_path: Path) -> None:
    copy = copy_as(package, tmp_path / "1")
    other = rewrite(package, tmp_path, {}, description="another")
    shutil.copy(other / MANIFEST_FILE, copy / MANIFEST_FILE)

    with pytest.raises(DamagedPackageError, match=r"manifest.sha256 says another"):
        read_package(copy)


def test_the_witness_is_what_sha256sum_writes(package: Path) -> None:
    assert witness_file(package.name) == (package / DIGEST_FILE).read_bytes()
    assert witness_file(package.name).decode() == f"{package.name}  {MANIFEST_FILE}\n"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.replace(b'{"author"', b'{ "author"'),
        lambda data: data + b"\n",
        lambda data: data.replace(b'"author":""', b'"author":"","author":""'),
        lambda data: data.replace(b'"format":1,', b'"format":1.0,'),
        lambda data: json.dumps(json.loads(data), indent=1).encode(),
    ],
    ids=["space", "newline", "duplicate", "number", "indented"],
)
def test_a_manifest_that_is_not_canonical_is_refused(
    package: Path, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    bad = seal(package, tmp_path, {}, spoil((package / MANIFEST_FILE).read_bytes()))

    with pytest.raises(PackageError):
        read_package(bad)


def with_entries(package: Path, out: Path, **entries: object) -> Path:
    """A package whose manifest has these entries, checked by nobody."""
    manifest = json.loads((package / MANIFEST_FILE).read_bytes()) | entries
    return seal(package, out, {}, rfc8785.dumps(manifest))


@pytest.mark.parametrize(
    "name", ["../small", "small/../../etc", "/etc", "a..b", ".small", "", "Small", "a" * 65, "a\n"]
)
def test_a_name_that_could_leave_its_folder_is_refused(package: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageError, match="model name"):
        read_package(with_entries(package, tmp_path, name=name))


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd", "model.onnx.data", MANIFEST_FILE])
def test_the_manifest_names_no_other_files(package: Path, tmp_path: Path, file: str) -> None:
    entry = {"sha256": "0" * 64, "size_bytes": 1}
    files = json.loads((package / MANIFEST_FILE).read_bytes())["files"]

    with pytest.raises(PackageError, match="exactly"):
        read_package(with_entries(package, tmp_path, files=files | {file: entry}))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"surprise": 1}, "surprise"),
        ({"format": 2}, "format"),
        ({"inputs": []}, "inputs"),
        ({"files": {}}, "exactly"),
        ({"signal": {"output": "prediction", "column": 1, "scale": 1, "offset": 0}}, "takes column 1"),
        ({"signal": {"output": "absent", "column": None, "scale": 1, "offset": 0}}, "unknown output 'absent'"),
        ({"feature_names": ["a", "b"]}, "2 feature_names"),
        ({"feature_names": ["a", "b", "a"]}, "'a' appears twice"),
        ({"baseline_inputs": "absent"}, "unknown data set 'absent'"),
        ({"baseline_inputs": "test"}, "inputs are not of data set 'test'"),
        ({"metrics": {"absent": {}}}, "unknown data set 'absent'"),
        ({"task": "guessing"}, "task"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    package: Path, tmp_path: Path, entries: dict[str, object], message: str
) -> None:
    with pytest.raises(PackageError, match=message):
        read_package(with_entries(package, tmp_path, **entries))


def renamed_input(model: object) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "rows_of_features"


def other_datatype(model: object) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE


def fixed_rows(model: object) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def wider_output(model: object) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2


def second_output(model: object) -> None:
    model.graph.node.append(helper.make_node("Identity", ["prediction"], ["copy"]))
    model.graph.output.append(helper.make_tensor_value_info("copy", TensorProto.FLOAT, ["rows", 1]))


@pytest.mark.parametrize("edit", [renamed_input, other_datatype, fixed_rows, wider_output, second_output])
def test_a_graph_that_contradicts_the_manifest_is_refused(
    package: Path, tmp_path: Path, edit: Callable[[object], None]
) -> None:
    bad = rewrite(package, tmp_path, {MODEL_FILE: linear_model(edit)})

    with pytest.raises(PackageError, match=r"model.onnx contradicts manifest.json"):
        read_package(bad)


@pytest.mark.parametrize(
    "golden",
    [
        Golden({"features": ROWS[:2]}, {"other": ROWS[:2] @ WEIGHTS}),
        Golden({"features": ROWS[:2, :2]}, {"prediction": ROWS[:2] @ WEIGHTS}),
        Golden({"features": ROWS[:2].astype(np.float64)}, {"prediction": ROWS[:2] @ WEIGHTS}),
        Golden({"features": ROWS[:0]}, {"prediction": ROWS[:0] @ WEIGHTS}),
        Golden({"features": ROWS[0]}, {"prediction": ROWS[:2] @ WEIGHTS}),
    ],
    ids=["name", "width", "datatype", "empty", "rank"],
)
def test_golden_rows_that_do_not_fit_the_schema_are_refused(package: Path, tmp_path: Path, golden: Golden) -> None:
    bad = rewrite(package, tmp_path, {GOLDEN_FILE: write_golden(golden)})

    with pytest.raises(PackageError, match="the schema"):
        read_package(bad)


def test_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="does not exist"):
        read_package(tmp_path / "absent")


def test_a_bare_model_gets_a_manifest_of_its_graph(tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_bytes(linear_model())

    found = read_bare_model(tmp_path, "bare")

    assert found.manifest.name == "bare"
    assert found.manifest.inputs[0].shape == (-1, 3)
    assert found.manifest.input_rules.finite
    assert found.manifest.output_rules == ()
    assert found.digest == found.manifest.digest
    assert found.golden is None
    assert found.model == linear_model()


def test_the_digest_of_a_bare_model_follows_its_bytes_and_name(tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_bytes(linear_model())
    first, other_name = read_bare_model(tmp_path, "bare").digest, read_bare_model(tmp_path, "other").digest
    (tmp_path / MODEL_FILE).write_bytes(linear_model(lambda model: setattr(model, "doc_string", "changed")))

    assert len({first, other_name, read_bare_model(tmp_path, "bare").digest}) == 3


def test_a_package_that_lost_its_manifest_is_no_bare_model(package: Path, tmp_path: Path) -> None:
    copy = copy_as(package, tmp_path / "1")
    (copy / MANIFEST_FILE).unlink()

    with pytest.raises(DamagedPackageError, match="no whole package"):
        read_bare_model(copy, "small")


@pytest.mark.parametrize("name", ["../up", "Upper", ""])
def test_a_bare_model_needs_a_model_name(tmp_path: Path, name: str) -> None:
    (tmp_path / MODEL_FILE).write_bytes(linear_model())

    with pytest.raises(PackageError, match="model name"):
        read_bare_model(tmp_path, name)
