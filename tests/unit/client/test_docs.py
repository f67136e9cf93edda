"""Every Python block of docs/client.md runs as it stands."""

import re
from pathlib import Path

import pytest

from tests.unit.client.scripted import ScriptedServer, describe
from tickserve import errors
from tickserve.wire import health_pb2

MANUAL = (Path(__file__).resolve().parents[3] / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)
NAMES = ("return_1d", "rsi_14d", "volume_zscore_21d")


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_each_block_runs(server: ScriptedServer, block: str, capsys: pytest.CaptureFixture[str]) -> None:
    server.script.models["sp500-logistic"] = describe(NAMES, model="sp500-logistic")
    server.script.health.append(health_pb2.HealthCheckResponse.SERVING)
    assert "127.0.0.1:8500" in block
    exec(compile(block.replace("127.0.0.1:8500", server.address), "docs/client.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out
    assert server.script.requests


def test_every_error_of_a_prediction_has_its_advice() -> None:
    table = "\n".join(line for line in MANUAL.splitlines() if line.startswith("|"))
    missing = [kind.__name__ for kind in errors.BY_REASON.values() if f"`{kind.__name__}`" not in table]
    assert missing == []
