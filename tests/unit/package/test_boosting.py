"""Export from XGBoost and LightGBM: estimators, pipelines and the libraries' own files, for both tasks."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.package import (
    export_lightgbm,
    export_sklearn,
    export_xgboost,
    framework_outputs,
    load_lightgbm,
    load_xgboost,
    read_graph,
    run_model,
)
from mlops.package.export import trained_names
from tickserve.errors import ConfigurationError, DataError

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")
pytest.importorskip("onnxmltools")

RNG = np.random.default_rng(5)
X = RNG.normal(size=(400, 4)).astype(np.float32)
SCORE = X[:, 0] - X[:, 1] + RNG.normal(size=400)
MISSING = np.where(RNG.random(X.shape) < 0.1, np.float32(np.nan), X)
NAMES = ("a", "b", "c", "d")
TARGETS: dict[str, np.ndarray] = {
    "two classes": (SCORE > 0).astype(int),
    "three classes": np.digitize(SCORE, [-1, 1]),
    "regression": SCORE,
}


def make_xgboost(task: str, **options: Any) -> Any:
    kind = xgboost.XGBRegressor if task == "regression" else xgboost.XGBClassifier
    return kind(n_estimators=15, max_depth=4, n_jobs=1, **options)


def make_lightgbm(task: str) -> Any:
    kind = lightgbm.LGBMRegressor if task == "regression" else lightgbm.LGBMClassifier
    return kind(n_estimators=15, num_leaves=7, n_jobs=1, verbose=-1)


LIBRARIES: dict[str, tuple[Callable[[str], Any], Callable[..., bytes]]] = {
    "xgboost": (make_xgboost, export_xgboost),
    "lightgbm": (make_lightgbm, export_lightgbm),
}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def assert_same(graph: bytes, estimator: Any, rows: np.ndarray) -> None:
    [(name, expected)] = framework_outputs(estimator, rows).items()
    [output] = read_graph(graph).outputs
    assert (output.name, output.datatype, output.shape) == (name, "FP32", (-1, expected.shape[1]))
    found = run_model(graph, {"features": rows})[name]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("rows", [X, MISSING], ids=["whole", "with missing values"])
@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_an_estimator_is_exported_as_it_predicts(library: str, task: str, rows: np.ndarray) -> None:
    make, export = LIBRARIES[library]
    estimator = make(task).fit(rows, TARGETS[task])

    graph = export(estimator, NAMES, rows)

    assert_same(graph, estimator, rows)
    assert graph == export(estimator, NAMES, rows)


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_a_file_of_xgboost_is_exported_as_it_predicts(tmp_path: Path, suffix: str, task: str) -> None:
    trained = make_xgboost(task).fit(X, TARGETS[task])
    trained.get_booster().save_model(tmp_path / f"model.{suffix}")

    loaded = load_xgboost(tmp_path / f"model.{suffix}")

    assert_same(export_xgboost(loaded, NAMES, X), trained, X)


@pytest.mark.parametrize("task", TARGETS)
def test_a_file_of_lightgbm_is_exported_as_it_predicts(tmp_path: Path, task: str) -> None:
    trained = make_lightgbm(task).fit(X, TARGETS[task])
    trained.booster_.save_model(tmp_path / "model.txt")

    loaded = load_lightgbm(tmp_path / "model.txt")

    assert_same(export_lightgbm(loaded, NAMES, X), trained, X)


@pytest.mark.parametrize("task", ["two classes", "regression"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_pipeline_may_end_in_one(library: str, task: str) -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    estimator = make_pipeline(StandardScaler(), LIBRARIES[library][0](task)).fit(X, TARGETS[task])

    assert_same(export_sklearn(estimator, NAMES, X), estimator, X)


def test_only_the_trees_that_predict_after_early_stopping_are_exported() -> None:
    estimator = make_xgboost("two classes", early_stopping_rounds=2, learning_rate=1.0)
    estimator.set_params(n_estimators=200)
    estimator.fit(
        X[:200], TARGETS["two classes"][:200], eval_set=[(X[200:], TARGETS["two classes"][200:])], verbose=False
    )
    assert estimator.best_iteration < estimator.get_booster().num_boosted_rounds() - 1

    assert_same(export_xgboost(estimator, NAMES, X), estimator, X)


@pytest.mark.parametrize("library", LIBRARIES)
def test_named_features_are_exported_and_kept_in_order(library: str) -> None:
    pandas = pytest.importorskip("pandas")
    make, export = LIBRARIES[library]
    estimator = make("two classes").fit(pandas.DataFrame(X, columns=list(NAMES)), TARGETS["two classes"])

    assert trained_names(estimator) == NAMES
    assert_same(export(estimator, NAMES, X), estimator, X)
    with pytest.raises(DataError, match="was trained on a, b, c, d"):
        export(estimator, ("b", "a", "c", "d"), X)
    assert trained_names(estimator) == NAMES


@pytest.mark.parametrize("library", LIBRARIES)
def test_names_that_the_library_made_up_are_no_names(library: str) -> None:
    assert trained_names(LIBRARIES[library][0]("regression").fit(X, SCORE)) == ()


@pytest.mark.parametrize("load", [load_xgboost, load_lightgbm])
@pytest.mark.parametrize("content", [b"", b"{}", b"tree\nno such thing\n", b"\x80\x04\x95"])
def test_a_file_that_is_no_model_is_a_clear_error(tmp_path: Path, load: Callable[[Path], Any], content: bytes) -> None:
    path = tmp_path / ("model.json" if load is load_xgboost else "model.txt")
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"is no (XGBoost|LightGBM) model"):
        load(path)


@pytest.mark.parametrize(
    ("module", "load"), [("xgboost", load_xgboost), ("lightgbm", load_lightgbm)], ids=["xgboost", "lightgbm"]
)
def test_a_missing_library_says_which_extra_brings_it(
    monkeypatch: pytest.MonkeyPatch, module: str, load: Callable[[Path], Any]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigurationError, match=rf"{module} is not installed; .*tickserve\[boosting\]"):
        load(Path("model"))
