"""The baseline: blocks in time order, columns of every kind, and the file's worked example."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mlops.package import (
    CategoricalColumn,
    NumericColumn,
    ReferenceRows,
    TensorSpec,
    bin_counts,
    bin_sums,
    make_baseline,
    read_baseline,
    write_baseline,
)
from tickserve.errors import DataError, PackageError

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "formats" / "package.md"
FEATURES = (TensorSpec(name="features", datatype="FP32", shape=(-1, 2)),)
OUTPUTS = (TensorSpec(name="prediction", datatype="FP32", shape=(-1, 1)),)
NAMES = ("a", "b")


def rows(count: int = 100, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)


def inputs_baseline(features: np.ndarray, times: np.ndarray | None = None, categorical: tuple[str, ...] = ()):
    return make_baseline(
        FEATURES,
        OUTPUTS,
        ReferenceRows("train", {"features": features}, times),
        None,
        feature_names=NAMES,
        categorical=categorical,
    ).inputs


def days(count: int) -> np.ndarray:
    return np.datetime64("2020-01-01") + np.arange(count)


def test_worked_example_of_the_document_is_what_the_code_writes() -> None:
    [block] = re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    made = make_baseline(
        (TensorSpec(name="features", datatype="FP32", shape=(-1, 1)),),
        (TensorSpec(name="label", datatype="INT64", shape=(-1,)),),
        ReferenceRows("train", {"features": np.array([[-1.5], [2.5], [4.0], [math.nan], [1.0], [2.5]], np.float32)}),
        ReferenceRows("test", {"label": np.array([0, 1, 1], np.int64)}),
        feature_names=("momentum",),
    )
    assert json.loads(write_baseline(made)) == json.loads(block)

    [column] = read_baseline(block.encode()).inputs.columns
    assert isinstance(column, NumericColumn)
    assert column.moments() == pytest.approx((1.7, 1.8601), abs=1e-4)
    window = np.array([math.nan, -math.inf, -1.5, 2.5, 4.0, 4.5, math.inf], np.float32)
    assert bin_counts(window, column.edge_array()).tolist() == [1, 1, 0, 1, 1, 2, 1]
    assert bin_sums(window, column.edge_array(), column.scale_exponent)[-1] == 281513631416320


def test_there_are_fifty_blocks_in_time_order_whatever_the_order_of_the_rows() -> None:
    features, times = rows(1000), days(1000)
    shuffled = np.random.default_rng(1).permutation(1000)

    found = inputs_baseline(features[shuffled], times[shuffled])

    assert found == inputs_baseline(features, times)
    assert found.order == "time"
    assert len(found.blocks) == 50
    assert {block.rows for block in found.blocks} == {20}
    day_ns = 86_400 * 10**9
    first = int(times[0].astype("datetime64[ns]").astype(np.int64))
    assert [(block.first_unix_ns, block.last_unix_ns) for block in found.blocks[:2]] == [
        (str(first), str(first + 19 * day_ns)),
        (str(first + 20 * day_ns), str(first + 39 * day_ns)),
    ]
    column = found.columns[1]
    assert isinstance(column, NumericColumn)
    assert column.counts[3] == tuple(bin_counts(features[60:80, 1], column.edge_array()).tolist())


def test_rows_of_one_time_stay_in_one_block() -> None:
    times = np.repeat(days(75), np.arange(75) % 5 + 1)

    blocks = inputs_baseline(rows(len(times)), times).blocks

    assert len(blocks) == 50
    ends = [(int(block.first_unix_ns or 0), int(block.last_unix_ns or 0)) for block in blocks]
    assert all(last < first for (_, last), (first, _) in pairwise(ends))
    assert sum(block.rows for block in blocks) == len(times)


def test_without_times_the_order_is_unknown_and_there_is_one_block() -> None:
    found = inputs_baseline(rows(30))

    assert found.order == "unknown"
    assert [(block.rows, block.first_unix_ns) for block in found.blocks] == [(30, None)]


def test_too_few_times_for_blocks_is_refused() -> None:
    with pytest.raises(DataError, match="49 distinct times, a time-ordered baseline needs 50"):
        inputs_baseline(rows(98), np.repeat(days(49), 2))


def test_names_are_the_features_or_the_tensor_and_column() -> None:
    made = make_baseline(
        FEATURES,
        OUTPUTS,
        ReferenceRows("train", {"features": rows()}),
        ReferenceRows("test", {"prediction": rows()[:, :1]}),
        feature_names=NAMES,
    )
    assert [column.name for column in made.inputs.columns] == ["a", "b"]
    assert made.outputs is not None
    assert [column.name for column in made.outputs.columns] == ["prediction[0]"]


def test_a_sequence_counts_its_newest_step() -> None:
    spec = (TensorSpec(name="features", datatype="FP32", shape=(-1, 5, 2)),)
    steps = np.random.default_rng(0).normal(size=(40, 5, 2)).astype(np.float32)

    newest = make_baseline(spec, OUTPUTS, ReferenceRows("train", {"features": steps}), None, feature_names=NAMES)

    assert newest.inputs == inputs_baseline(steps[:, -1, :])


def test_text_booleans_and_few_whole_numbers_are_categories() -> None:
    specs = (
        TensorSpec(name="symbol", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="open", datatype="BOOL", shape=(-1,)),
        TensorSpec(name="side", datatype="INT8", shape=(-1, 1)),
        TensorSpec(name="volume", datatype="INT64", shape=(-1,)),
    )
    tensors = {
        "symbol": np.array(["B", "A", "B"] * 50),
        "open": np.array([True, False, True] * 50),
        "side": np.array([[-1], [1], [1]] * 50, np.int8),
        "volume": np.arange(150, dtype=np.int64),
    }
    columns = make_baseline(specs, OUTPUTS, ReferenceRows("train", tensors), None).inputs.columns

    assert [column.kind for column in columns] == ["categorical", "categorical", "categorical", "numeric"]
    found = [(column.categories, column.counts[0]) for column in columns if isinstance(column, CategoricalColumn)]
    assert found == [
        (("A", "B"), (50, 100, 0, 0)),
        ((0, 1), (50, 100, 0, 0)),
        ((-1, 1), (50, 100, 0, 0)),
    ]


def test_a_named_float_column_of_whole_numbers_is_categorical() -> None:
    features = np.array([[1, 0.5], [2, 0.5], [2, math.nan], [math.nan, 0.5]] * 10, np.float32)

    sector, other = inputs_baseline(features, categorical=("a",)).columns

    assert isinstance(sector, CategoricalColumn)
    assert (sector.categories, sector.counts) == ((1, 2), ((10, 20, 0, 10),))
    assert other.kind == "numeric"


@pytest.mark.parametrize(
    ("features", "categorical", "message"),
    [
        (np.array([[1, math.inf]], np.float32), (), "'b' is infinite in row 0"),
        (np.array([[math.nan, 1]], np.float32), (), "'a' has no value"),
        (np.array([[0.5, 1]], np.float32), ("a",), "'a' is categorical, but holds fractions"),
        (np.array([[1, 1]], np.float32), ("c",), "unknown columns: c"),
        (np.array([[1, 1]], np.float64), (), "float64"),
        (np.array([[1, 1, 1]], np.float32), (), "2 feature_names"),
        (np.array([[[1, 1]]], np.float32), (), "shape"),
    ],
)
def test_rows_that_make_no_baseline_say_why(features: np.ndarray, categorical: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        inputs_baseline(features, categorical=categorical)


def test_other_tensors_than_the_schema_has_are_refused() -> None:
    with pytest.raises(DataError, match="has tensors"):
        make_baseline(FEATURES, OUTPUTS, ReferenceRows("train", {"other": rows()}), None)


@pytest.mark.parametrize(
    "times",
    [
        days(99),
        days(100).reshape(100, 1),
        np.arange(100.0),
        np.array(["2020-01-01"] * 100),
        np.where(np.arange(100) == 5, np.datetime64("NaT"), days(100)),
    ],
    ids=["fewer", "rank", "floats", "text", "NaT"],
)
def test_times_must_be_one_moment_a_row(times: np.ndarray) -> None:
    with pytest.raises(DataError):
        ReferenceRows("train", {"features": rows(100)}, times)


@pytest.mark.parametrize("tensors", [{}, {"a": rows(0)}, {"a": rows(2), "b": rows(3)}, {"a": np.float32(1.0)}])
def test_tensors_must_have_equally_many_rows(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match="same number of rows"):
        ReferenceRows("train", tensors)


def test_fingerprint_changes_with_anything_that_the_rows_say() -> None:
    base = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}
    times = days(3)
    variants = [
        ReferenceRows("train", base, times),
        ReferenceRows("train", base, times + 1),
        ReferenceRows("train", base),
        ReferenceRows("train", {"y": base["x"]}, times),
        ReferenceRows("train", {"x": base["x"] + 1}, times),
        ReferenceRows("train", {"x": base["x"].astype(np.float64)}, times),
        ReferenceRows("train", {"x": base["x"].reshape(3, 2, 1)}, times),
    ]
    assert len({variant.fingerprint() for variant in variants}) == len(variants)
    same = ReferenceRows("other name", {"x": np.asfortranarray(base["x"])}, times.astype("datetime64[ns]"))
    assert same.fingerprint() == variants[0].fingerprint()


def test_description_names_first_and_last_time() -> None:
    tensors = {"x": np.zeros((2, 1))}
    daily = ReferenceRows("d", tensors, np.array(["2020-01-02", "2020-01-01"], "datetime64[D]")).describe()
    intraday = ReferenceRows("d", tensors, np.array([0, 1_500_000_000], np.int64)).describe()

    assert (daily.order, daily.rows, daily.first, daily.last) == ("time", 2, "2020-01-01", "2020-01-02")
    assert (intraday.first, intraday.last) == ("1970-01-01", "1970-01-01T00:00:01.500Z")
    assert ReferenceRows("d", tensors).describe().order == "unknown"


GOOD = json.loads(write_baseline(make_baseline(FEATURES, OUTPUTS, ReferenceRows("train", {"features": rows()}), None)))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("columns", 0, "edges", 1), 1e9, "do not increase"),
        (("columns", 0, "edges", 0), -100.1, "no FP32 values"),
        (("columns", 0, "datatype"), "BOOL", "no BOOL values"),
        (("columns", 0, "counts", 0, 3), 0, "do not add up"),
        (("columns", 0, "counts", 0), [100], "counts a block"),
        (("columns", 0, "sums"), ["1"], "sums"),
        (("columns", 0, "sum_squares"), "1e5", "sum_squares"),
        (("columns", 0, "kind"), "guess", "kind"),
        (("blocks",), [], "blocks"),
        (("order",), "time", "need their first and last time"),
    ],
)
def test_a_baseline_that_contradicts_itself_is_refused(
    place: tuple[str | int, ...], value: object, message: str
) -> None:
    bad = json.loads(json.dumps(GOOD))
    inner = bad["inputs"]
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value

    with pytest.raises(PackageError, match=message):
        read_baseline(json.dumps(bad).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\x80", b"[" * 100_000])
def test_bytes_that_are_no_baseline_are_refused(data: bytes) -> None:
    with pytest.raises(PackageError):
        read_baseline(data)
