"""From a broken rule to a smaller position and a page: server, sidecar, Prometheus and Alertmanager, all real."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from mlops.alerts.actions import ACTOR
from mlops.alerts.history import read_history
from mlops.package import Horizon, OutcomeSpec, OutputRule, ReferenceRows
from mlops.package.manifest import ColumnMapping
from mlops.registry import Registry, RuleOverride
from mlops.registry.desired import make_state
from mlops.registry.opening import open_registry
from tests.e2e.conftest import PROGRAM, Launcher, Running
from tests.integration.monitoring import DEPLOY, alertmanager, fetch, free_port, prometheus, wait_until, webhook
from tests.support.certificates import Authority
from tests.support.packages import add_constant, build_constant
from tests.support.registry import ANN, add, gates
from tickserve.client import Client
from tickserve.v1 import outcomes_pb2
from tickserve.v1.outcomes_pb2_grpc import OutcomesStub

RULE = OutputRule(name="small", output="values", kind="range", maximum=1.0, policy="flag")
DAY_NS = 86_400_000_000_000
FIRST_DAY = datetime(2001, 1, 1, tzinfo=UTC)
DAILY = OutcomeSpec(kind="time_series", horizons=(Horizon(name="1d", periods=1),), periods_per_year=252.0, cost_bp=0.0)
SIGNAL = ColumnMapping(output="values", column=0)
MATRIX = """
[[row]]
name = "output-violations"
source = "server"
figure = "violation_rate"
basis = "lower"
[row.critical]
enter = 0.02
leave = 0.005
windows = 2
clear_windows = 2
actions = ["notify", "set_position_scale"]
position_scale = 0.5
"""

SHARPE = """
[[row]]
name = "losses"
source = "outcome"
figure = "sharpe"
basis = "upper"
direction = "below"
horizon = "pnl"
length = 20
[row.critical]
enter = 0.0
leave = 0.5
actions = ["set_position_scale"]
position_scale = 0.25
"""

DRIFT = """
[[row]]
name = "inputs"
source = "drift_input"
figure = "psi"
basis = "state"
[row.critical]
actions = ["request_retraining", "set_position_scale"]
position_scale = 0.5
"""


@dataclass(frozen=True)
class Beside:
    """A sidecar process, and the address of its metrics."""

    process: subprocess.Popen[str]
    http: str


@contextmanager
def sidecar(launcher: Launcher, *options: str, **settings: str) -> Iterator[Beside]:
    """A sidecar beside the launcher's server."""
    log = launcher.home / "sidecar.log"
    addresses = ["--http", "127.0.0.1:0", "--listen", f"unix:{launcher.home}/outcomes.sock"]
    environment = launcher.environment | {f"TICKSERVE_SIDECAR_{name.upper()}": text for name, text in settings.items()}
    with open(log, "w") as stderr:
        process = subprocess.Popen(
            [PROGRAM, "sidecar", *addresses, "--log-format", "json", *options],
            env=environment,
            stderr=stderr,
            text=True,
        )
    try:

        def ready() -> list[str]:
            assert process.poll() is None, log.read_text()
            return [line for line in log.read_text().splitlines() if '"event": "ready"' in line]

        yield Beside(process, json.loads(wait_until("sidecar ready", ready)[0])["http"])
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def registry(launcher: Launcher) -> Iterator[Registry]:
    """The registry of the launcher's home: one version of `demo`, with a rule for its answers."""
    home = launcher.home
    open_registry(home).close()
    url, artifacts = f"sqlite:///{home / 'registry' / 'registry.db'}", str(home / "registry" / "artifacts")
    with Registry(url, artifacts, home / "cache" / "packages", home / "keys", evaluate=gates("pass")) as opened:
        add(opened, build_constant(home / "packages", 0.5, output_rules=(RULE,)))
        opened.promote("demo", 1, ANN)
        yield opened


class Traffic:
    """Requests of many keys, and the scale of the last answer."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def scale(self) -> float:
        for key in range(64):
            answer = self._client.predict([1.0, 2.0, 3.0], routing_key=f"account-{key}")
        return answer.position_scale


def override(registry: Registry, *rules: RuleOverride) -> None:
    """What an operator replaces of the package's rules, beside everything else that is desired."""
    desired = registry.desired("demo")
    assert desired is not None
    known = {name: getattr(desired.state, name) for name in type(desired.state).model_fields}
    registry.set_desired("demo", make_state(**(known | {"rule_overrides": rules})), ANN, desired.revision)


def test_broken_rule_reduces_the_position_pages_and_is_taken_back(launcher: Launcher, registry: Registry) -> None:
    (launcher.home / "matrix.toml").write_text(MATRIX)
    with (
        webhook() as hook,
        launcher.serve("--source", "registry") as server,
        Client(server.address, model="demo", timeout_s=60.0) as client,
        sidecar(
            launcher,
            alert_matrix=str(launcher.home / "matrix.toml"),
            alert_webhook=f"http://127.0.0.1:{hook.server_port}/sidecar",
            alert_window_s="0.5",
        ) as beside,
        alertmanager(launcher.home, hook) as manager,
        prometheus(launcher.home, {"127.0.0.1:8501": server.http, "127.0.0.1:8503": beside.http}, manager) as watching,
    ):
        traffic = Traffic(client)
        hook.wait_for("/watchdog", lambda body: body["alerts"][0]["labels"]["alertname"] == "TickserveWatchdog")

        assert traffic.scale() == 1.0
        override(registry, RuleOverride(rule="small", maximum=0.4))
        wait_until("smaller position", lambda: traffic.scale() == 0.5)
        desired = registry.desired("demo")
        assert desired is not None
        assert (desired.actor, desired.state.position_scale) == (ACTOR, 0.5)
        assert "violation_rate 1 (1 to 1)" in desired.reason
        told = hook.wait_for("/sidecar", lambda body: body["change"] == "raised")
        assert (told["row"], told["level"]) == ("output-violations", "critical")

        def keep_asking(holds: Any) -> Any:
            traffic.scale()
            return holds()

        def paged(status: str) -> Any:
            return lambda body: any(
                alert["labels"]["alertname"] == "TickserveAlertRowCritical" and alert["status"] == status
                for alert in body["alerts"]
            )

        wait_until("alert firing", lambda: keep_asking(lambda: "TickserveAlertRowCritical" in watching.firing()))
        hook.wait_for("/on-call", paged("firing"))
        broken = [rule["name"] for rule in watching.rules() if rule["health"] == "err"]
        assert broken == []
        assert {found["metric"]["job"] for found in watching.query("up == 1")} == {"tickserve", "tickserve-sidecar"}
        shares = wait_until("recorded rates", lambda: keep_asking(lambda: watching.query("tickserve:requests:rate_5m")))
        assert shares[0]["metric"]["model"] == "demo"

        override(registry)
        wait_until("whole position", lambda: traffic.scale() == 1.0)
        hook.wait_for("/sidecar", lambda body: body["change"] == "cleared")
        hook.wait_for("/on-call", paged("resolved"))
    rows = [row for row in read_history(launcher.home / "alerts" / "demo" / "history.jsonl") if row.action != "record"]
    done = [(row.action, row.change, row.result) for row in rows]
    assert done == [(do, change, "done") for change in ("raised", "cleared") for do in ("set_position_scale", "notify")]
    assert registry.verify().findings == ()


def test_sidecar_that_is_killed_repeats_nothing_and_forgets_nothing(launcher: Launcher, registry: Registry) -> None:
    (launcher.home / "matrix.toml").write_text(MATRIX)
    settings = {"alert_matrix": str(launcher.home / "matrix.toml"), "alert_window_s": "0.5"}
    state = launcher.home / "alerts" / "demo" / "state.json"
    with (
        webhook() as hook,
        launcher.serve("--source", "registry") as server,
        Client(server.address, model="demo", timeout_s=60.0) as client,
    ):
        traffic = Traffic(client)
        with sidecar(launcher, **settings, alert_webhook=f"http://127.0.0.1:{free_port()}/nobody") as beside:
            override(registry, RuleOverride(rule="small", maximum=0.4))
            wait_until("smaller position", lambda: traffic.scale() == 0.5)
            wait_until("only the notice left", lambda: len(json.loads(state.read_text())["outbox"]) == 1)
            beside.process.kill()
            beside.process.wait()
        desired = registry.desired("demo")
        assert desired is not None
        with sidecar(launcher, **settings, alert_webhook=f"http://127.0.0.1:{hook.server_port}/sidecar"):
            told = hook.wait_for("/sidecar", lambda body: body["change"] == "raised")
            assert told["level"] == "critical"
            assert registry.desired("demo") == desired
            override(registry)
            wait_until("whole position", lambda: traffic.scale() == 1.0)


def test_losses_that_a_strategy_reports_reduce_the_position(launcher: Launcher) -> None:
    (launcher.home / "matrix.toml").write_text(SHARPE)
    add_constant(launcher.models, 0.5, outcomes=DAILY, signal=SIGNAL)
    returns = np.random.default_rng(5).normal(-0.01, 0.005, 30)
    reported = [
        outcomes_pb2.Outcome(
            outcome_id=f"pnl-{day}",
            entity_time=outcomes_pb2.EntityTime(model="demo", entity="strategy", event_time_unix_ns=(day + 1) * DAY_NS),
            horizon="pnl",
            value=value,
            available_at_unix_ns=(day + 1) * DAY_NS,
        )
        for day, value in enumerate(returns)
    ]
    with (
        launcher.serve() as server,
        Client(server.address, model="demo", timeout_s=60.0) as client,
        sidecar(launcher, alert_matrix=str(launcher.home / "matrix.toml")) as beside,
        grpc.insecure_channel(f"unix:{launcher.home}/outcomes.sock") as channel,
    ):
        assert client.predict([1.0, 2.0, 3.0]).position_scale == 1.0
        wait_until(
            "record logged", lambda: "tickserve_sidecar_records_total 1.0" in fetch(f"http://{beside.http}/metrics")
        )
        OutcomesStub(channel).Report(outcomes_pb2.ReportRequest(outcomes=reported), timeout=60)
        wait_until("smaller position", lambda: client.predict([1.0, 2.0, 3.0]).position_scale == 0.25, bound_s=90)
        metrics = fetch(f"http://{beside.http}/metrics")
        assert 'tickserve_alert_level{model="demo",row="losses@pnl"} 2.0' in metrics
        desired = server.control.status().models[0].desired
        assert desired is not None
        assert desired.actor == ACTOR
        assert "losses@pnl critical raised: sharpe_20 -" in desired.reason


def test_drifted_inputs_ask_for_retraining_and_reduce_the_position_while_they_last(launcher: Launcher) -> None:
    (launcher.home / "matrix.toml").write_text(DRIFT)
    (launcher.home / "drift.json").write_text('{"demo": {"window": "count:500"}}')
    generator = np.random.default_rng(5)
    rows = generator.normal(size=(20_000, 3)).astype(np.float32)
    times = np.arange(len(rows), dtype=np.int64) * DAY_NS
    reference = ReferenceRows("train", {"features": rows}, times)
    add_constant(launcher.models, 0.5, reference=reference, outcomes=DAILY, signal=SIGNAL)
    with (
        launcher.serve() as server,
        Client(server.address, model="demo", timeout_s=60.0) as client,
        sidecar(launcher, alert_matrix=str(launcher.home / "matrix.toml")),
    ):
        days = iter(range(10**6))

        def ask(count: int, shift: float) -> None:
            # As far apart as the reference: rows of one moment would say nothing about other days.
            for row in generator.normal(loc=shift, size=(count, 3)):
                client.predict(row.tolist(), event_time=FIRST_DAY + timedelta(days=next(days)))

        def scale() -> float:
            # A pinned request is nobody's traffic, and in no window.
            return client.predict([0.0, 0.0, 0.0], version="1").position_scale

        ask(600, shift=3.0)
        wait_until("smaller position", lambda: scale() == 0.5)
        ask(1100, shift=0.0)
        wait_until("whole position", lambda: scale() == 1.0)
    history = list(read_history(launcher.home / "alerts" / "demo" / "history.jsonl"))
    retraining = next(row for row in history if row.action == "request_retraining")
    assert (retraining.row, retraining.level, retraining.version) == ("inputs", "critical", "1")
    assert "psi of input" in retraining.evidence
    assert "3 of 3 columns beyond" in retraining.evidence


def test_every_metric_that_a_rule_names_is_exposed(launcher: Launcher, tmp_path: Path) -> None:
    add_constant(launcher.models, 0.5)
    authority = Authority(tmp_path)
    certificate, key = launcher.home / "cert.pem", launcher.home / "key.pem"
    authority.sign("server").move_to(certificate, key)
    with (
        launcher.serve("--tls-cert", str(certificate), "--tls-key", str(key)) as server,
        sidecar(launcher) as beside,
    ):
        exposed = families(server) | set(
            re.findall(r"^# TYPE (\w+)", fetch(f"http://{beside.http}/metrics"), re.MULTILINE)
        )
    named = set()
    for file in (DEPLOY / "prometheus").glob("*.rules.yml"):
        text = re.sub(r"^ *(#|- alert:|- name:|summary:).*$", "", file.read_text(), flags=re.MULTILINE)
        named |= set(re.findall(r"\btickserve_\w+", text))
    assert len(named) > 20
    assert {name for name in named if name.removesuffix("_bucket") not in exposed} == set()


def families(server: Running) -> set[str]:
    return set(re.findall(r"^# TYPE (\w+)", fetch(f"http://{server.http}/metrics"), re.MULTILINE))
