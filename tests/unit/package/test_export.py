"""Export from scikit-learn: one input, one output, the same figures, the same bytes every time."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC

from mlops.package import (
    ReferenceRows,
    build_package,
    check_model,
    export_sklearn,
    framework_outputs,
    golden_rows,
    read_graph,
    read_package,
    run_model,
)
from mlops.package.export import MismatchError
from tickserve.errors import ConfigurationError, DataError, PackageError

ROOT = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(3)
X = RNG.normal(size=(400, 4)).astype(np.float32)
SCORE = X[:, 0] - X[:, 1] + RNG.normal(size=400)
NAMES = ("a", "b", "c", "d")
TARGETS = {2: (SCORE > 0).astype(int), 3: np.digitize(SCORE, [-1, 1])}

CLASSIFIERS = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "forest": lambda: RandomForestClassifier(20, random_state=0),
    "gradient boosting": lambda: GradientBoostingClassifier(n_estimators=10, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=10, random_state=0),
    "mlp": lambda: make_pipeline(
        StandardScaler(), MLPClassifier((8,), alpha=10.0, solver="lbfgs", max_iter=500, random_state=0)
    ),
}
REGRESSORS = {
    "linear": LinearRegression,
    "ridge pipeline": lambda: make_pipeline(MinMaxScaler(), Ridge()),
    "forest": lambda: RandomForestRegressor(20, random_state=0),
    "gradient boosting": lambda: GradientBoostingRegressor(n_estimators=10, random_state=0),
    "extra trees": lambda: ExtraTreesRegressor(10, random_state=0),
    "mlp": lambda: make_pipeline(
        StandardScaler(),
        MLPRegressor(hidden_layer_sizes=(8,), alpha=10.0, solver="lbfgs", max_iter=500, random_state=0),
    ),
}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_gives_its_probabilities_and_nothing_else(kind: str, classes: int) -> None:
    estimator = CLASSIFIERS[kind]().fit(X, TARGETS[classes])

    graph = export_sklearn(estimator, NAMES, X)

    schema = read_graph(graph)
    assert [(spec.name, spec.datatype, spec.shape) for spec in schema.inputs] == [("features", "FP32", (-1, 4))]
    assert [(spec.name, spec.datatype, spec.shape) for spec in schema.outputs] == [
        ("probabilities", "FP32", (-1, classes))
    ]
    found = run_model(graph, {"features": X})["probabilities"]
    np.testing.assert_allclose(found, estimator.predict_proba(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", REGRESSORS)
def test_a_regressor_gives_its_prediction(kind: str) -> None:
    estimator = REGRESSORS[kind]().fit(X, SCORE)

    graph = export_sklearn(estimator, NAMES, X)

    [output] = read_graph(graph).outputs
    assert (output.name, output.datatype, output.shape) == ("prediction", "FP32", (-1, 1))
    found = run_model(graph, {"features": X})["prediction"]
    np.testing.assert_allclose(found[:, 0], estimator.predict(X), rtol=1e-4, atol=1e-4)


def test_preprocessing_of_a_pipeline_is_in_the_graph() -> None:
    estimator = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(X * 1000 + 5, TARGETS[2])
    rows = X * 1000 + 5
    rows[::9, 2] = np.nan

    graph = export_sklearn(estimator, NAMES, rows)

    found = run_model(graph, {"features": rows})["probabilities"]
    np.testing.assert_allclose(found, estimator.predict_proba(rows), atol=1e-5)


def test_trees_behind_a_scaler_take_the_branches_that_scikit_learn_takes() -> None:
    """A scaler's rounding decides which side of a threshold a training row is on."""
    estimator = make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=30, random_state=0))
    estimator.fit(X, TARGETS[2])

    found = run_model(export_sklearn(estimator, NAMES, X), {"features": X})["probabilities"]

    np.testing.assert_allclose(found, estimator.predict_proba(X), atol=1e-5)


def test_labels_are_cut_out_of_the_graph() -> None:
    estimator = LogisticRegression().fit(X, np.array(["down", "up"])[TARGETS[2]])

    graph = onnx.load_from_string(export_sklearn(estimator, NAMES, X))

    onnx.checker.check_model(graph)
    assert [output.name for output in graph.graph.output] == ["probabilities"]
    assert len({entry.domain for entry in graph.opset_import}) == len(graph.opset_import)


def test_equal_estimators_give_equal_bytes_in_every_process() -> None:
    program = (
        "import hashlib\n"
        "from tests.unit.package.test_export import *\n"
        "for make in CLASSIFIERS.values():\n"
        "    print(hashlib.sha256(export_sklearn(make().fit(X, TARGETS[3]), NAMES, X)).hexdigest())\n"
    )

    def digests(seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout

    first, second = digests("1"), digests("2")
    assert first == second
    assert len(set(first.split())) == len(CLASSIFIERS)


def test_an_estimator_becomes_a_checked_package(tmp_path: Path) -> None:
    estimator = CLASSIFIERS["logistic"]().fit(X[:300], TARGETS[2][:300])
    graph = export_sklearn(estimator, NAMES, X[:300])

    folder = build_package(
        tmp_path,
        name="direction",
        task="classification",
        model=graph,
        golden=golden_rows(estimator, X[:32]),
        feature_names=NAMES,
        reference=ReferenceRows("train", {"features": X[:300]}),
        outputs_reference=ReferenceRows("test", framework_outputs(estimator, X[300:])),
    )

    assert check_model(read_package(folder)) < 1e-6


def test_golden_rows_are_the_frameworks_own_figures() -> None:
    estimator = LinearRegression().fit(X, SCORE * 1e-3)

    golden = golden_rows(estimator, X[:8].astype(np.float64))

    assert golden.inputs["features"].dtype == np.float32
    assert golden.outputs["prediction"][:, 0] == pytest.approx(estimator.predict(X[:8]), rel=1e-6)
    # Returns are small: a tolerance that suits probabilities would pass anything.
    assert golden.atol == pytest.approx(1e-5 * np.abs(golden.outputs["prediction"]).max())


def test_an_export_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = LinearRegression().fit(X, SCORE)
    honest = framework_outputs(estimator, X)
    monkeypatch.setattr(
        "mlops.package.export.framework_outputs", lambda *_: {"prediction": honest["prediction"] + 0.01}
    )

    with pytest.raises(MismatchError, match="not the trained model"):
        export_sklearn(estimator, NAMES, X)


class OwnEstimator:
    """Nothing that a converter knows."""

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, 0]


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (OwnEstimator(), PackageError, "OwnEstimator cannot be exported"),
        (LinearSVC().fit(X, TARGETS[2]), DataError, "gives no probabilities"),
        (
            MultiOutputClassifier(LogisticRegression()).fit(X, np.column_stack([TARGETS[2], TARGETS[2]])),
            DataError,
            "several outputs",
        ),
        (LinearRegression(), DataError, "does not answer rows of float32 features: This LinearRegression"),
    ],
)
def test_what_cannot_be_exported_says_why(estimator: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        export_sklearn(estimator, NAMES, X)


def test_feature_names_must_be_those_of_the_training() -> None:
    pandas = pytest.importorskip("pandas")
    estimator = LinearRegression().fit(pandas.DataFrame(X, columns=list(NAMES)), SCORE)

    with pytest.raises(DataError, match="was trained on a, b, c, d, feature_names say b, a, c, d"):
        export_sklearn(estimator, ("b", "a", "c", "d"), X)


@pytest.mark.parametrize("sample", [X[:0], X[:, :3], X[0]])
def test_the_sample_must_be_rows_of_the_features(sample: np.ndarray) -> None:
    with pytest.raises(DataError, match="X_sample has shape"):
        export_sklearn(LinearRegression().fit(X, SCORE), NAMES, sample)


def test_a_missing_converter_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skl2onnx", None)

    with pytest.raises(ConfigurationError, match=r"skl2onnx is not installed; `pip install 'tickserve\[train\]'`"):
        export_sklearn(LinearRegression().fit(X, SCORE), NAMES, X)
