"""Building a package: schema from the graph, baseline from reference rows, the model run before it is written."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from mlops.package._files import publish_folder, staged_folder
from mlops.package.baseline import write_baseline
from mlops.package.golden import Golden, check_golden, write_golden
from mlops.package.manifest import (
    BASELINE_FILE,
    DIGEST_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    ColumnMapping,
    DatasetInfo,
    InputRules,
    Limits,
    Manifest,
    Metric,
    OutcomeSpec,
    OutputRule,
    TensorSpec,
    Training,
    make_manifest,
)
from mlops.package.measure import make_baseline
from mlops.package.onnx_file import read_graph
from mlops.package.out_of_sample import check_out_of_sample
from mlops.package.reference import ReferenceRows
from mlops.package.rules import OutputLimits, as_rows, feature_bounds, out_of_bounds
from mlops.package.runtime import check_model
from mlops.package.verify import describe_file, read_package, verify_files, witness_file
from tickserve.errors import PackageError

Task = Literal["classification", "regression", "unknown"]

#: Rounding in float32: sums of a hundred tree weights stray by about 1e-6, row sums of many classes by more.
_PROBABILITY_SLACK = 1e-5
_ROW_SUM_SLACK = 1e-3


def build_package(
    out: Path,
    *,
    name: str,
    model: bytes,
    golden: Golden,
    reference: ReferenceRows,
    outputs_reference: ReferenceRows | None = None,
    feature_names: Sequence[str] = (),
    categorical: Collection[str] = (),
    task: Task = "unknown",
    signal: ColumnMapping | None = None,
    confidence: ColumnMapping | None = None,
    input_rules: InputRules | None = None,
    output_rules: Sequence[OutputRule] | None = None,
    limits: Limits | None = None,
    outcomes: OutcomeSpec | None = None,
    training: Training | None = None,
    datasets: Mapping[str, DatasetInfo] | None = None,
    metrics: Mapping[str, Mapping[str, Metric]] | None = None,
    description: str = "",
    author: str = "",
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Writes `out/<digest>/`, whole or not at all; equal input gives the equal digest.

    Parameters
    ----------
    out : Path
        Folder of packages, made where it is missing.
    name : str
        Model name: 1 to 64 of a-z, 0-9, `.`, `_` and `-`.
    model : bytes
        The ONNX file. Its graph gives the schema.
    golden : Golden
        Inputs with the outputs that the training framework gave; the model is run on them.
    reference : ReferenceRows
        Input rows of the training period, for the baseline.
    outputs_reference : ReferenceRows, optional
        The model's outputs on rows that it was not trained on. Without them drift of outputs cannot be decided.
    feature_names : sequence of str
        Names of the one input's columns, in order.
    categorical : collection of str
        Columns of whole numbers whose baseline counts values, not ranges.
    output_rules : sequence of OutputRule, optional
        By default every float output must be finite, and for classification `probabilities` within [0, 1] with row
        sums of 1.
    datasets : Mapping[str, DatasetInfo], optional
        By name. The data sets of both references are described from their rows where they are not given.
    metrics : Mapping[str, Mapping[str, Metric]], optional
        By data set, then by name.
    task, signal, confidence, input_rules, limits, outcomes, training, description, author, tags
        Entries of the manifest as they are.

    Returns
    -------
    Path
        The package's folder.

    Raises
    ------
    PackageError
        Where the model does not load, or does not repeat the golden rows within their tolerance; where the golden rows
        break the package's own rules; where entries contradict each other or the graph; where it cannot be written.
    DataError
        Where reference rows do not fit the model, or those of the outputs are not out of sample.
    """
    graph = read_graph(model)
    check_golden(golden, graph.inputs, graph.outputs)
    described = {rows.dataset: rows.describe() for rows in (reference, outputs_reference) if rows is not None}
    described |= datasets or {}
    if outputs_reference is not None:
        check_out_of_sample(reference, outputs_reference, described)
    if output_rules is None:
        output_rules = tuple(_default_rules(task, graph.outputs, golden))
    baseline = make_baseline(
        graph.inputs,
        graph.outputs,
        reference,
        outputs_reference,
        feature_names=tuple(feature_names),
        categorical=categorical,
    )
    payload = {MODEL_FILE: model, GOLDEN_FILE: write_golden(golden), BASELINE_FILE: write_baseline(baseline)}
    manifest = make_manifest(
        name=name,
        description=description,
        author=author,
        tags=dict(tags or {}),
        task=task,
        inputs=graph.inputs,
        outputs=graph.outputs,
        feature_names=tuple(feature_names),
        signal=signal,
        confidence=confidence,
        input_rules=input_rules or InputRules(),
        output_rules=tuple(output_rules),
        limits=limits or Limits(),
        outcomes=outcomes,
        training=training or Training(),
        datasets=described,
        baseline_inputs=reference.dataset,
        baseline_outputs=outputs_reference.dataset if outputs_reference else "",
        metrics={dataset: dict(figures) for dataset, figures in (metrics or {}).items()},
        files={file: describe_file(data) for file, data in payload.items()},
    )
    _check_own_rules(manifest, golden)
    files = payload | {MANIFEST_FILE: manifest.canonical(), DIGEST_FILE: witness_file(manifest.digest)}
    folder = out / manifest.digest
    check_model(verify_files(folder, files))
    with staged_folder(out, files) as staged:
        publish_folder(staged, folder)
    return read_package(folder).path


def _default_rules(task: Task, outputs: tuple[TensorSpec, ...], golden: Golden) -> Iterator[OutputRule]:
    for spec in outputs:
        if spec.datatype not in ("FP16", "FP32", "FP64"):
            continue
        yield OutputRule(name=f"{spec.name}_finite", output=spec.name, kind="finite")
        if task == "classification" and spec.name == "probabilities":
            yield OutputRule(
                name=f"{spec.name}_range",
                output=spec.name,
                kind="range",
                minimum=-_PROBABILITY_SLACK,
                maximum=1 + _PROBABILITY_SLACK,
            )
            if math.prod(golden.outputs[spec.name].shape[1:]) > 1:
                yield OutputRule(
                    name=f"{spec.name}_row_sum",
                    output=spec.name,
                    kind="row_sum",
                    minimum=1 - _ROW_SUM_SLACK,
                    maximum=1 + _ROW_SUM_SLACK,
                )


def _check_own_rules(manifest: Manifest, golden: Golden) -> None:
    """A package whose golden rows break its own rules would refuse its own answers."""
    for name, array in golden.inputs.items():
        if manifest.input_rules.finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise PackageError(
                f"golden input {name!r} holds NaN or infinity, but input_rules.finite refuses them; "
                "set it to false where the model takes missing values",
                field="input_rules.finite",
            )
    _check_bounds(manifest, golden)
    datatypes = {spec.name: spec.datatype for spec in manifest.outputs}
    for rule in manifest.output_rules:
        output, datatype = golden.outputs[rule.output], datatypes[rule.output]
        if datatype == "BYTES" or OutputLimits(rule, datatype).violations(as_rows(output)).any():
            raise PackageError(
                f"golden output {rule.output!r} breaks output rule {rule.name!r} ({rule.kind}) of the same package; "
                "correct the rule or the rows",
                field="output_rules",
            )


def _check_bounds(manifest: Manifest, golden: Golden) -> None:
    rules, names = manifest.input_rules, manifest.feature_names
    if not rules.bounds:
        return
    # Bounds are by feature name, and only a package of one input names features.
    [spec] = manifest.inputs
    lows, highs = feature_bounds(names, rules, spec.datatype)
    values = golden.inputs[spec.name]
    for place in np.argwhere(out_of_bounds(values, lows, highs)).tolist():
        feature = names[place[-1]]
        if rules.bounds[feature].policy == "reject":
            raise PackageError(
                f"golden input {spec.name!r}, row {place[0]}: feature {feature!r} is {values[tuple(place)]}, outside "
                f"its bounds {lows[place[-1]]} to {highs[place[-1]]} of the same package, which reject it; "
                "correct the bounds or the rows",
                field=f"input_rules.bounds.{feature}",
            )
