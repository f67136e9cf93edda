"""The operator's manual names every setting and every metric, and the README's client works as it stands."""

import re
import subprocess
from pathlib import Path

from mlops.sidecar.settings import SidecarSettings
from server.config import Settings

ROOT = Path(__file__).resolve().parents[2]
MANUAL = (ROOT / "docs" / "operations.md").read_text()


def test_every_setting_is_in_the_manual_and_no_other() -> None:
    documented = re.findall(r"^\| `(\w+)` \| `TICKSERVE_", MANUAL, re.MULTILINE)
    assert documented == list(Settings.model_fields)


def test_every_setting_and_metric_of_the_sidecar_is_in_its_manual() -> None:
    manual = (ROOT / "docs" / "sidecar.md").read_text()
    assert [name for name in SidecarSettings.model_fields if f"`{name}`" not in manual] == []
    defined = set(re.findall(r'"(tickserve_\w+)"', (ROOT / "mlops" / "sidecar" / "metrics.py").read_text()))
    assert defined
    assert {name for name in defined if name not in manual} == set()


def test_every_metric_is_in_the_manual() -> None:
    defined = set(re.findall(r'"(tickserve_\w+)"', (ROOT / "server" / "metrics.py").read_text()))
    assert defined
    missing = {name for name in defined if name not in MANUAL}
    assert missing == set()


def test_every_link_of_the_documents_leads_somewhere() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    documents = [ROOT / name for name in listed.split()]
    assert documents
    broken = [
        (document.relative_to(ROOT).as_posix(), target)
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert broken == []
