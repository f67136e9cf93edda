"""Packages from files: tables in every form, specifications, and models of other libraries."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.package import (
    Golden,
    NumericColumn,
    TensorSpec,
    build_from_files,
    check_model,
    read_package,
    read_spec,
    write_golden,
)
from mlops.package.npz import write_arrays
from mlops.package.tables import read_table
from tests.unit.package.builders import FEATURES, ROWS, WEIGHTS, linear_model
from tickserve.errors import ConfigurationError, DataError, PackageError

INPUTS = (TensorSpec(name="features", datatype="FP32", shape=(-1, 3)),)


def write_csv(path: Path, rows: np.ndarray, *, names: tuple[str, ...] = FEATURES, start: str = "2020-01-01") -> Path:
    days = np.datetime64(start) + np.arange(len(rows))
    lines = [",".join(("day", *names))]
    lines += [",".join((str(day), *(repr(float(value)) for value in row))) for day, row in zip(days, rows, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Arguments of `build_from_files` for the linear model."""
    (tmp_path / "model.onnx").write_bytes(linear_model())
    (tmp_path / "golden.npz").write_bytes(
        write_golden(Golden({"features": ROWS[:8]}, {"prediction": ROWS[:8] @ WEIGHTS}))
    )
    return {
        "model": tmp_path / "model.onnx",
        "out": tmp_path / "out",
        "name": "small",
        "reference": write_csv(tmp_path / "train.csv", ROWS[:150]),
        "outputs_reference": write_csv(tmp_path / "later.csv", ROWS[150:], start="2021-01-01"),
        "golden": tmp_path / "golden.npz",
        "time_column": "day",
    }


def test_a_package_from_csv_has_schema_baseline_and_out_of_sample_outputs(files: dict[str, Any]) -> None:
    package = read_package(build_from_files(**files))

    assert check_model(package) < 1e-5
    assert package.manifest.feature_names == FEATURES
    assert {name: (info.rows, info.first) for name, info in package.manifest.datasets.items()} == {
        "train": (150, "2020-01-01"),
        "out_of_sample": (50, "2021-01-01"),
    }
    assert package.baseline is not None
    assert package.baseline.outputs is not None
    [column] = package.baseline.outputs.columns
    assert isinstance(column, NumericColumn)
    assert column.moments()[0] == pytest.approx(float((ROWS[150:] @ WEIGHTS).mean()), rel=1e-5)


def test_csv_and_npz_of_the_same_rows_give_the_same_package(files: dict[str, Any], tmp_path: Path) -> None:
    times = (np.datetime64("2020-01-01", "ns") + np.arange(150) * np.timedelta64(1, "D")).astype(np.int64)
    columns = {name: ROWS[:150, place] for place, name in enumerate(FEATURES)}
    (tmp_path / "train.npz").write_bytes(write_arrays(columns | {"day": times}))
    spec = tmp_path / "spec.toml"
    spec.write_text(f"feature_names = {list(FEATURES)}")
    files |= {"outputs_reference": None, "spec": read_spec(spec)}

    assert build_from_files(**files | {"reference": tmp_path / "train.npz"}) == build_from_files(**files)


def test_tensors_in_npz_need_no_columns(files: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "train.npz").write_bytes(write_arrays({"input:features": ROWS}))
    files |= {"reference": tmp_path / "train.npz", "outputs_reference": None, "time_column": None}

    package = read_package(build_from_files(**files))

    assert package.manifest.feature_names == ()
    assert package.manifest.datasets["train"].order == "unknown"


def test_columns_are_put_into_the_order_of_the_features(files: dict[str, Any], tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(f"feature_names = {list(FEATURES)}")
    swapped = write_csv(tmp_path / "swapped.csv", ROWS[:150, ::-1], names=FEATURES[::-1])
    files |= {"spec": read_spec(spec)}

    assert build_from_files(**files | {"reference": swapped}) == build_from_files(**files)


@pytest.mark.parametrize(
    "rows",
    [ROWS[:150], ROWS[149::-1], ROWS[20:60]],
    ids=["the same rows", "the same rows in another order", "some of the rows"],
)
@pytest.mark.parametrize("time_column", ["day", None])
def test_outputs_on_training_rows_are_no_reference(
    files: dict[str, Any], tmp_path: Path, rows: np.ndarray, time_column: str | None
) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(f"feature_names = {list(FEATURES)}")
    for name, written in (("train", ROWS[:150]), ("again", rows)):
        path = write_csv(tmp_path / f"{name}.csv", written, start="2022-01-01" if name == "again" else "2020-01-01")
        if time_column is None:
            path.write_text("".join(line.partition(",")[2] for line in path.read_text().splitlines(keepends=True)))
    files |= {"outputs_reference": tmp_path / "again.csv", "time_column": time_column, "spec": read_spec(spec)}

    with pytest.raises(
        DataError, match="'out_of_sample' are no reference, because every row of it is a row of 'train'"
    ):
        build_from_files(**files)
    assert not (tmp_path / "out").exists()


def test_a_row_or_two_that_training_had_too_are_no_fault(files: dict[str, Any], tmp_path: Path) -> None:
    mixed = np.concatenate([ROWS[:2], ROWS[150:]])
    write_csv(tmp_path / "later.csv", mixed, start="2021-01-01")

    assert build_from_files(**files).exists()


def test_rows_of_a_few_categories_may_repeat_those_of_training(files: dict[str, Any], tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    write_csv(tmp_path / "train.csv", generator.integers(0, 2, (150, 3)).astype(np.float32))
    write_csv(tmp_path / "later.csv", generator.integers(0, 2, (60, 3)).astype(np.float32), start="2021-01-01")

    assert build_from_files(**files).exists()


def test_everything_in_a_specification_reaches_the_manifest(files: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(
        """
        description = "A linear model."
        author = "somebody"
        task = "regression"
        tags = { desk = "equities" }
        reference_dataset = "fit"
        outputs_dataset = "holdout"
        signal = { output = "prediction", column = 0, scale = 0.5 }
        [input_rules.bounds]
        rsi = { minimum = -100.0, maximum = 100.0, policy = "clip" }
        [[output_rules]]
        name = "sane"
        output = "prediction"
        kind = "range"
        maximum = 1000
        [limits]
        max_rows = 7
        [outcomes]
        kind = "time_series"
        horizons = [{ name = "1d", periods = 1 }]
        periods_per_year = 252
        cost_bp = 1.5
        [training]
        framework = "by hand"
        [metrics.holdout]
        mae = { value = 0.5, standard_error = 0.1, n = 50 }
        """
    )
    manifest = read_package(build_from_files(**files, spec=read_spec(tmp_path / "spec.toml"))).manifest

    assert (manifest.description, manifest.author, manifest.task) == ("A linear model.", "somebody", "regression")
    assert manifest.tags == {"desk": "equities"}
    assert (manifest.baseline_inputs, manifest.baseline_outputs) == ("fit", "holdout")
    assert manifest.signal is not None
    assert manifest.signal.scale == 0.5
    assert manifest.input_rules.bounds["rsi"].policy == "clip"
    assert [rule.name for rule in manifest.output_rules] == ["sane"]
    assert manifest.limits.max_rows == 7
    assert manifest.outcomes is not None
    assert manifest.outcomes.periods_per_year == 252
    assert manifest.training.framework == "by hand"
    assert manifest.metrics["holdout"]["mae"].standard_error == 0.1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not toml", "cannot be read as TOML"),
        ("surprise = 1", "surprise"),
        ("description = 5", "description"),
        ("[limits]\nmax_rows = 0", "max_rows"),
        ("[metrics.a]\nb = {value = nan, n = 1}", "value"),
        ("created = 2020-01-01", "created"),
    ],
)
def test_a_specification_that_cannot_be_meant_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "spec.toml").write_text(content)

    with pytest.raises(ConfigurationError, match=message):
        read_spec(tmp_path / "spec.toml")


def test_an_onnx_file_needs_golden_rows(files: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="needs golden rows"):
        build_from_files(**files | {"golden": None})


def test_golden_rows_may_leave_the_tolerance_to_us(files: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "golden.npz").write_bytes(
        write_arrays({"input:features": ROWS[:8], "output:prediction": ROWS[:8] @ WEIGHTS})
    )
    golden = read_package(build_from_files(**files)).golden

    assert golden is not None
    assert (golden.rtol, golden.atol) == (Golden.rtol, Golden.atol)


def test_golden_rows_of_another_model_are_refused(files: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "golden.npz").write_bytes(write_golden(Golden({"features": ROWS[:8]}, {"prediction": ROWS[:8, :1]})))

    with pytest.raises(PackageError, match="does not repeat"):
        build_from_files(**files)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".pkl", ".h5", ""])
def test_other_model_files_are_refused(files: dict[str, Any], tmp_path: Path, suffix: str) -> None:
    other = (tmp_path / "model.onnx").rename(tmp_path / f"other{suffix}")

    with pytest.raises(ConfigurationError, match=r"\.onnx"):
        build_from_files(**files | {"model": other})


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_boosting_file_answers_its_own_golden_rows(
    files: dict[str, Any], tmp_path: Path, library: str, task: str
) -> None:
    module = pytest.importorskip(library)
    pytest.importorskip("onnxmltools")
    prefix = {"xgboost": "XGB", "lightgbm": "LGBM"}[library]
    kind = getattr(module, prefix + ("Classifier" if task == "classification" else "Regressor"))
    target = ROWS[:150] @ WEIGHTS[:, 0]
    estimator = kind(n_estimators=5, n_jobs=1).fit(ROWS[:150], target > 0 if task == "classification" else target)
    model = tmp_path / {"xgboost": "model.json", "lightgbm": "model.txt"}[library]
    getattr(estimator, "get_booster", lambda: estimator.booster_)().save_model(str(model))

    package = read_package(build_from_files(**files | {"model": model, "golden": None}))

    assert package.manifest.task == task
    assert package.manifest.feature_names == FEATURES
    assert package.golden is not None
    assert len(package.golden.inputs["features"]) == 64
    assert check_model(package) < 1e-4


def test_times_may_be_dates_moments_with_offsets_or_nanoseconds(tmp_path: Path) -> None:
    texts = ["1970-01-02", "1970-01-01T00:00:01.5+00:00", "1970-01-01T02:00:00+02:00", "1970-01-01T00:00:00Z", "77"]
    (tmp_path / "t.csv").write_text("at,x\n" + "".join(f"{text},1\n" for text in texts))

    times = read_table(tmp_path / "t.csv", "at").times

    assert times is not None
    assert times.tolist() == [86_400 * 10**9, 1_500_000_000, 0, 0, 77]


def test_missing_values_in_csv_become_nan(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeffx,y\n1,\nNaN,2\n\nNA, 3 \n", encoding="utf-8")

    rows = read_table(tmp_path / "t.csv").matrix(("x", "y"), np.dtype(np.float32))

    np.testing.assert_array_equal(rows, np.array([[1, np.nan], [np.nan, 2], [np.nan, 3]], np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,x\n1,2\n", "name of its own"),
        ("x,\n1,2\n", "name of its own"),
        ("x,y\n1\n", "row 2: 1 values under 2 names"),
        ("x,y\n1,abc\n", "'abc' is no number"),
        ("", "is empty"),
        ('x,y\n"1,2\n', "no CSV file"),
    ],
)
def test_a_csv_file_that_is_no_table_says_where(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)

    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "t.csv")


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    path.write_bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(2), "y": np.zeros(3)}, "equally long"),
        ({"x": np.zeros((2, 2))}, "one-dimensional"),
        ({"x": np.zeros(2), "input:z": np.zeros(2)}, "mixes"),
        ({"x": np.array([None, 1], object)}, "not a readable"),
    ],
)
def test_an_npz_file_that_is_no_table_says_why(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    save_npz(tmp_path / "t.npz", **arrays)

    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda path: read_table(path.with_suffix(".xlsx")), r"\.csv or"),
        (lambda path: read_table(path.with_name("absent.csv")), "No such file"),
        (lambda path: read_table(path, "when"), "no column 'when'"),
        (lambda path: read_table(path, "a"), "'1.5' is neither ISO 8601"),
        (lambda path: read_table(path).rows("d", INPUTS, ("a", "b", "c")), "columns missing: c; .* no feature: none"),
        (lambda path: read_table(path).rows("d", INPUTS, ("a",)), "columns missing: none; .* no feature: b"),
        (lambda path: read_table(path).rows("d", INPUTS * 2, ("a", "b")), "no single table"),
    ],
)
def test_a_table_that_does_not_fit_says_why(tmp_path: Path, use: Callable[[Path], object], message: str) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1.5,2\n")

    with pytest.raises(DataError, match=message):
        use(tmp_path / "t.csv")


def test_parquet_is_read_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"t\.parquet is no Parquet file"):
        read_table(tmp_path / "t.parquet")
    import pandas

    days = pandas.date_range("1970-01-02", periods=2, tz="UTC")
    pandas.DataFrame({"at": days, "x": [1.0, 2.0]}).to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet", "at")
    assert table.times is not None
    assert table.times.tolist() == [86_400 * 10**9, 2 * 86_400 * 10**9]
