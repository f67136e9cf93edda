"""What the demo's registry remembers, and proof that the server answers with what is in it."""

from typing import Any

import numpy as np
from rich.console import Console

from mlops.registry import Client as RegistryClient
from mlops.training import test_rows
from tickserve.cli.models.options import print_table
from tickserve.client import Client
from tickserve.errors import TickserveError

_CHANGES = 40


def compare_bits(console: Console, registry: RegistryClient, client: Client, model: str, dataset: str) -> None:
    """Runs the version that the registry calls live in this process, and holds its bits against the server's."""
    live = registry.load(model, "live")
    rows = test_rows(dataset)[1]
    for row in rows:
        answer = client.predict(row, model=model)
        if answer.digest != live.version.digest or np.array(answer.values).tobytes() != live(row[np.newaxis]).tobytes():
            raise TickserveError(f"the server's answer is not what version {live.version.version} gives: {answer}")
    console.print(
        f"{model} live is version {live.version.version}, digest {live.version.digest[:12]}: loaded here, it gives the "
        f"server's bits on all {len(rows)} rows",
        soft_wrap=True,
    )


def show_history(console: Console, registry: RegistryClient) -> dict[str, Any]:
    """Prints the history and whether it is whole; returns what the report keeps of it."""
    found = registry.registry
    changes = found.history(limit=_CHANGES)
    print_table(
        ("no.", "UTC", "who", "what", "model", "version", "why"),
        [
            (
                change.sequence,
                f"{change.at:%H:%M:%S}",
                change.actor,
                change.action,
                change.model,
                change.version,
                change.reason,
            )
            for change in changes
        ],
    )
    proof = found.verify()
    if proof.findings:
        raise TickserveError(f"{proof.findings[0].place}: {proof.findings[0].what}")
    console.print(
        f"verified: {proof.changes} changes, {proof.rows} rows and {proof.files} files are as they were written",
        soft_wrap=True,
    )
    return {"changes": proof.changes, "files": proof.files, "head": proof.head, "revision": found.revision}
