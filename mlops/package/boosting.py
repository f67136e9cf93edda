"""XGBoost and LightGBM to ONNX bytes: fitted estimators, or the model files that the libraries write themselves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlops.package.datatypes import Array
from mlops.package.export import (
    INPUT,
    as_features,
    check_order,
    finish,
    framework_outputs,
    not_exported,
    require,
)
from tickserve.errors import DataError

_EXTRA = "boosting"
#: The newest that onnxmltools converts to.
_OPSET = 15


def export_xgboost(estimator: Any, feature_names: Sequence[str], X_sample: Array) -> bytes:  # noqa: N803
    """Exports a fitted XGBClassifier or XGBRegressor; as `export_sklearn` otherwise.

    After early stopping only the trees up to the best iteration are exported, which are those that predict.
    """
    booster = estimator.get_booster()
    best = getattr(estimator, "best_iteration", None) if booster.attr("best_iteration") else None
    booster = booster.copy() if best is None else booster[: best + 1]
    # The converter reads names as column numbers.
    booster.feature_names = None
    return _export("convert_xgboost", booster, estimator, feature_names, X_sample)


def export_lightgbm(estimator: Any, feature_names: Sequence[str], X_sample: Array) -> bytes:  # noqa: N803
    """Exports a fitted LGBMClassifier or LGBMRegressor, or what `load_lightgbm` gave; as `export_sklearn` otherwise."""
    return _export("convert_lightgbm", estimator.booster_, estimator, feature_names, X_sample)


def load_xgboost(path: Path) -> Any:
    """The estimator in a file of XGBoost's own (`.json` or `.ubj`): an XGBClassifier or XGBRegressor.

    Raises
    ------
    DataError
        Where the file holds no XGBoost model.
    """
    xgboost = require("xgboost", _EXTRA)
    try:
        booster = xgboost.Booster(model_file=str(path))
        objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
        classifies = objective.startswith(("binary:", "multi:"))
        estimator = xgboost.XGBClassifier() if classifies else xgboost.XGBRegressor()
        estimator.load_model(str(path))
    except (xgboost.core.XGBoostError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no XGBoost model: {_first_line(error)}", field=str(path)) from None
    return estimator


def load_lightgbm(path: Path) -> "LightgbmClassifier | LightgbmRegressor":
    """The model in a file of LightGBM's own (`.txt`), in the shape of an estimator.

    Raises
    ------
    DataError
        Where the file holds no LightGBM model.
    """
    lightgbm = require("lightgbm", _EXTRA)
    try:
        booster = lightgbm.Booster(model_str=path.read_text())
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise DataError(f"{path} is no LightGBM model: {_first_line(error)}", field=str(path)) from None
    objective = str(booster.dump_model(num_iteration=1).get("objective", ""))
    return LightgbmClassifier(booster) if objective.startswith(("binary", "multiclass")) else LightgbmRegressor(booster)


def register_converters() -> None:
    """Makes skl2onnx know the boosting estimators, so that a Pipeline may end in one."""
    skl2onnx = require("skl2onnx", "train")
    shapes = require("skl2onnx.common.shape_calculator", "train")
    xgboost, lightgbm = require("xgboost", _EXTRA), require("lightgbm", _EXTRA)
    convert_xgboost = require("onnxmltools.convert.xgboost.operator_converters.XGBoost", _EXTRA).convert_xgboost
    convert_lightgbm = require("onnxmltools.convert.lightgbm.operator_converters.LightGbm", _EXTRA).convert_lightgbm
    for classifier, alias, convert in (
        (xgboost.XGBClassifier, "XGBoostXGBClassifier", convert_xgboost),
        (lightgbm.LGBMClassifier, "LightGbmLGBMClassifier", convert_lightgbm),
    ):
        shape = shapes.calculate_linear_classifier_output_shapes
        skl2onnx.update_registered_converter(
            classifier, alias, shape, convert, options={"nocl": [True, False], "zipmap": [True, False, "columns"]}
        )
    for regressor, alias, convert, options in (
        (xgboost.XGBRegressor, "XGBoostXGBRegressor", convert_xgboost, {}),
        (lightgbm.LGBMRegressor, "LightGbmLGBMRegressor", convert_lightgbm, {"split": None}),
    ):
        shape = shapes.calculate_linear_regressor_output_shapes
        skl2onnx.update_registered_converter(regressor, alias, shape, convert, options=options)


class LightgbmClassifier:
    """A LightGBM file that classifies."""

    def __init__(self, booster: Any) -> None:
        self.booster_ = booster
        self.feature_names_in_ = booster.feature_name()

    def predict_proba(self, X: Array) -> Array:  # noqa: N803
        """Probabilities of shape (rows, classes)."""
        probabilities = np.asarray(self.booster_.predict(X))
        return probabilities if probabilities.ndim == 2 else np.column_stack([1 - probabilities, probabilities])


class LightgbmRegressor:
    """A LightGBM file that regresses."""

    def __init__(self, booster: Any) -> None:
        self.booster_ = booster
        self.feature_names_in_ = booster.feature_name()

    def predict(self, X: Array) -> Array:  # noqa: N803
        """Predictions of shape (rows,)."""
        return np.asarray(self.booster_.predict(X))


def _export(
    converter: str,
    booster: Any,
    estimator: Any,
    feature_names: Sequence[str],
    X_sample: Array,  # noqa: N803
) -> bytes:
    sample = as_features(X_sample, feature_names)
    check_order(estimator, feature_names)
    convert = getattr(require("onnxmltools", _EXTRA), converter)
    float_tensor = require("onnxmltools.convert.common.data_types", _EXTRA).FloatTensorType
    expected = framework_outputs(estimator, sample)
    # LightGBM's converter alone knows of ZipMap.
    options = {"zipmap": False} if converter == "convert_lightgbm" else {}
    try:
        graph = convert(
            booster, initial_types=[(INPUT, float_tensor([None, sample.shape[1]]))], target_opset=_OPSET, **options
        )
    except Exception as error:  # noqa: BLE001 - converters raise whatever they like
        raise not_exported(estimator, error) from None
    return finish(graph, sample, expected)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
