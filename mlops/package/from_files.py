"""A package from files alone: a model that anybody trained, reference rows, golden rows and a specification in TOML."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from mlops.package.boosting import export_lightgbm, export_xgboost, load_lightgbm, load_xgboost
from mlops.package.build import Task, build_package
from mlops.package.datatypes import Array
from mlops.package.export import golden_rows, trained_names
from mlops.package.golden import Golden, golden_from_arrays
from mlops.package.manifest import (
    ColumnMapping,
    DatasetInfo,
    Frozen,
    InputRules,
    Limits,
    Metric,
    Name,
    OutcomeSpec,
    OutputRule,
    Training,
    explain,
)
from mlops.package.npz import read_arrays
from mlops.package.onnx_file import read_graph
from mlops.package.out_of_sample import check_unseen_rows
from mlops.package.reference import ReferenceRows
from mlops.package.runtime import run_model
from mlops.package.tables import Table, read_table
from tickserve.errors import ConfigurationError, DataError, PackageError

#: Rows of the reference that become golden rows where the framework itself can answer them.
_GOLDEN_ROWS = 64
#: Rows of the reference that an export is checked on.
_SAMPLE_ROWS = 4096


class PackageSpec(Frozen):
    """What a specification file may say: entries of the manifest, and the names of the reference data sets."""

    description: str = ""
    author: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    task: Task = "unknown"
    feature_names: tuple[Name, ...] = ()
    categorical: tuple[Name, ...] = ()
    signal: ColumnMapping | None = None
    confidence: ColumnMapping | None = None
    input_rules: InputRules = InputRules()
    output_rules: tuple[OutputRule, ...] | None = None
    limits: Limits = Limits()
    outcomes: OutcomeSpec | None = None
    training: Training = Training()
    datasets: dict[str, DatasetInfo] = Field(default_factory=dict)
    metrics: dict[str, dict[str, Metric]] = Field(default_factory=dict)
    reference_dataset: Name = "train"
    outputs_dataset: Name = "out_of_sample"


def read_spec(path: Path) -> PackageSpec:
    """Reads a specification; ConfigurationError where it is no TOML or has an entry that is unknown or ill-typed."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
        return PackageSpec.model_validate_json(json.dumps(entries, default=str))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read as TOML: {error}", field=str(path)) from None
    except ValidationError as error:
        fault = explain(error, str(path))
        raise ConfigurationError(fault.message, field=fault.field) from None


def build_from_files(
    model: Path,
    out: Path,
    *,
    name: str,
    reference: Path,
    outputs_reference: Path | None = None,
    golden: Path | None = None,
    time_column: str | None = None,
    spec: PackageSpec | None = None,
) -> Path:
    """Writes the package `out/<digest>/`, as `build_package` does.

    Parameters
    ----------
    model : Path
        An .onnx file, or a model file of XGBoost (.json, .ubj) or LightGBM (.txt).
    reference : Path
        Rows of the training period; see `read_table`.
    outputs_reference : Path, optional
        Rows that the model was not trained on; it is run on them for the baseline of its outputs.
    golden : Path, optional
        Golden rows as golden.npz; `rtol` and `atol` may be absent. Required for an .onnx file; the boosting frameworks
        answer reference rows themselves.
    time_column : str, optional
        The column of event times in both reference files.

    Raises
    ------
    ConfigurationError, DataError, PackageError
        Where a file cannot be read or they do not fit each other.
    """
    spec = spec or PackageSpec()
    table = read_table(reference, time_column)
    source = _read_model(model, table, spec)
    graph = read_graph(source.onnx)
    trained = table.rows(spec.reference_dataset, graph.inputs, source.feature_names)
    outputs, datasets = None, {}
    if outputs_reference is not None:
        unseen = read_table(outputs_reference, time_column)
        inputs = unseen.rows(spec.outputs_dataset, graph.inputs, source.feature_names)
        check_unseen_rows(trained, inputs)
        datasets = {inputs.dataset: inputs.describe()}
        outputs = ReferenceRows(inputs.dataset, run_model(source.onnx, inputs.tensors), inputs.times)
    return build_package(
        out,
        name=name,
        model=source.onnx,
        golden=_read_golden(golden) if golden else source.golden(),
        reference=trained,
        outputs_reference=outputs,
        feature_names=source.feature_names,
        categorical=spec.categorical,
        task=source.task,
        signal=spec.signal,
        confidence=spec.confidence,
        input_rules=spec.input_rules,
        output_rules=spec.output_rules,
        limits=spec.limits,
        outcomes=spec.outcomes,
        training=spec.training,
        datasets=datasets | spec.datasets,
        metrics=spec.metrics,
        description=spec.description,
        author=spec.author,
        tags=spec.tags,
    )


@dataclass(frozen=True)
class _Source:
    """A model file as ONNX; `estimator` and `sample` are there where its own framework can answer rows."""

    path: Path
    onnx: bytes
    feature_names: tuple[str, ...]
    task: Task
    estimator: Any = None
    sample: Array | None = None

    def golden(self) -> Golden:
        if self.sample is None:
            raise ConfigurationError(
                f"{self.path} needs golden rows: inputs with the outputs of the framework that trained it (--golden)",
                field="golden",
            )
        spread = np.linspace(0, len(self.sample) - 1, min(_GOLDEN_ROWS, len(self.sample))).astype(np.intp)
        return golden_rows(self.estimator, self.sample[spread])


def _read_model(path: Path, table: Table, spec: PackageSpec) -> _Source:
    if path.suffix == ".onnx":
        return _Source(path, _read_bytes(path), spec.feature_names or tuple(table.columns), spec.task)
    if path.suffix in (".json", ".ubj"):
        estimator, export = load_xgboost(path), export_xgboost
    elif path.suffix == ".txt":
        estimator, export = load_lightgbm(path), export_lightgbm
    else:
        raise ConfigurationError(
            f"{path}: an .onnx file, or a model of XGBoost (.json, .ubj) or LightGBM (.txt) is expected", field="model"
        )
    names = spec.feature_names or trained_names(estimator) or tuple(table.columns)
    sample = table.matrix(names, np.dtype(np.float32))
    task: Task = "classification" if hasattr(estimator, "predict_proba") else "regression"
    return _Source(path, export(estimator, names, sample[:_SAMPLE_ROWS]), names, task, estimator, sample)


def _read_golden(path: Path) -> Golden:
    try:
        arrays = read_arrays(_read_bytes(path), str(path))
        for tolerance in ("rtol", "atol"):
            arrays.setdefault(tolerance, np.array(getattr(Golden, tolerance)))
        return golden_from_arrays(arrays)
    except PackageError as error:
        raise DataError(error.message, field=str(path)) from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", field=str(path)) from None
