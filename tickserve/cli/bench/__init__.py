"""`tickserve bench`: puts any Open Inference Protocol server under load, and says how far its own figures go."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tickserve.cli.connection import TlsCa, TlsCert, TlsKey
from tickserve.cli.predict import DEFAULT_ADDRESS
from tickserve.errors import ConfigurationError, TickserveError

if TYPE_CHECKING:
    from mlops.package import Package
    from tickserve.cli.bench.payload import Inputs, Wanted
    from tickserve.cli.bench.target import Schema
    from tickserve.load import ClosedLoop, OpenLoop, Result

GOLDEN, RANDOM = "golden", "random"
#: Pieces of the measured time, for the picture over time; none is shorter than `_MIN_INTERVAL_S`.
_INTERVALS = 60
_MIN_INTERVAL_S = 0.1
MAX_SECONDS = 1e6
#: Each is a task of the generator's, some kilobytes; no server takes so many at once.
MAX_IN_FLIGHT = 100_000


def bench(
    model: Annotated[str, typer.Argument(help="Model to ask.", show_default=False)],
    *,
    address: Annotated[
        str, typer.Option(envvar="TICKSERVE_ADDRESS", help="Server, host:port or unix:/path.")
    ] = DEFAULT_ADDRESS,
    api: Annotated[
        str, typer.Option(help="infer (any server of the protocol) or predict (tickserve's own).")
    ] = "infer",
    version: Annotated[str, typer.Option(help="Ask for one version.", show_default=False)] = "",
    is_open: Annotated[
        bool, typer.Option("--open/--closed", help="A constant rate, or so many requests in flight.")
    ] = False,
    rate: Annotated[float | None, typer.Option(help="Requests a second, of --open.", show_default=False)] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Requests in flight, of --closed; 1 by default.", show_default=False)
    ] = None,
    max_in_flight: Annotated[
        int | None,
        typer.Option(help="With --open none is sent while so many are unanswered; 10000.", show_default=False),
    ] = None,
    streams: Annotated[bool, typer.Option("--stream", help="One stream on each connection instead of calls.")] = False,
    connections: Annotated[int, typer.Option(min=1, max=10_000, help="Connections, which requests take in turn.")] = 1,
    duration: Annotated[float, typer.Option(help="Seconds that are measured.")] = 10.0,
    warmup: Annotated[float, typer.Option(help="Seconds before them that are not.")] = 1.0,
    deadline: Annotated[float, typer.Option(help="Seconds after which a request counts as unanswered.")] = 5.0,
    payload: Annotated[
        str | None,
        typer.Option(
            help="golden (of --package), random, or a file: .npy, or .npz by input name. By default golden where "
            "there is a package, else random.",
            show_default=False,
        ),
    ] = None,
    package: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Package of the model, for rows and rules.", show_default=False
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a request.")] = 1,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="NAME:D1,D2,... for an input whose shape is open.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random payload.")] = 0,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", dir_okay=False, help="Write the JSON here, too.", show_default=False)
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", dir_okay=False, help="Draw the latencies (SVG).", show_default=False)
    ] = None,
    raw_file: Annotated[
        Path | None,
        typer.Option("--raw", dir_okay=False, help="Write each request's times (.npy).", show_default=False),
    ] = None,
) -> None:
    """Put a server under load and measure it. Exit 1 where the figures are not to be trusted; the flags say why."""
    pacing = _pacing(is_open, rate, concurrency, max_in_flight)
    _check_seconds(duration=duration, deadline=deadline)
    if not 0 <= warmup <= MAX_SECONDS:
        raise ConfigurationError(f"--warmup {warmup:g}: seconds of at least 0 are expected", field="warmup")
    _check_files(report=report_file, plot=plot_file, raw=raw_file)
    if payload == GOLDEN and package is None:
        raise ConfigurationError("--payload golden needs --package, whose rows they are", field="payload")

    from tickserve import load as generator
    from tickserve.cli.bench import payload as payloads
    from tickserve.cli.bench import plot, report
    from tickserve.cli.bench.target import Api, Target, check_target_address, describe, read_pem, server_name, try_once

    if api not in set(Api):
        raise ConfigurationError(f"--api {api!r} is neither infer nor predict", field="api")
    if plot_file is not None:
        plot.check_can_draw()
    tls = read_pem(tls_ca, tls_cert, tls_key)
    address = check_target_address(address, uses_tls=tls is not None)
    target = Target(address, model, version, Api(api), deadline, tls)

    held = _read_package(package)
    wanted = payloads.Wanted(rows, _shapes(shape or []), seed)
    schema = describe(target)
    kind = payload or (RANDOM if package is None else GOLDEN)
    requests = _requests(kind, held, schema, wanted)
    if schema.max_age_s is not None and schema.takes_event_time and schema.max_age_s < warmup + duration:
        raise ConfigurationError(
            f"the model refuses event times older than {schema.max_age_s:g} s, and requests are made once: "
            "use a shorter --duration, or --api infer",
            field="duration",
        )
    messages = payloads.encode(target, schema, requests)
    try_once(target, messages)
    planned = replace(
        target.load(messages, streams=streams),
        pacing=pacing,
        connections=connections,
        warmup_s=warmup,
        duration_s=duration,
        interval_s=max(duration / _INTERVALS, _MIN_INTERVAL_S),
        keeps_times=raw_file is not None,
    )
    name = server_name(target)
    result = generator.run(planned)
    found = report.flags(planned, result)
    whole = report.as_json(
        planned,
        result,
        target={
            "address": address,
            "model": model,
            "version": version or None,
            "api": api,
            "server": name,
            "tls": tls is not None,
        },
        payload={
            "kind": kind if kind in (GOLDEN, RANDOM) else Path(kind).name,
            "rows": payloads.rows_of(requests, rows),
            "different_requests": len(messages),
            "request_bytes": round(sum(map(len, messages)) / len(messages)),
        },
        found=found,
    )
    # Shown before they are written: whoever has measured for an hour is not to lose it to a full disk.
    if as_json:
        typer.echo(json.dumps(whole, indent=2, allow_nan=False))
    else:
        report.show(Console(), whole)
    complaints = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    for flag in found:
        complaints.print(
            f"{'NOT TO BE TRUSTED: ' if flag.spoils else ''}{flag.text}", style="red" if flag.spoils else ""
        )
    _write(whole, result, report_file, plot_file, raw_file)
    if any(flag.spoils for flag in found):
        raise typer.Exit(1)


def _pacing(
    is_open: bool, rate: float | None, concurrency: int | None, max_in_flight: int | None
) -> "OpenLoop | ClosedLoop":
    from tickserve.load import ClosedLoop, OpenLoop

    for name, value in (("concurrency", concurrency), ("max-in-flight", max_in_flight)):
        if value is not None and not 1 <= value <= MAX_IN_FLIGHT:
            raise ConfigurationError(f"--{name} {value}: 1 to {MAX_IN_FLIGHT} are expected", field=name)
    if not is_open:
        if rate is not None or max_in_flight is not None:
            raise ConfigurationError("--rate and --max-in-flight belong to --open", field="rate")
        return ClosedLoop(concurrency or 1)
    if concurrency is not None:
        raise ConfigurationError("--concurrency belongs to --closed; --open has --max-in-flight", field="concurrency")
    if rate is None or not 0 < rate < 1e7:
        raise ConfigurationError("--open needs --rate, requests a second, above 0 and below 10 million", field="rate")
    return OpenLoop(rate) if max_in_flight is None else OpenLoop(rate, max_in_flight)


def _check_seconds(**seconds: float) -> None:
    for name, value in seconds.items():
        if not 0 < value <= MAX_SECONDS:
            raise ConfigurationError(f"--{name} {value:g}: seconds above 0 are expected", field=name)


def _check_files(**files: Path | None) -> None:
    """Before a run, not after it: each can be written, and none over another."""
    given = {name: file for name, file in files.items() if file is not None}
    if len({file.resolve() for file in given.values()}) < len(given):
        names = " and ".join(f"--{name}" for name in given)
        raise ConfigurationError(f"{names} name one file twice; each would overwrite the other", field="report")
    for name, file in given.items():
        _check_writable(name, file)


def _check_writable(name: str, path: Path) -> None:
    """Leaves things as they were."""
    was_there = path.exists()
    try:
        with path.open("ab"):
            pass
        if not was_there:
            path.unlink()
    except OSError as error:
        raise ConfigurationError(f"--{name} {path} cannot be written: {error.strerror}", field=name) from None


def _shapes(given: list[str]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for text in given:
        name, colon, sizes = text.rpartition(":")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            shape = ()
        if not colon or not shape or min(shape) < 1:
            raise ConfigurationError(f"--shape {text!r} is not NAME:D1,D2,... of sizes above 0", field="shape")
        shapes[name] = shape
    return shapes


def _read_package(folder: Path | None) -> "Package | None":
    from mlops.package import read_package

    return None if folder is None else read_package(folder)


def _requests(kind: str, package: "Package | None", schema: "Schema", wanted: "Wanted") -> "list[Inputs]":
    from tickserve.cli.bench import payload as payloads

    if kind == RANDOM:
        return payloads.random(schema, wanted, None if package is None else package.manifest)
    if kind == GOLDEN and package is not None:
        return payloads.golden(package, schema, wanted)
    return payloads.from_file(Path(kind), schema, wanted)


def _write(
    whole: dict[str, Any], result: "Result", report_file: Path | None, plot_file: Path | None, raw_file: Path | None
) -> None:
    import numpy as np

    from tickserve.cli.bench import plot

    def save(file: Path) -> None:
        with file.open("wb") as opened:
            np.save(opened, result.times, allow_pickle=False)

    writers: list[tuple[Path | None, Callable[[Path], object]]] = [
        (report_file, lambda file: file.write_text(json.dumps(whole, indent=2, allow_nan=False) + "\n")),
        (raw_file, save),
        (plot_file, lambda file: plot.draw(whole, file)),
    ]
    failed = []
    for file, write in writers:
        try:
            if file is not None:
                write(file)
        except OSError as error:
            failed.append(f"{file} could not be written: {error.strerror or error}")
    if failed:
        raise TickserveError("; ".join(failed))
