"""The notebook's way: a fitted estimator in, a function out that gives the server's bits."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlops.package import Horizon, OutcomeSpec, read_package
from mlops.registry import Client, Status
from mlops.registry.gates import GatePolicy, LatencyLevels
from server.engine.python.session import load
from tests.support.packages import flip_byte
from tickserve.errors import DamagedPackageError, DataError, InvalidInputError, UnknownError

NAMES = ["momentum", "rsi", "volume"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    times = pd.date_range("2020-01-01", periods=400, freq="D", tz="UTC")
    return pd.DataFrame(np.random.default_rng(0).normal(size=(400, 3)), times, NAMES)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with Client(home=tmp_path, actor="ann") as opened:
        yield opened


def six_lines(rows: pd.DataFrame, home: Path) -> tuple[object, int]:
    y = rows["momentum"] > rows["rsi"]
    model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(rows[:300], y[:300])
    client = Client(home=home, actor="ann")
    version = client.log_model(model, "demo", rows[:300], X_later=rows[300:])
    return model, version.version


def test_six_lines_register_and_schema_and_baseline_are_inferred(rows: pd.DataFrame, tmp_path: Path) -> None:
    source = inspect.getsource(six_lines).splitlines()[1:]
    assert len(source) <= 6
    six_lines(rows, tmp_path)
    with Client(home=tmp_path, actor="ann") as client:
        version = client.registry.resolve("demo", 1)
        manifest = client.registry.manifest(version)
        assert version.status == Status.VALIDATED
        assert manifest.feature_names == tuple(NAMES)
        assert manifest.task == "classification"
        assert manifest.datasets["train"].order == "time"
        assert (manifest.datasets["train"].first, manifest.datasets["train"].rows) == ("2020-01-01", 300)
        assert manifest.baseline_outputs == "validation"
        [run] = client.registry.runs("demo")
        assert run.facts.parameters["n_estimators"] == "20"


def test_what_is_loaded_gives_the_servers_bits(rows: pd.DataFrame, tmp_path: Path) -> None:
    six_lines(rows, tmp_path)
    with Client(home=tmp_path, actor="ann") as client:
        loaded = client.load("demo", 1)
        package = client.registry.fetch(loaded.version)
    session = load(package.model, package.manifest.inputs, package.manifest.outputs)
    array = rows.to_numpy(np.float32)
    [expected] = session.run([array])
    assert loaded(rows).tobytes() == expected.tobytes()
    assert loaded(array).tobytes() == expected.tobytes()
    for place in (0, 17, 399):
        one = np.array(session.run_one([array[place : place + 1]])[0])
        assert loaded(dict(zip(NAMES, array[place].tolist(), strict=True))).tobytes() == one.tobytes()


def test_a_table_in_another_order_is_put_right_and_other_features_are_refused(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    six_lines(rows, tmp_path)
    with Client(home=tmp_path, actor="ann") as client:
        loaded = client.load("demo", 1)
    assert (loaded(rows[NAMES[::-1]]) == loaded(rows)).all()
    with pytest.raises(InvalidInputError, match="missing: volume; unknown: beta"):
        loaded(rows.rename(columns={"volume": "beta"}))
    with pytest.raises(InvalidInputError, match="the model takes"):
        loaded(rows.to_numpy()[:, :2])


def test_two_more_lines_make_it_live(client: Client, rows: pd.DataFrame) -> None:
    model = LinearRegression().fit(rows[:100], rows["momentum"][:100] / 100)
    later = rows[100:]
    test = {
        "time": later.index.tz_localize(None).to_numpy(),
        "prediction": model.predict(later),
        "outcome": later["momentum"].to_numpy() / 100,
        "return": later["momentum"].to_numpy() / 100,
    }
    horizons = (Horizon(name="1d", periods=1),)
    outcomes = OutcomeSpec(kind="time_series", horizons=horizons, periods_per_year=365.0, cost_bp=1.0)
    version = client.log_model(model, "line", rows[:100], outcomes=outcomes, evaluations={"test": test}).version
    with pytest.raises(UnknownError, match="no version of model 'line' is live"):
        client.load("line")
    client.approve("line", version, "the first one: there is nothing to compare it with", inconclusive=True)
    client.promote("line", version, "go", GatePolicy(latency=LatencyLevels(budget_us=10**6)))
    assert client.load("line", "live").version.version == version


def test_a_damaged_model_is_not_loaded(client: Client, rows: pd.DataFrame) -> None:
    version = client.log_model(LinearRegression().fit(rows, rows["momentum"]), "line", rows)
    folder = client.registry.fetch(version).path
    sha256 = read_package(folder).manifest.files["model.onnx"].sha256
    [stored] = folder.parents[2].rglob(f"sha256/*/{sha256}")
    flip_byte(stored)
    flip_byte(folder / "model.onnx")
    with pytest.raises(DamagedPackageError, match="is damaged"):
        client.load("line", 1)


def test_features_need_names(client: Client, rows: pd.DataFrame) -> None:
    array = rows.to_numpy()
    model = LinearRegression().fit(array, array[:, 0])
    with pytest.raises(DataError, match="features have no names"):
        client.log_model(model, "line", array)
    assert client.log_model(model, "line", array, feature_names=NAMES).version == 1
