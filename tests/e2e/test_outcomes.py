"""From a prediction to its outcome, its figures and the day's report: real server, real sidecar, real reporter."""

import json
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from scipy import stats

from mlops.package import ColumnMapping, Golden, Horizon, OutcomeSpec, ReferenceRows, add_version
from tests.e2e.conftest import Launcher
from tests.e2e.test_sidecar import Beside, beside
from tests.support.models import echo_model
from tests.support.packages import build_constant
from tickserve import Client
from tickserve.v1 import outcomes_pb2 as pb
from tickserve.v1.outcomes_pb2_grpc import OutcomesStub

DAY_NS = 86_400_000_000_000
#: 2021-01-04T21:00.
START_NS = 1_609_794_000_000_000_000
DAYS = 30


def add_echo(models: Path) -> None:
    """A model that gives its features back, the first of which is its signal."""
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    package = build_constant(
        models.parent / "packages",
        0.0,
        model=echo_model(),
        task="regression",
        golden=Golden(inputs={"features": rows[:8]}, outputs={"values": rows[:8]}, rtol=0.0, atol=0.0),
        reference=ReferenceRows("train", {"features": rows}, START_NS - DAY_NS * np.arange(200, 0, -1)),
        signal=ColumnMapping(output="values", column=0),
        outcomes=OutcomeSpec(
            kind="time_series", horizons=(Horizon(name="1d", periods=1),), periods_per_year=252.0, cost_bp=1.0
        ),
    )
    add_version(models, package)


def figure(sidecar: Beside, name: str, figure: str) -> float | None:
    """What Prometheus would see; None for what is absent."""
    with urllib.request.urlopen(f"http://{sidecar.http}/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    labels = f'{{figure="{figure}",horizon="1d",model="demo",version="1"}}'
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + labels)), None)


def wait_for(sidecar: Beside, name: str, of: str) -> float:
    until = time.monotonic() + 60
    while (found := figure(sidecar, name, of)) is None:
        assert time.monotonic() < until, sidecar.log.read_text()
    return found


@pytest.mark.integration
def test_what_came_of_predictions_is_figured_exported_and_reported(launcher: Launcher) -> None:
    add_echo(launcher.models)
    generator = np.random.default_rng(4)
    signals = np.round(generator.normal(size=DAYS), 3)
    values = 0.01 * (0.5 * signals + generator.normal(size=DAYS))
    with launcher.serve() as running, beside(launcher) as sidecar:
        with Client(running.address, model="demo", timeout_s=60.0) as client:
            for day, signal in enumerate(signals):
                client.predict([signal, 0.1, 0.2], entities="SPX", event_time=START_NS + DAY_NS * day)
        sidecar.wait_for("tickserve_sidecar_records_total", DAYS)
        with grpc.insecure_channel(f"unix:{launcher.home}/outcomes.sock") as channel:
            answer = OutcomesStub(channel).Report(
                pb.ReportRequest(
                    outcomes=[
                        pb.Outcome(
                            outcome_id=f"spx-{day}",
                            entity_time=pb.EntityTime(
                                model="demo", entity="SPX", event_time_unix_ns=START_NS + DAY_NS * day
                            ),
                            horizon="1d",
                            value=value,
                            available_at_unix_ns=START_NS + DAY_NS * (day + 1),
                        )
                        for day, value in enumerate(values)
                    ]
                ),
                timeout=60,
            )
        assert (answer.accepted, answer.unknown) == (DAYS, 0)
        ic = wait_for(sidecar, "tickserve_outcome_value", "rank_ic")
        assert ic == pytest.approx(stats.spearmanr(signals, values).statistic, rel=1e-9)
        lower = figure(sidecar, "tickserve_outcome_lower", "rank_ic")
        upper = figure(sidecar, "tickserve_outcome_upper", "rank_ic")
        assert lower is not None
        assert upper is not None
        assert lower < ic < upper
        assert figure(sidecar, "tickserve_outcome_value", "auc") is None, "a regression has none"
        assert sidecar.terminate() == 0

    shown = json.loads(launcher.run("drift", "show", "--json").stdout)
    assert {each["figure"]: each["value"] for each in shown["figures"]}["rank_ic"] == ic
    page = launcher.home / "page.html"
    told = launcher.run("drift", "report", "--date", "2021-02-02", "--out", str(page)).stdout
    assert "1 records on 2021-02-02, 0 dropped before the log, 30 outcomes" in told
    assert page.read_text().count("<svg") == 3
    facts = json.loads(page.with_suffix(".json").read_text())
    [version] = facts["versions"]
    [horizon] = version["horizons"]
    # Live, and from the log afterwards: the same bits.
    live = {each["figure"]: each for each in shown["figures"]}
    assert {each["figure"]: each["value"] for each in horizon["figures"]}["sharpe"] == live["sharpe"]["value"]
    again = launcher.run("drift", "report", "--date", "2021-02-02", "--json", "--out", str(page)).stdout
    assert json.loads(again) == facts
