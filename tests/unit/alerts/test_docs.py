"""docs/alerts.md names every alert, setting, metric, action and shipped row."""

import re
from pathlib import Path
from typing import get_args

from mlops.alerts.matrix import ActionName, default_matrix
from mlops.sidecar.settings import SidecarSettings

ROOT = Path(__file__).resolve().parents[3]
MANUAL = (ROOT / "docs" / "alerts.md").read_text()


def missing(names: set[str]) -> set[str]:
    assert names
    return {name for name in names if f"`{name}`" not in MANUAL}


def test_every_alert_is_listed_and_no_other() -> None:
    rules = "".join(file.read_text() for file in (ROOT / "deploy" / "prometheus").glob("*.rules.yml"))
    alerts = set(re.findall(r"- alert: Tickserve(\w+)", rules))
    table = MANUAL[MANUAL.index("| severity | alerts |") : MANUAL.index("(All begin with")]
    listed = {name.removeprefix("Tickserve") for name in re.findall(r"`(\w+)`", table)}
    assert listed == alerts
    for severity in ("critical", "warning", "info", "none"):
        row = re.search(rf"^\| {severity} \|.*$", table, re.MULTILINE)
        assert row
        for name in re.findall(r"`(?:Tickserve)?(\w+)`", row[0]):
            part = rules[rules.index(f"- alert: Tickserve{name}\n") :]
            assert f"severity: {severity}" in part[: part.index("summary")], name


def test_every_setting_and_metric_is_listed() -> None:
    assert (
        missing({name for name in SidecarSettings.model_fields if name.startswith("alert") or name == "admin"}) == set()
    )
    source = (ROOT / "mlops" / "sidecar" / "alerts.py").read_text()
    metrics = set(re.findall(r'"(tickserve_\w+)"', source))
    assert {name for name in metrics if name not in MANUAL} == set()


def test_every_action_is_listed() -> None:
    assert missing(set(get_args(ActionName))) == set()


def test_study_has_every_shipped_level() -> None:
    study = (ROOT / "docs" / "studies" / "alert-rows.md").read_text()
    for row in default_matrix().row:
        for level, _ in row.levels():
            assert f"| `{row.name}` | {level} |" in study
