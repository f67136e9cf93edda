"""The schema in the manual is the one in the code, and the tutorial's code runs."""

import re
from pathlib import Path
from typing import Any

import pytest

from mlops.registry import Share
from mlops.registry.desired import make_state
from mlops.registry.schema import metadata
from tests.support.registry import ANN

DOCS = Path(__file__).resolve().parents[2] / "docs"
MANUAL = DOCS / "registry.md"
TUTORIAL = DOCS / "tutorial.md"
LIVE = Share(version=1, role="stable", weight_bp=10_000)
KINDS = {
    "Code": "text",
    "UtcTime": "time",
    "CanonicalJson": "json",
    "Text": "text",
    "BigInteger": "integer",
    "Integer": "integer",
    "Double": "double",
    "LargeBinary": "bytes",
}


def drawing() -> str:
    lines = ["erDiagram"]
    for table in metadata.sorted_tables:
        lines.append(f"    {table.name} {{")
        for column in table.columns:
            key = " PK" if column.primary_key else ""
            lines.append(f"        {KINDS[type(column.type).__name__]} {column.name}{key}")
        lines.append("    }")
    for table in metadata.sorted_tables:
        referred = sorted({key.referred_table.name for key in table.foreign_key_constraints})
        lines += [f"    {name} ||--o{{ {table.name} : has" for name in referred]
    return "\n".join(lines)


def test_the_manual_draws_the_tables_as_they_are() -> None:
    assert f"```mermaid\n{drawing()}\n```" in MANUAL.read_text()


def test_the_tutorials_python_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.setenv("TICKSERVE_HOME", str(tmp_path))
    names: dict[str, Any] = {}
    for block in blocks[:3]:
        exec(block, names)  # noqa: S102
    # What the commands between the blocks do; gates are left out, for their verdict on latency is the machine's.
    registry = names["client"].registry
    registry.approve("spx-direction", 1, ANN)
    registry.set_desired("spx-direction", make_state(split=(LIVE,)), ANN, 0)
    for block in blocks[3:]:
        exec(block, names)  # noqa: S102
    assert registry.resolve("spx-direction", "1.1.0").version == 2
    assert registry.verify().findings == ()
    names["client"].close()
