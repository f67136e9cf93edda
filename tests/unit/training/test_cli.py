"""`tickserve train` prints figures with their errors, and leaves versions behind."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mlops.package import read_package
from tickserve.cli.train import train
from tickserve.errors import ConfigurationError, DataError

app = typer.Typer()
app.command()(train)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_names_the_version_and_its_metrics(tmp_path: Path) -> None:
    told = json.loads(run("--data", "nasdaq", "--model", "logistic", "--models-dir", str(tmp_path), "--json"))
    (model,) = told["models"]
    assert (model["name"], model["version"]) == ("nasdaq-logistic", 1)
    package = read_package(Path(model["path"]))
    assert package.digest == model["digest"]
    assert model["metrics"]["test"]["auc"] == package.manifest.metrics["test"]["auc"].model_dump()
    assert told["data"]["without_volume"] == ["2015-05-12", "2018-01-09"]
    assert "auc" not in told["always_long"]["test"]


def test_the_table_shows_errors_and_says_what_is_undefined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKSERVE_HOME", str(tmp_path))
    told = run("--data", "sp500", "--model", "logistic")
    assert "test: 1195 rows, 2014-04-01 to 2018-12-27" in told
    assert "±0.017" in told
    assert "undefined" in told
    assert "On the 1195 test days, 1 of 1 models have an AUC within two standard errors of 0.5." in " ".join(
        told.split()
    )
    assert "repeat the close before" in told
    assert (tmp_path / "models" / "sp500-logistic" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("sessions", "said"),
    [
        (["2024-07-05"], "a single session has no return"),
        (["2024-07-06", "2024-07-07"], "no sessions from 2024-07-06 to 2024-07-07"),
        (["2024-07-05", "2024-07-08"], "2 sessions leave 0 rows"),
    ],
)
def test_too_few_or_no_exchange_sessions_are_refused(tmp_path: Path, sessions: list[str], said: str) -> None:
    lines = ["Date,Open,High,Low,Close,Volume", *(f"{session},1,1,1,1,1" for session in sessions)]
    (tmp_path / "short.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=said):
        run("--data", str(tmp_path / "short.csv"), "--models-dir", str(tmp_path / "models"))


@pytest.mark.parametrize("below", ["file", "file/models"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / below
    with pytest.raises(ConfigurationError, match=f"{folder} cannot be written"):
        run("--data", "sp500", "--model", "logistic", "--models-dir", str(folder))


def test_unusable_data_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("Date,Open\n")
    with pytest.raises(DataError, match="columns High"):
        run("--data", str(tmp_path / "bad.csv"), "--models-dir", str(tmp_path / "models"))
    assert not (tmp_path / "models").exists()
