"""From a trained estimator to ONNX bytes: one input `features`, one output, checked against the estimator.

Classifiers give `probabilities` FP32 [-1, classes], regressors `prediction` FP32 [-1, targets]. Labels and intermediate
results are cut away, because nobody reads them and they cost time in every request.
"""

import importlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlops.package._text import one_line
from mlops.package.datatypes import Array
from mlops.package.golden import Golden
from mlops.package.runtime import run_model
from tickserve.errors import ConfigurationError, DataError, PackageError

INPUT = "features"
#: Old enough for every supported runtime, so that a package moves between them.
OPSET = {"": 18, "ai.onnx.ml": 3}
_RTOL = 1e-4
#: What XGBoost and LightGBM call columns that were given no name.
_GENERATED_NAME = re.compile(r"f[0-9]+|Column_[0-9]+")


class MismatchError(PackageError):
    """An exported graph gives other figures than the estimator."""


def export_sklearn(estimator: Any, feature_names: Sequence[str], X_sample: Array) -> bytes:  # noqa: N803
    """Exports a fitted scikit-learn estimator or Pipeline, its preprocessing inside the graph.

    Parameters
    ----------
    estimator : sklearn estimator
        A classifier with `predict_proba`, or a regressor.
    feature_names : sequence of str
        Names of the n columns, in the order of training.
    X_sample : ndarray of shape (rows, n)
        Rows to check the export on.

    Returns
    -------
    bytes
        The ONNX file.

    Raises
    ------
    PackageError
        Where the estimator cannot be exported, or the export gives other figures than the estimator.
    DataError
        Where feature names, sample and estimator do not fit together.
    """
    sample = as_features(X_sample, feature_names)
    check_order(estimator, feature_names)
    expected = framework_outputs(estimator, sample)
    zipmap = {id(_last_step(estimator)): {"zipmap": False}} if "probabilities" in expected else {}
    try:
        return finish(_convert(estimator, sample.shape[1], zipmap), sample, expected)
    except MismatchError:
        # One multiplication scales faster, but rounds unlike scikit-learn's division, and a tree behind it may take
        # the other branch.
        scaler = require("sklearn.preprocessing", "train").StandardScaler
        exact = _convert(estimator, sample.shape[1], {scaler: {"div": "div"}} | zipmap)
        return finish(exact, sample, expected)


def framework_outputs(estimator: Any, X: Array) -> dict[str, Array]:  # noqa: N803
    """What the training framework itself gives for rows of float32 features: `probabilities` or `prediction`, FP32.

    Raises
    ------
    DataError
        Where the estimator is a classifier without probabilities, has several outputs, or does not take such rows.
    """
    try:
        return _framework_outputs(estimator, X)
    except (ValueError, TypeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{type(estimator).__name__} does not answer rows of float32 features: {reason}") from None


def golden_rows(estimator: Any, X: Array, *, rtol: float = _RTOL) -> Golden:  # noqa: N803
    """Golden rows from any estimator that `export_sklearn`, `export_xgboost` or `export_lightgbm` takes.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    X : ndarray of shape (rows, n)
        Features; taken as float32, as they will be served.
    rtol : float
        Relative tolerance. The absolute one is a tenth of it, in units of the largest output: a sum in float32 is as
        exact as its largest term.
    """
    features = np.asarray(X, np.float32)
    return _golden(features, framework_outputs(estimator, features), rtol)


def as_features(X: Array, feature_names: Sequence[str]) -> Array:  # noqa: N803
    """`X` as float32 rows; DataError where it is not as wide as there are names."""
    features = np.asarray(X, np.float32)
    if features.ndim != 2 or len(features) == 0 or features.shape[1] != len(feature_names):
        raise DataError(
            f"X_sample has shape {list(features.shape)}, at least one row of {len(feature_names)} features is expected",
            field="X_sample",
        )
    return features


def trained_names(estimator: Any) -> tuple[str, ...]:
    """The feature names that the estimator was trained with; none where it saw only numbers."""
    names = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
    return () if all(_GENERATED_NAME.fullmatch(name) for name in names) else names


def check_order(estimator: Any, feature_names: Sequence[str]) -> None:
    """DataError where the estimator remembers other names, or another order of them."""
    trained = trained_names(estimator)
    if trained and trained != tuple(feature_names):
        raise DataError(
            f"the model was trained on {', '.join(trained)}, feature_names say {', '.join(feature_names)}",
            field="feature_names",
        )


def finish(graph: Any, sample: Array, expected: dict[str, Array]) -> bytes:
    """Cuts the graph down to its one output under its name, and checks it on the sample.

    Parameters
    ----------
    graph : onnx.ModelProto
        As a converter left it.
    sample : ndarray of shape (rows, n)
        Features.
    expected : dict[str, ndarray]
        The one output, as the framework gives it.
    """
    [(name, values)] = expected.items()
    _keep_output(graph, name, values.shape[1])
    model: bytes = graph.SerializeToString(deterministic=True)
    if mismatch := _golden(sample, expected, _RTOL).mismatch(run_model(model, {INPUT: sample})):
        raise MismatchError(f"the exported graph is not the trained model: {mismatch}")
    return model


def require(module: str, extra: str) -> Any:
    """The module, or a ConfigurationError that says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ConfigurationError(
            f"{package} is not installed; `pip install 'tickserve[{extra}]'` brings it", field=package
        ) from None


def not_exported(estimator: Any, error: Exception) -> PackageError:
    """The error for an estimator that a converter refused."""
    return PackageError(f"{type(estimator).__name__} cannot be exported to ONNX: {one_line(str(error))}")


def _framework_outputs(estimator: Any, X: Array) -> dict[str, Array]:  # noqa: N803
    if not hasattr(estimator, "predict_proba"):
        if _is_classifier(estimator):
            raise DataError(f"{type(estimator).__name__} gives no probabilities; train it so that predict_proba works")
        predicted = np.asarray(estimator.predict(X), np.float32)
        return {"prediction": predicted.reshape(len(X), -1)}
    probabilities = estimator.predict_proba(X)
    if isinstance(probabilities, list):
        raise DataError(f"{type(estimator).__name__} has several outputs; export one model for each")
    return {"probabilities": np.asarray(probabilities, np.float32)}


def _convert(estimator: Any, width: int, options: dict[Any, Any]) -> Any:
    convert = require("skl2onnx", "train").convert_sklearn
    float_tensor = require("skl2onnx.common.data_types", "train").FloatTensorType
    if type(_last_step(estimator)).__module__.partition(".")[0] in ("xgboost", "lightgbm"):
        # Imported late: the boosting module builds on this one.
        from mlops.package.boosting import register_converters

        register_converters()
    try:
        return convert(
            estimator, initial_types=[(INPUT, float_tensor([None, width]))], options=options, target_opset=OPSET
        )
    except Exception as error:  # noqa: BLE001 - converters raise whatever they like
        raise not_exported(estimator, error) from None


def _last_step(estimator: Any) -> Any:
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def _golden(features: Array, outputs: dict[str, Array], rtol: float) -> Golden:
    largest = max(float(np.abs(output).max()) for output in outputs.values())
    return Golden({INPUT: features}, outputs, rtol=rtol, atol=rtol / 10 * largest)


def _is_classifier(estimator: Any) -> bool:
    # `classes_` is what a fitted classifier has and a fitted regressor has not, whoever's it is.
    return hasattr(estimator, "classes_")


def _keep_output(model: Any, name: str, width: int) -> None:
    graph = model.graph
    # Converters put the figures last, after the labels.
    kept = graph.output[-1]
    needed, nodes = {kept.name}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= _reads(node)
            nodes.append(node)
    renamed = {kept.name: name}
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [renamed.get(tensor, tensor) for tensor in names]
    kept.name = name
    dimensions = kept.type.tensor_type.shape.dim
    del dimensions[:]
    dimensions.add()
    dimensions.add().dim_value = width
    _replace(graph.output, [kept])
    _replace(graph.node, reversed(nodes))
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    # In the order of their names: the converter keeps them in a set, and the digest must not follow its order.
    domains = {entry.domain: entry for entry in model.opset_import}
    _replace(model.opset_import, [domains[name] for name in sorted(domains)])
    # Some converters draw a random name, which would change the digest from run to run.
    graph.name = "model"


def _reads(node: Any) -> set[str]:
    """Tensors that a node takes, those that its sub-graphs take from outside included."""
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    inner = (_reads(each) | {output.name for output in graph.output} for graph in graphs for each in graph.node)
    return set(node.input).union(*inner)


def _replace(field: Any, messages: Any) -> None:
    copies = []
    for message in messages:
        copy = type(message)()
        copy.CopyFrom(message)
        copies.append(copy)
    del field[:]
    field.extend(copies)
