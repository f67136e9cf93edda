"""`tickserve package`: build a model package from files, look into one, verify one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tickserve.errors import DamagedPackageError, PackageError

if TYPE_CHECKING:
    from mlops.package import Manifest, Package

app = typer.Typer(help="Model packages: what is served, and the proof that it is that.", no_args_is_help=True)

_Folder = Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Folder of the package.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def build(
    model: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="Model: .onnx, XGBoost .json or .ubj, LightGBM .txt."),
    ],
    name: Annotated[str, typer.Option(help="Model name.")],
    reference: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="Rows of the training period: .csv, .npz or .parquet."),
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder to write the package into, under its digest.")],
    outputs_reference: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default=False,
            help="Rows that the model was not trained on, for the baseline of its outputs.",
        ),
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default=False,
            help="Inputs with the training framework's outputs, .npz of input:NAME and output:NAME; needed for .onnx.",
        ),
    ] = None,
    time_column: Annotated[
        str | None, typer.Option(show_default=False, help="Column of event times in the reference files.")
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default=False,
            help="TOML with rules, signal, limits, metrics and whatever else the manifest says.",
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Build a package from a model that anybody trained, reference rows and golden rows."""
    from mlops.package import build_from_files, check_model, read_package, read_spec

    folder = build_from_files(
        model,
        out,
        name=name,
        reference=reference,
        outputs_reference=outputs_reference,
        golden=golden,
        time_column=time_column,
        spec=read_spec(spec) if spec else None,
    )
    package = read_package(folder)
    max_error = check_model(package)
    if as_json:
        typer.echo(json.dumps({"path": str(folder), "digest": package.digest, "max_error": max_error}))
    else:
        typer.echo(f"{folder}\nlargest difference from the golden rows: {max_error:.3g}")


@app.command()
def inspect(folder: _Folder, as_json: _Json = False) -> None:
    """Show what a package says about its model, after checking its files."""
    from mlops.package import read_package

    package = read_package(folder)
    if as_json:
        manifest = package.manifest.model_dump(mode="json")
        typer.echo(json.dumps({"path": str(folder), "digest": package.digest, "manifest": manifest}, indent=2))
    else:
        _show(package, Console())


@app.command()
def verify(folder: _Folder, as_json: _Json = False) -> None:
    """Check every file of a package, load its model and run its golden rows. Exit 1 where anything is wrong."""
    from mlops.package import check_model, read_package

    try:
        package = read_package(folder)
        max_error = check_model(package)
    except PackageError as error:
        if not as_json:
            raise
        verdict = {
            "ok": False,
            "is_damaged": isinstance(error, DamagedPackageError),
            "field": error.field,
            "error": error.message,
        }
        typer.echo(json.dumps(verdict))
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"ok": True, "digest": package.digest, "max_error": max_error}))
    else:
        typer.echo(f"{package.digest} is whole; largest difference from the golden rows: {max_error:.3g}")


def _show(package: "Package", console: Console) -> None:
    manifest = package.manifest
    facts = Table.grid(padding=(0, 2))
    for label, fact in _facts(package):
        facts.add_row(f"[dim]{label}[/]", escape(fact))
    console.print(facts, highlight=False)
    for table in (_schema(manifest), _rules(manifest), _datasets(manifest), _metrics(manifest), _files(manifest)):
        if table.row_count:
            console.print(table, highlight=False)


def _facts(package: "Package") -> list[tuple[str, str]]:
    manifest, limits = package.manifest, package.manifest.limits
    facts = [
        ("model", f"{manifest.name} ({manifest.task})"),
        ("digest", package.digest),
        ("description", manifest.description),
        ("author", manifest.author),
        ("tags", ", ".join(f"{tag}={value}" for tag, value in manifest.tags.items())),
        ("trained by", " ".join((manifest.training.framework, manifest.training.estimator)).strip()),
        ("features", ", ".join(manifest.feature_names)),
        ("signal", _mapping(manifest.signal)),
        ("confidence", _mapping(manifest.confidence)),
        ("limits", f"{limits.max_rows} rows, latency budget {limits.latency_budget_us} us"),
    ]
    if package.golden is not None:
        facts.append(("golden rows", f"rtol {package.golden.rtol:g}, atol {package.golden.atol:g}"))
    return [(label, fact) for label, fact in facts if fact]


def _mapping(mapping: Any) -> str:
    if mapping is None:
        return ""
    source = f"max({mapping.output})" if mapping.column is None else f"{mapping.output}[{mapping.column}]"
    return f"{mapping.scale:g} * {source} + {mapping.offset:g}"


def _schema(manifest: "Manifest") -> Table:
    table = Table("tensor", "name", "datatype", "shape", title="schema", title_justify="left")
    for kind, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            table.add_row(kind, escape(tensor.name), tensor.datatype, escape(str(list(tensor.shape))))
    return table


def _rules(manifest: "Manifest") -> Table:
    table = Table("on", "rule", "from", "to", "policy", title="rules", title_justify="left")
    if manifest.input_rules.finite:
        table.add_row("every input", "finite", "", "", "reject")
    for name, bounds in manifest.input_rules.bounds.items():
        table.add_row(escape(name), "bounds", _number(bounds.minimum), _number(bounds.maximum), bounds.policy)
    time = manifest.input_rules.event_time
    if time.max_age_s is not None or time.max_future_s is not None:
        oldest, newest = _number(time.max_age_s, "-", " s"), _number(time.max_future_s, "+", " s")
        table.add_row("event time", "age", oldest, newest, time.policy)
    for rule in manifest.output_rules:
        kind = escape(f"{rule.name} ({rule.kind})")
        table.add_row(escape(rule.output), kind, _number(rule.minimum), _number(rule.maximum), rule.policy)
    return table


def _number(value: float | None, sign: str = "", unit: str = "") -> str:
    return "" if value is None else f"{sign}{value:g}{unit}"


def _datasets(manifest: "Manifest") -> Table:
    table = Table("data set", "rows", "from", "to", "baseline of", "fingerprint", title="data", title_justify="left")
    for name, dataset in manifest.datasets.items():
        uses = (("inputs", manifest.baseline_inputs), ("outputs", manifest.baseline_outputs))
        table.add_row(
            escape(name),
            str(dataset.rows),
            dataset.first or "unknown",
            dataset.last or "unknown",
            ", ".join(place for place, used in uses if used == name),
            dataset.fingerprint[:12],
        )
    return table


def _metrics(manifest: "Manifest") -> Table:
    table = Table("data set", "metric", "value", "standard error", "n", title="metrics", title_justify="left")
    for dataset, figures in manifest.metrics.items():
        for name, metric in figures.items():
            error = "" if metric.standard_error is None else f"{metric.standard_error:.4g}"
            table.add_row(escape(dataset), escape(name), f"{metric.value:.4g}", error, str(metric.n))
    return table


def _files(manifest: "Manifest") -> Table:
    table = Table("file", "bytes", title="files", title_justify="left")
    table.add_column("SHA-256", overflow="fold")
    for name, entry in manifest.files.items():
        table.add_row(escape(name), str(entry.size_bytes), entry.sha256)
    return table
