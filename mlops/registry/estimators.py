"""From a fitted estimator and its data to a package: schema, baseline and golden rows are inferred."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlops.package import (
    ColumnMapping,
    Metric,
    OutcomeSpec,
    ReferenceRows,
    Training,
    build_package,
    export_lightgbm,
    export_sklearn,
    export_xgboost,
    golden_rows,
    run_model,
)
from mlops.package.datatypes import Array
from mlops.package.export import INPUT, trained_names
from tickserve.errors import DataError

_GOLDEN_ROWS = 32


def package_estimator(
    estimator: Any,
    name: str,
    X: Any,  # noqa: N803
    out: Path,
    *,
    X_later: Any = None,  # noqa: N803
    times: Array | None = None,
    feature_names: Sequence[str] | None = None,
    metrics: Mapping[str, Mapping[str, Metric]] | None = None,
    outcomes: OutcomeSpec | None = None,
    description: str = "",
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Packages a fitted estimator below `out`.

    Parameters
    ----------
    estimator : estimator
        scikit-learn, XGBoost or LightGBM; preprocessing belongs into a Pipeline, so that it is in the graph.
    X : DataFrame or ndarray of shape (rows, n)
        What it was trained on. Names come from its columns, times from a DatetimeIndex in a time zone or in UTC.
    X_later : DataFrame or ndarray, optional
        Rows that it was not trained on, for the baseline of its outputs.
    times : ndarray, optional
        Event time of each row of `X`, where its index has none.
    feature_names : sequence of str, optional
        Needed where neither `X` nor the estimator has names.
    metrics, outcomes, description, tags
        As `build_package`. Gates on returns need `outcomes`: what trading costs, and how many periods a year has.

    Raises
    ------
    DataError
        Where names are missing, or rows do not fit the estimator.
    PackageError
        Where the estimator cannot be exported, or its graph gives other figures.
    """
    names = tuple(feature_names or _names(X) or trained_names(estimator))
    if not names:
        raise DataError("features have no names; give a DataFrame or feature_names", field="feature_names")
    features = np.asarray(X, np.float32)
    chosen = np.unique(np.linspace(0, len(features) - 1, _GOLDEN_ROWS).astype(int))
    with warnings.catch_warnings():
        # Rows are given as float32 without names, as they are served; the export compares the names.
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        golden = golden_rows(estimator, features[chosen])
        graph = _export(estimator, names, golden.inputs[INPUT])
    [output] = golden.outputs
    is_binary = output == "probabilities" and golden.outputs[output].shape[1] == 2
    later = None
    if X_later is not None:
        outputs = run_model(graph, {INPUT: np.asarray(X_later, np.float32)})
        later = ReferenceRows("validation", outputs, _times(X_later))
    fitted = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    library = type(fitted).__module__.partition(".")[0]
    return build_package(
        out,
        name=name,
        model=graph,
        golden=golden,
        reference=ReferenceRows("train", {INPUT: features}, times if times is not None else _times(X)),
        outputs_reference=later,
        feature_names=names,
        task="classification" if output == "probabilities" else "regression",
        signal=_signal(output, is_binary),
        training=Training(
            framework=f"{library} {_version(library)}",
            estimator=type(fitted).__name__,
            parameters={key: str(value) for key, value in fitted.get_params().items()},
        ),
        metrics=metrics,
        outcomes=outcomes,
        description=description,
        tags=tags,
    )


def _export(estimator: Any, names: Sequence[str], sample: Array) -> bytes:
    match type(estimator).__module__.partition(".")[0]:
        case "xgboost":
            return export_xgboost(estimator, names, sample)
        case "lightgbm":
            return export_lightgbm(estimator, names, sample)
        case _:
            return export_sklearn(estimator, names, sample)


def _signal(output: str, is_binary: bool) -> ColumnMapping | None:
    if output == "prediction":
        return ColumnMapping(output=output, column=0)
    return ColumnMapping(output=output, column=1, scale=2.0, offset=-1.0) if is_binary else None


def _names(rows: Any) -> tuple[str, ...]:
    return tuple(map(str, rows.columns)) if hasattr(rows, "columns") else ()


def _times(rows: Any) -> Array | None:
    """The event times of a table whose index has them, in UTC."""
    index = getattr(rows, "index", None)
    if index is None or not hasattr(index, "tz"):
        return None
    moments = index.tz_convert("UTC").tz_localize(None) if index.tz is not None else index
    return np.asarray(moments, "datetime64[ns]")


def _version(library: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version({"sklearn": "scikit-learn"}.get(library, library))
    except PackageNotFoundError:
        return "of unknown version"
