"""`tickserve package`: what it prints, and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops.package import GOLDEN_FILE, MODEL_FILE, Golden, write_golden
from tests.unit.package.builders import ROWS, WEIGHTS, build_small, copy_as, linear_model, rewrite
from tests.unit.package.test_from_files import write_csv
from tickserve.cli.package import app
from tickserve.errors import DamagedPackageError

RUNNER = CliRunner()
ROOT = Path(__file__).resolve().parents[3]


def tickserve(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The real program."""
    return subprocess.run(
        [sys.executable, "-c", "from tickserve.cli import main; main()", "package", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.fixture
def build_arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "model.onnx").write_bytes(linear_model())
    (tmp_path / "golden.npz").write_bytes(
        write_golden(Golden({"features": ROWS[:8]}, {"prediction": ROWS[:8] @ WEIGHTS}))
    )
    (tmp_path / "spec.toml").write_text('description = "from the command line"')
    write_csv(tmp_path / "train.csv", ROWS[:150])
    write_csv(tmp_path / "later.csv", ROWS[150:], start="2021-01-01")
    options = {
        "--name": "small",
        "--reference": tmp_path / "train.csv",
        "--outputs-reference": tmp_path / "later.csv",
        "--golden": tmp_path / "golden.npz",
        "--time-column": "day",
        "--spec": tmp_path / "spec.toml",
        "--out": tmp_path / "out",
    }
    return ["build", str(tmp_path / "model.onnx"), *(str(each) for option in options.items() for each in option)]


def test_build_writes_a_package_that_inspect_and_verify_take(build_arguments: list[str], tmp_path: Path) -> None:
    built = RUNNER.invoke(app, [*build_arguments, "--json"], catch_exceptions=False)
    answer = json.loads(built.stdout)
    folder = tmp_path / "out" / answer["digest"]
    assert answer["path"] == str(folder)
    assert answer["max_error"] < 1e-5

    shown = json.loads(RUNNER.invoke(app, ["inspect", str(folder), "--json"], catch_exceptions=False).stdout)
    assert shown["digest"] == answer["digest"]
    assert shown["manifest"]["description"] == "from the command line"

    verified = RUNNER.invoke(app, ["verify", str(folder), "--json"], catch_exceptions=False)
    assert verified.exit_code == 0
    assert json.loads(verified.stdout) == {"ok": True, "digest": answer["digest"], "max_error": answer["max_error"]}


def test_build_says_where_the_package_is(build_arguments: list[str], tmp_path: Path) -> None:
    built = RUNNER.invoke(app, build_arguments, catch_exceptions=False)

    [name] = os.listdir(tmp_path / "out")
    assert built.exit_code == 0
    assert built.stdout.splitlines()[0] == str(tmp_path / "out" / name)


def test_inspect_shows_schema_rules_data_metrics_and_digests(tmp_path: Path) -> None:
    from mlops.package import Bounds, InputRules, Metric

    folder = build_small(
        tmp_path,
        description="with [brackets]",
        input_rules=InputRules(bounds={"rsi": Bounds(minimum=-50.0, policy="clip")}),
        metrics={"test": {"auc": Metric(value=0.512, standard_error=0.021, n=100)}},
    )

    shown = RUNNER.invoke(app, ["inspect", str(folder)], catch_exceptions=False, env={"COLUMNS": "200"}).stdout

    for expected in (
        folder.name,
        "with [brackets]",
        "[-1, 3]",
        "momentum, rsi, volume",
        "prediction_finite",
        "-50",
        "clip",
        "0.512",
        "0.021",
        "2020-01-01",
        MODEL_FILE,
    ):
        assert expected in shown


def test_verify_names_the_damaged_file_and_exits_1(package: Path, tmp_path: Path) -> None:
    copy = copy_as(package, tmp_path / "1")
    os.truncate(copy / GOLDEN_FILE, 100)

    result = RUNNER.invoke(app, ["verify", str(copy), "--json"])

    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert (answer["ok"], answer["is_damaged"], answer["field"]) == (False, True, GOLDEN_FILE)
    assert "is damaged" in answer["error"]
    assert isinstance(RUNNER.invoke(app, ["verify", str(copy)]).exception, DamagedPackageError)


def test_verify_runs_the_golden_rows(package: Path, tmp_path: Path) -> None:
    wrong = Golden({"features": ROWS[:8]}, {"prediction": ROWS[:8] @ WEIGHTS + 1})
    result = RUNNER.invoke(
        app, ["verify", str(rewrite(package, tmp_path, {GOLDEN_FILE: write_golden(wrong)})), "--json"]
    )

    assert result.exit_code == 1
    assert json.loads(result.stdout)["is_damaged"] is False
    assert "does not repeat" in json.loads(result.stdout)["error"]


def test_training_rows_as_the_reference_of_outputs_exit_2(build_arguments: list[str], tmp_path: Path) -> None:
    in_sample = [str(tmp_path / "train.csv") if each.endswith("later.csv") else each for each in build_arguments]

    refused = tickserve(*in_sample)

    assert refused.returncode == 2
    assert "give outputs on rows that the model was not trained on" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_exit_codes_of_the_program(package: Path, tmp_path: Path, build_arguments: list[str]) -> None:
    copy = copy_as(package, tmp_path / "1")
    os.truncate(copy / MODEL_FILE, 100)

    assert tickserve("verify", package).returncode == 0
    damaged = tickserve("verify", copy)
    assert damaged.returncode == 1
    assert "model.onnx is damaged" in damaged.stderr
    assert "Traceback" not in damaged.stderr
    assert tickserve("verify", tmp_path / "absent").returncode == 2

    (tmp_path / "spec.toml").write_text("surprise = 1")
    refused = tickserve(*build_arguments)
    assert refused.returncode == 2
    assert "surprise" in refused.stderr
