"""`tickserve predict`: one request from the command line."""

import csv
import json
import math
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tickserve.cli.connection import TlsCa, TlsCert, TlsKey, make_tls

if TYPE_CHECKING:
    from tickserve.client import Features
    from tickserve.prediction import FloatArray, Prediction

DEFAULT_ADDRESS = "127.0.0.1:8500"


def predict(
    named: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="One row by name.", show_default=False)
    ] = None,
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="Model to ask.")],
    address: Annotated[
        str, typer.Option(envvar="TICKSERVE_ADDRESS", help="Data listener, host:port or unix:/path.")
    ] = DEFAULT_ADDRESS,
    features: Annotated[
        str | None,
        typer.Option(
            help="JSON: an object or a list of them by name, numbers or rows of them by position; - reads stdin.",
            show_default=False,
        ),
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Rows under a header of feature names.", show_default=False)
    ] = None,
    version: Annotated[str | None, typer.Option(help="Pin one version.", show_default=False)] = None,
    request_id: Annotated[str | None, typer.Option(help="Id to find this request by.", show_default=False)] = None,
    routing_key: Annotated[str | None, typer.Option(help="Equal keys get equal versions.", show_default=False)] = None,
    entity: Annotated[
        list[str] | None, typer.Option(help="What the row is about, once a row.", show_default=False)
    ] = None,
    event_time: Annotated[
        str | None,
        typer.Option(
            help="When the features were true: `now`, or ISO 8601 with an offset such as Z.", show_default=False
        ),
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Deadline, in seconds.")] = 5.0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a server for a prediction: features as NAME=VALUE, --features or --csv."""
    given = _read_features(named or [], features, csv_file)
    when = None if event_time is None else _parse_time(event_time)

    from tickserve.client import Client

    with Client(address, model=model, timeout_s=timeout_s, tls=make_tls(tls_ca, tls_cert, tls_key)) as client:
        prediction = client.predict(
            given,
            version=version,
            request_id=request_id,
            routing_key=routing_key,
            entities=entity,
            event_time=when,
        )
    if as_json:
        typer.echo(json.dumps(_as_json(prediction), indent=2))
    else:
        _show(prediction, entity or [])


def _read_features(named: list[str], features: str | None, csv_file: Path | None) -> "Features":
    if sum((bool(named), features is not None, csv_file is not None)) != 1:
        raise typer.BadParameter("give the features in one way: NAME=VALUE, --features or --csv")
    if csv_file is not None:
        return _read_csv(csv_file)
    if features is not None:
        return _read_json(features)
    pairs: dict[str, float] = {}
    for pair in named:
        name, equals, text = pair.rpartition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE")
        if name in pairs:
            raise typer.BadParameter(f"feature {name!r} appears twice")
        pairs[name] = _parse_number(text, f"feature {name!r}")
    return pairs


def _read_json(text: str) -> "Features":
    try:
        parsed: Features = json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        raise typer.BadParameter(f"--features is no JSON: {error}") from None
    return parsed


def _read_csv(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            names = next(lines, [])
            return [_parse_line(names, line, f"{path}, line {lines.line_num}") for line in lines if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise typer.BadParameter(f"--csv {path} cannot be read: {error}") from None


def _parse_line(names: list[str], line: list[str], place: str) -> dict[str, float]:
    if len(line) != len(names):
        raise typer.BadParameter(f"{place} has {len(line)} values under {len(names)} names")
    parsed = {name: _parse_number(text, f"{place}, {name!r}") for name, text in zip(names, line, strict=True)}
    if len(parsed) != len(names):
        raise typer.BadParameter(f"a name appears twice in the header: {', '.join(names)}")
    return parsed


def _parse_number(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{place}: {text!r} is no number") from None


def _parse_time(text: str) -> datetime:
    if text == "now":
        return datetime.now(UTC)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"--event-time {text!r} is neither `now` nor ISO 8601 with an offset") from None


def _show(prediction: "Prediction", entities: list[str]) -> None:
    console = Console()
    console.print(
        f"{prediction.model} version {prediction.version} ({prediction.role}), digest {prediction.digest[:12]}, "
        f"position scale {prediction.position_scale:g}, {prediction.server_duration_ns / 1000:.0f} us in the server",
        markup=False,
        highlight=False,
    )
    columns = list(prediction.value_names) or [f"value {column}" for column in range(prediction.values.shape[1])]
    figures = list(prediction.values.T)
    for name, figure in (("signal", prediction.signal), ("confidence", prediction.confidence)):
        if figure is not None:
            columns.append(name)
            figures.append(figure)
    table = Table("row", *(["entity"] if entities else []))
    for column in columns:
        table.add_column(column, justify="right")
    for row in range(prediction.rows):
        table.add_row(str(row), *entities[row : row + 1], *(f"{figure[row]:.6g}" for figure in figures))
    console.print(table)
    for found in prediction.findings:
        console.print(
            f"finding: {found.kind}, row {found.row}, column {found.column}, rule {found.rule}",
            markup=False,
            highlight=False,
        )
    if prediction.findings_left_out:
        console.print(f"and {prediction.findings_left_out} findings more", highlight=False)


def _as_json(prediction: "Prediction") -> dict[str, Any]:
    return {
        "request_id": prediction.request_id,
        "model": prediction.model,
        "version": prediction.version,
        "digest": prediction.digest,
        "role": prediction.role,
        "plan_generation": prediction.plan_generation,
        "position_scale": prediction.position_scale,
        "server_duration_ns": prediction.server_duration_ns,
        "rows": prediction.rows,
        "value_names": prediction.value_names,
        "values": [_numbers(row) for row in prediction.values],
        "signal": None if prediction.signal is None else _numbers(prediction.signal),
        "confidence": None if prediction.confidence is None else _numbers(prediction.confidence),
        "findings": [
            {"kind": found.kind, "row": found.row, "column": found.column, "rule": found.rule}
            for found in prediction.findings
        ],
        "findings_left_out": prediction.findings_left_out,
    }


def _numbers(values: "FloatArray") -> list[float | str]:
    # JSON has no NaN and no infinities; strings keep them apart from null.
    floats: Iterable[float] = values.tolist()
    return [value if math.isfinite(value) else str(value) for value in floats]
