"""The operator's manual names every setting and every metric, and the README's client works as it stands."""

import re
from pathlib import Path

from server.config import Settings

ROOT = Path(__file__).resolve().parents[2]
MANUAL = (ROOT / "docs" / "operations.md").read_text()


def test_every_setting_is_in_the_manual_and_no_other() -> None:
    documented = re.findall(r"^\| `(\w+)` \| `TICKSERVE_", MANUAL, re.MULTILINE)
    assert documented == list(Settings.model_fields)


def test_every_metric_is_in_the_manual() -> None:
    defined = set(re.findall(r'"(tickserve_\w+)"', (ROOT / "server" / "metrics.py").read_text()))
    assert defined
    missing = {name for name in defined if name not in MANUAL}
    assert missing == set()
