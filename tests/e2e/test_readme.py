"""The README's promise: the demo runs to its end on real data, and the client in it works as it stands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlops.registry import Client as RegistryClient
from tests.e2e.conftest import Launcher

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = (
    "first prediction after",
    "How good the models are",
    "Every row of the test period",
    "Where the time goes",
    "What Prometheus scrapes",
    "What a bad request gets",
    "A new version under load",
    " failed, 2 versions seen",
    "Halt and resume",
    "What the registry remembers",
    "exited with code 0",
    "What to type next",
)


@pytest.mark.timeout(900)
def test_demo_shows_everything_reports_and_serves_the_readmes_client(launcher: Launcher) -> None:
    report = launcher.home / "report.json"
    shown = launcher.run("demo", "--home", str(launcher.home), "--report", str(report), timeout_s=300).stdout
    places = [shown.index(section) for section in SECTIONS]
    assert places == sorted(places)
    assert "version 2 refused: DATA_LOSS" in shown
    assert "version 1 still answers" in shown

    assert "refused by the default gates: version 1 of model 'sp500-forest'" in shown
    assert re.search(r"promote +sp500-forest +1 +to be shown, not traded", shown)
    assert len(re.findall(r" promote +sp500-\w+ +1 ", shown)) == 4
    assert re.search(r"^\d\d+ requests, 0 failed, 2 versions seen$", shown, re.MULTILINE)

    facts = json.loads(report.read_text())
    rows = facts["metrics"]["test"]["accuracy"]["n"]
    assert (facts["requests"], facts["failed"]) == (4 * rows, 0)
    assert 0 < facts["p50_us"] <= facts["p99_us"]
    assert re.fullmatch("[0-9a-f]{64}", facts["digest"])
    assert set(facts["metrics"]) == {"train", "validation", "test"}
    assert all(abs(model["metrics"]["test"]["auc"]["value"] - 0.5) < 0.1 for model in facts["models"].values())

    with RegistryClient(home=launcher.home, actor="test") as registry:
        # The server has reported its end since.
        assert registry.registry.verify(facts["registry"]["head"]).findings == ()
        live = {
            model.name: registry.registry.resolve(model.name, "live").digest for model in registry.registry.search()
        }
        assert live == {name: model["digest"] for name, model in facts["models"].items()}

    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 6
    with launcher.serve("--source", "registry") as running:
        script = code[1].replace("127.0.0.1:8500", running.address)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip().endswith(facts["digest"])

    again = launcher.run("demo", "--home", str(launcher.home), timeout_s=300).stdout
    assert "version 2 refused: DATA_LOSS" in again
    assert "version 1 still answers" in again
    assert ", 0 failed, 2 versions seen" in again
