"""What the demo shows, step by step, and the facts that its report holds."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mlops.histogram import quantile_ns
from mlops.package import MODEL_FILE
from mlops.registry import Client as RegistryClient
from mlops.training import (
    KINDS,
    Bars,
    Kind,
    TrainedModel,
    close_times,
    comment,
    load_bars,
    report,
    test_rows,
    train_on,
)
from tickserve.cli.demo.history import compare_bits, show_history
from tickserve.cli.demo.process import ServerProcess, check_free, serve_command
from tickserve.cli.demo.promotion import ACTOR, publish
from tickserve.cli.demo.traffic import Traffic
from tickserve.cli.train import metric_tables, plain_metrics
from tickserve.client import Client, ControlClient, FailedChange, ServerStatus
from tickserve.errors import ConfigurationError, HaltedError, TickserveError

DATASET = "sp500"
FIRST: Kind = "logistic"
ADDRESS = "127.0.0.1:8500"
HTTP = "127.0.0.1:8501"
_REPLAY_S = 120.0
_SHOWN_ROWS = 5
_SHOWN_METRICS = (
    "tickserve_build_info",
    "tickserve_ready",
    "tickserve_requests_total",
    "tickserve_slow_requests_total",
)


class Show:
    """Runs the demo's steps in order. Each prints what it saw; nothing printed is made up."""

    def __init__(self, home: Path, console: Console, server: ServerProcess) -> None:
        self._home = home
        self._console = console
        self._server = server
        self._started = time.perf_counter()

    def run(self) -> dict[str, Any]:
        """Runs everything and returns the facts for the report. Raises TickserveError where a step goes wrong."""
        check_free(self._server.control, self._home)
        try:
            self._home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"home: cannot make {self._home}: {error.strerror}", field="home") from None
        with RegistryClient(home=self._home, actor=ACTOR) as registry:
            return self._run(registry)

    def _run(self, registry: RegistryClient) -> dict[str, Any]:
        bars = load_bars(DATASET)
        trained = [self._train(registry, bars, FIRST)]
        # What an earlier run left would be kept warm, and its damaged file never looked at.
        shutil.rmtree(self._home / "server" / "cache", ignore_errors=True)
        (self._home / "server" / "served.json").unlink(missing_ok=True)
        self._server.start()
        with Client(self._server.address, timeout_s=5.0) as client:
            self._first_prediction(client)
            self._title("The other models: trained, judged, promoted, and picked up by the running server")
            for sentence in report(bars).sentences():
                self._print(f"data: {sentence}")
            trained += [self._train(registry, bars, kind) for kind in KINDS if kind != FIRST]
            names = {model.name for model in trained}
            self._server.control.wait(
                lambda status: names <= {model.name for model in status.models if model.versions}, 120.0
            )
            self._metrics(trained)
            replayed = self._replay([model.name for model in trained])
            self._predictions(trained, replayed)
            stages = self._stages(trained)
            self._exposition()
            self._bad_requests(client)
            swapped = self._swap(registry, bars, client)
            self._halt(client)
            digests = {model.name: client.get_model(model.name).digest for model in trained}
            self._title("What the registry remembers")
            compare_bits(self._console, registry, client, trained[0].name, DATASET)
            remembered = show_history(self._console, registry)
        engine = self._server.control.status().engine
        self._title("The end")
        exit_code = self._server.stop()
        self._print(f"SIGTERM: the server answered what was in flight and exited with code {exit_code}")
        failed = sum(len(result["failures"]) for result in replayed)
        if failed or exit_code:
            raise TickserveError(
                f"{failed} requests failed, the server's exit code is {exit_code}; see {self._server.log}"
            )
        self._next_steps()
        latencies = np.concatenate([result["latencies_us"] for result in replayed])
        return {
            "engine": engine,
            "requests": sum(len(result["latencies_us"]) + len(result["failures"]) for result in replayed),
            "failed": failed,
            "p50_us": round(float(np.quantile(latencies, 0.5)), 1),
            "p99_us": round(float(np.quantile(latencies, 0.99)), 1),
            "digest": digests[trained[0].name],
            "metrics": plain_metrics(trained[0].metrics),
            "stages_us": stages,
            "swap": swapped,
            "registry": remembered,
            "models": {m.name: {"digest": digests[m.name], "metrics": plain_metrics(m.metrics)} for m in trained},
        }

    def _train(self, registry: RegistryClient, bars: Bars, kind: Kind, seed: int = 0) -> TrainedModel:
        started_at = datetime.now(UTC)
        with self._console.status(f"training {kind}"):
            model = train_on(bars, kind, seed=seed)
            published = publish(registry.registry, model, started_at)
        version = published.version
        if published.refusal:
            self._print(f"refused by the default gates: {published.refusal}")
        self._print(
            f"{model.name} version {version.version} is registered, approved and promoted"
            f"{' by the levels of the demo, to be shown and not traded' if published.refusal else ''}, "
            f"digest {version.digest[:12]}"
        )
        return model

    def _first_prediction(self, client: Client) -> None:
        sessions, features, names, _, _ = test_rows(DATASET)
        name = f"{DATASET}-{FIRST}"
        row = dict(zip(names, features[-1].tolist(), strict=True))
        answer = client.predict(row, model=name, entities=DATASET)
        signal = 0.0 if answer.signal is None else answer.signal[0]
        self._print(
            f"[bold]first prediction after {time.perf_counter() - self._started:.1f} s[/]: features of {sessions[-1]} "
            f"-> signal {signal:+.4f}, from {answer.model} version {answer.version} ({answer.role}), "
            f"digest {answer.digest[:12]}, {answer.server_duration_ns / 1000:.0f} us in the server"
        )

    def _metrics(self, trained: list[TrainedModel]) -> None:
        self._title("How good the models are, as measured")
        for table in metric_tables(trained):
            self._console.print(table)
        self._print(comment(trained))

    def _replay(self, names: list[str]) -> list[dict[str, Any]]:
        rows = len(test_rows(DATASET)[0])
        self._title(f"Every row of the test period, from a client process: {len(names)} models, {rows} rows each")
        with self._console.status("replaying the test period"):
            done = subprocess.run(
                [sys.executable, "-m", "tickserve.cli.demo.replay", self._server.address, DATASET, *names],
                stdout=subprocess.PIPE,
                timeout=_REPLAY_S,
                check=True,
            )
        results: list[dict[str, Any]] = json.loads(done.stdout)
        for result in results:
            for failure in result["failures"][:3]:
                self._print(f"[red]failed:[/] {failure}")
        table = _table("model", "requests", "failed", "p50 us", "p99 us", "largest us")
        for result in results:
            latencies = result["latencies_us"]
            requests = len(latencies) + len(result["failures"])
            figures = [f"{value:.0f}" for value in np.quantile(latencies, (0.5, 0.99, 1.0))] if latencies else ["-"] * 3
            table.add_row(result["model"], str(requests), str(len(result["failures"])), *figures)
        self._console.print(table)
        self._print("as the caller sees them: one Python client, one request at a time, its own cost included")
        return results

    def _predictions(self, trained: list[TrainedModel], replayed: list[dict[str, Any]]) -> None:
        sessions, _, _, _, returns = test_rows(DATASET)
        self._title("The last predictions: signal = 2 p(up) - 1, return = next open to the open after it")
        table = _table("session", *(model.kind for model in trained), "return")
        for place in range(len(sessions) - _SHOWN_ROWS, len(sessions)):
            signals = [_signal(result["signals"][place]) for result in replayed]
            table.add_row(str(sessions[place]), *signals, f"{returns[place]:+.2%}")
        self._console.print(table)

    def _stages(self, trained: list[TrainedModel]) -> dict[str, dict[str, float]]:
        name = trained[0].name
        self._title(f"Where the time goes in the server: {name}, us")
        stages: dict[str, dict[str, float]] = {}
        table = _table("stage", "p50", "p99", "p99.9", "requests")
        for histogram in self._server.control.counters().histograms:
            if histogram.model != name:
                continue
            quantiles = {
                f"p{100 * q:g}": round((quantile_ns(histogram.counts, q) or 0.0) / 1000, 1) for q in (0.5, 0.99, 0.999)
            }
            stages[histogram.stage] = quantiles
            cells = (f"{value:.1f}" for value in quantiles.values())
            table.add_row(histogram.stage, *cells, str(sum(histogram.counts)))
        self._console.print(table)
        return stages

    def _exposition(self) -> None:
        self._title(f"What Prometheus scrapes from http://{self._server.http}/metrics, some lines of it")
        with urllib.request.urlopen(f"http://{self._server.http}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        for line in lines:
            if line.startswith(_SHOWN_METRICS):
                self._console.print(line, markup=False, soft_wrap=True)

    def _bad_requests(self, client: Client) -> None:
        _, features, names, _, _ = test_rows(DATASET)
        row = features[-1]
        with_nan = row.copy()
        with_nan[2] = np.nan
        model = f"{DATASET}-{FIRST}"
        wrong: list[tuple[str, Callable[[], object]]] = [
            ("a NaN", lambda: client.predict(with_nan, model=model)),
            ("a feature too few", lambda: client.predict(row[:-1], model=model)),
            ("an unknown feature", lambda: client.predict(dict.fromkeys((*names, "beta"), 0.0), model=model)),
            (
                "an event time in the future",
                lambda: client.predict(row, model=model, event_time=time.time_ns() + 10**12),
            ),
            ("an unknown model", lambda: client.predict(row, model="nasdaq-llm")),
        ]
        self._title("What a bad request gets")
        for what, call in wrong:
            try:
                call()
            except TickserveError as error:
                self._console.print(
                    f"{what}: {error.code.name} / {error.reason}: {error}", markup=False, soft_wrap=True
                )
            else:
                raise TickserveError(f"the server answered {what}")

    def _swap(self, registry: RegistryClient, bars: Bars, client: Client) -> dict[str, Any]:
        """A second version is promoted under load: first with a flipped byte in its file, then whole."""
        self._title("A new version under load: first with one flipped byte, then whole")
        model, control = f"{DATASET}-{FIRST}", self._server.control
        row = test_rows(DATASET)[1][-1]
        served = client.predict(row, model=model).version
        with Traffic(self._server.address, DATASET, model) as traffic:
            # The gates read the file too, so it is damaged between them and the server.
            control.hold(model, actor=ACTOR, reason="until the file is damaged")
            self._train(registry, bars, FIRST, seed=1)
            live = registry.registry.resolve(model, "live")
            number = str(live.version)
            sha256 = registry.registry.manifest(live).files[MODEL_FILE].sha256
            artifact = self._home / "registry" / "artifacts" / "sha256" / sha256[:2] / sha256
            flip_byte(artifact)
            try:
                control.follow(model, actor=ACTOR, reason="the file is damaged")
                status = control.wait(lambda status: _failure(status, model, number) is not None, 120.0)
                failed = _failure(status, model, number)
                if failed is not None:
                    text = f"version {failed.version} refused: {failed.code.name}: {failed.message}"
                    self._console.print(text, markup=False, soft_wrap=True)
                answer = client.predict(row, model=model)
                self._print(f"version {answer.version} still answers, digest {answer.digest[:12]}")
                if answer.version != served:
                    raise TickserveError(f"version {answer.version} answers, version {served} was expected")
            finally:
                flip_byte(artifact)
            control.follow(model, actor=ACTOR, reason="the file is whole again")
            control.wait(lambda status: _stable(status, model) == number, 120.0)
            answer = client.predict(row, model=model)
            self._print(f"version {answer.version} answers, digest {answer.digest[:12]}; version {served} is kept warm")
            seen = traffic.end()
        self._print(
            f"{seen.requests} requests, {seen.failed} failed, {len(seen.versions)} versions seen"
            + (f": {seen.failure}" if seen.failed else "")
        )
        if seen.failed:
            raise TickserveError(f"{seen.failed} requests failed during the swap: {seen.failure}")
        return {"requests": seen.requests, "failed": seen.failed, "versions": list(seen.versions)}

    def _halt(self, client: Client) -> None:
        self._title("Halt and resume")
        model = f"{DATASET}-{FIRST}"
        row = test_rows(DATASET)[1][-1]
        self._server.control.halt(model, reason="demonstration", actor=ACTOR)
        try:
            client.predict(row, model=model)
        except HaltedError as error:
            self._print(f"halted: {error.code.name} / {error.reason}: {error}")
        else:
            raise TickserveError("a halted model answered")
        self._server.control.resume(model, actor=ACTOR)
        answer = client.predict(row, model=model)
        self._print(f"resumed: version {answer.version} answers again")

    def _next_steps(self) -> None:
        self._title("What to type next")
        self._console.print("make serve            keep these models serving, with lines to copy", markup=False)
        self._console.print(".venv/bin/tickserve --help", markup=False)

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.print(f"[bold cyan]{text}[/]", soft_wrap=True)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def flip_byte(file: Path) -> None:
    """Inverts the lowest bit of the byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _failure(status: ServerStatus, model: str, version: str) -> FailedChange | None:
    changes = (change for found in status.models if found.name == model for change in found.failed)
    return next((change for change in changes if change.version == version), None)


def _stable(status: ServerStatus, model: str) -> str:
    found = status.model(model)
    return "" if found is None else found.stable


def serve_until_stopped(home: Path, console: Console) -> None:
    """Serves the demo's models on the usual ports, trains the first one where there is none, and says how to ask."""
    with contextlib.closing(ControlClient(f"unix:{home / 'admin.sock'}")) as control:
        check_free(control, home)
        with RegistryClient(home=home, actor=ACTOR) as registry:
            if not registry.registry.wanted().models:
                publish(registry.registry, train_on(load_bars(DATASET), FIRST), datetime.now(UTC))
        server = subprocess.Popen(serve_command(home, "--listen", ADDRESS, "--http", HTTP))
        try:
            control.wait(lambda status: server.poll() is not None or status.is_serving, 60.0)
            if server.poll() is None:
                _show_lines(console, home)
            server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
        finally:
            if server.poll() is None:
                server.terminate()
                server.wait()
    if server.returncode:
        raise TickserveError(f"the server ended with exit code {server.returncode}; its log is above")


def _show_lines(console: Console, home: Path) -> None:
    sessions, features, names, _, _ = test_rows(DATASET)
    model = f"{DATASET}-{FIRST}"
    pairs = {name: float(f"{value:.6g}") for name, value in zip(names, features[-1].tolist(), strict=True)}
    python = f'print(tickserve.Client("{ADDRESS}", model="{model}").predict({json.dumps(pairs)}).signal)'
    predict = json.dumps({"model": model, "named": [{"name": name, "value": value} for name, value in pairs.items()]})
    grpcurl = "grpcurl -plaintext -import-path protos -proto tickserve/v1/prediction.proto"
    lines = [
        f"# the features of {sessions[-1]}, known from {close_times(sessions[-1:])[0].astype('M8[m]')} UTC on",
        f".venv/bin/tickserve predict -m {model} " + " ".join(f"{name}={value}" for name, value in pairs.items()),
        f".venv/bin/python -c 'import tickserve; {python}'",
        f"{grpcurl} -d '{predict}' {ADDRESS} tickserve.v1.Prediction/Predict",
        f"TICKSERVE_HOME={home} .venv/bin/tickserve status",
        f"curl -s http://{HTTP}/metrics | grep tickserve_requests_total",
    ]
    console.print("\n[bold cyan]Serving until Ctrl-C. From another terminal, in this folder:[/]")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print()


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _signal(signal: float | None) -> str:
    return "failed" if signal is None else f"{signal:+.4f}"
