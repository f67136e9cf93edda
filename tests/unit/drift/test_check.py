"""Data sets against a package: as DataFrames and as files."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from mlops.drift import DriftSpec, WindowResult, check
from mlops.package import Package, ReferenceRows, TensorSpec, make_baseline, read_package
from mlops.package.manifest import make_manifest
from tests.unit.package.builders import FEATURES, ROWS, TIMES, WEIGHTS, build_small
from tickserve.cli import drift
from tickserve.errors import ConfigurationError, DataError, PackageError


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return read_package(build_small(tmp_path_factory.mktemp("packages")))


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = np.random.default_rng(9).normal(size=(200, 3)).astype(np.float32)
    return pd.DataFrame(rows, columns=list(FEATURES), index=pd.DatetimeIndex(TIMES + 1000))


def states(results: list[WindowResult]) -> dict[str, str]:
    return {decision.column: decision.state for decision in results[0].decisions}


def test_a_frame_like_the_reference_is_fine_and_one_that_moved_is_not(package: Package, frame: pd.DataFrame) -> None:
    assert states(check(frame, package)) == dict.fromkeys(FEATURES, "ok")
    frame["rsi"] += 3
    assert states(check(frame, package)) == {"momentum": "ok", "rsi": "critical", "volume": "ok"}


def test_columns_go_by_name_and_rows_by_time(package: Package, frame: pd.DataFrame) -> None:
    shuffled = frame.sample(frac=1.0, random_state=1)[["volume", "rsi", "momentum"]]
    assert check(shuffled, package) == check(frame, package)
    zoned = frame.tz_localize("UTC").tz_convert("America/New_York")
    assert check(zoned, package) == check(frame, package)
    named = frame.reset_index(names="when")
    assert check(named, package, time_column="when") == check(frame, package)
    named["when"] = named["when"].astype("datetime64[ns]").astype("int64")
    assert check(named, package, time_column="when") == check(frame, package)


def test_outputs_are_compared_where_they_are_given(package: Package, frame: pd.DataFrame) -> None:
    frame["prediction[0]"] = frame[list(FEATURES)].to_numpy() @ WEIGHTS
    found = states(check(frame, package))
    assert found == dict.fromkeys([*FEATURES, "prediction[0]"], "ok")
    frame["prediction[0]"] += 40
    assert states(check(frame, package))["prediction[0]"] == "critical"


def test_few_rows_are_insufficient_never_fine(package: Package, frame: pd.DataFrame) -> None:
    for rows in (1, 10, 19):
        [result] = check(frame[:rows], package)
        assert result.state == "insufficient"
        assert result.rows == rows


def test_the_reference_itself_is_no_drift(package: Package) -> None:
    frame = pd.DataFrame(ROWS, columns=list(FEATURES))
    [result] = check(frame, package)
    psi = result.figure("input", "rsi", "psi")
    assert psi.value == 0
    assert psi.p == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.drop(columns="rsi"), "columns missing: rsi"),
        (lambda frame: frame.assign(extra=1.0), "neither feature nor output: extra"),
        (lambda frame: frame.assign(rsi="high"), "'rsi' holds what is no number"),
        (lambda frame: frame[:0], "no rows"),
    ],
)
def test_data_that_do_not_fit_are_refused(package: Package, frame: pd.DataFrame, change: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        check(change(frame), package)  # type: ignore[operator]


def test_times_that_are_none_are_refused(package: Package, frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="no column 'when'"):
        check(frame, package, time_column="when")
    with pytest.raises(DataError, match="datetime64 or Unix nanoseconds"):
        check(frame.assign(when=0.5), package, time_column="when")
    with pytest.raises(DataError, match="NaT"):
        check(frame.assign(when=pd.NaT), package, time_column="when")


def test_a_package_without_a_baseline_is_refused(package: Package, frame: pd.DataFrame) -> None:
    from dataclasses import replace

    with pytest.raises(PackageError, match="no baseline"):
        check(frame, replace(package, baseline=None))


def test_windows_may_be_named(package: Package, frame: pd.DataFrame) -> None:
    results = check(frame, package, spec=DriftSpec(rows=80))
    assert [result.rows for result in results] == [80, 80, 40]


app = typer.Typer()
app.add_typer(drift.app, name="drift")


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["drift", *map(str, arguments)], env={"COLUMNS": "120"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_a_critical_column_is_exit_code_1(package: Package, frame: pd.DataFrame, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.parquet"
    frame.to_csv(good, index_label="time")
    frame.assign(volume=7.0, time=frame.index).to_parquet(bad, index=False)

    assert run("check", package.path, good, "--time-column", "time")[0] == 0
    code, told = run("check", package.path, bad, "--time-column", "time", "--json")
    assert code == 1
    [window] = [WindowResult.from_dict(each) for each in json.loads(told)["windows"]]
    assert states([window])["volume"] == "critical"
    assert window == check(frame.assign(volume=7.0), package)[0]
    code, told = run("check", package.path, bad, "--time-column", "time")
    assert code == 1
    assert "volume: drifts since 2022-09-27" in told


@pytest.mark.parametrize("command", ["check", "calibrate"])
def test_a_narrow_screen_hides_no_name(package: Package, frame: pd.DataFrame, tmp_path: Path, command: str) -> None:
    frame[:10].to_csv(tmp_path / "few.csv", index=False)
    data = [tmp_path / "few.csv"] if command == "check" else ["--window", "count:200"]
    told = CliRunner().invoke(app, ["drift", command, *map(str, [package.path, *data])], env={"COLUMNS": "40"}).stdout
    assert all(f"\n {name} " in told for name in FEATURES), told


def test_insufficient_windows_are_told_with_their_reason(package: Package, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame[:30].to_csv(tmp_path / "few.csv", index=False)
    code, told = run("check", package.path, tmp_path / "few.csv", "--window", "count:40")
    assert code == 0
    assert "30 rows: insufficient" in told
    assert "15 sub-blocks with rows, 20 are needed" in told


def test_a_file_may_hold_categories_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    inputs = (TensorSpec(name="venue", datatype="BYTES", shape=(-1, 1)),)
    outputs = (TensorSpec(name="values", datatype="FP32", shape=(-1, 1)),)
    manifest = make_manifest(name="demo", inputs=inputs, outputs=outputs, feature_names=("venue",), files={})
    venues = generator.choice(["XNYS", "XNAS", "ARCX"], 2000)
    times = np.arange(len(venues)) * 86_400 * 10**9
    reference = ReferenceRows("train", {"venue": venues[:, None]}, times)
    baseline = make_baseline(inputs, outputs, reference, None, feature_names=("venue",))
    package = SimpleNamespace(manifest=manifest, baseline=baseline, digest=manifest.digest, path=tmp_path)
    # The module, which the command of the same name stands in front of.
    monkeypatch.setattr(sys.modules["tickserve.cli.drift.check"], "open_package", lambda folder: (package, baseline))

    for names, expected in ((["XNYS", "XNAS", "ARCX"], "ok"), (["XNYS", "XNAS", "BATS"], "critical")):
        pd.DataFrame({"venue": generator.choice(names, 300)}).to_csv(tmp_path / "venues.csv", index=False)
        _, told = run("check", tmp_path, tmp_path / "venues.csv", "--json")
        assert states([WindowResult.from_dict(each) for each in json.loads(told)["windows"]]) == {"venue": expected}


def test_bad_usage_is_refused_before_anything_is_read(package: Package, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "good.csv", index=False)
    for window in ("week", "count:", "count:x", "time:5y", "session:"):
        with pytest.raises(ConfigurationError, match="count:ROWS"):
            run("check", package.path, tmp_path / "good.csv", "--window", window)
    frame.drop(columns="rsi").to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(DataError, match="columns missing: rsi"):
        run("check", package.path, tmp_path / "short.csv")


def test_calibrate_prints_thresholds_that_check_uses(package: Package, frame: pd.DataFrame, tmp_path: Path) -> None:
    code, told = run("calibrate", package.path, "--window", "count:200", "--json")
    assert code == 0
    found = json.loads(told)
    frame.to_csv(tmp_path / "good.csv", index_label="time")
    _, checked = run("check", package.path, tmp_path / "good.csv", "--time-column", "time", "--json")
    decisions = json.loads(checked)["windows"][0]["decisions"]
    assert {each["column"]: each["warning"] for each in decisions} == {
        each["column"]: each["warning"] for each in found["columns"] if each["side"] == "input"
    }
    code, told = run("calibrate", package.path)
    assert code == 0
    assert "the budget is 4.06" in told
