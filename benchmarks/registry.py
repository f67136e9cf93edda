"""What the registry's operations cost with few and with many versions: `python -m benchmarks.registry [--url URL]`.

Rows are loaded in bulk, the chain of the audit log included; then each operation runs through the registry itself.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import rfc8785
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, insert, select, update

from benchmarks import machine
from mlops.registry import Author, DesiredState, Registry, Share
from mlops.registry import schema as tables
from mlops.registry.database import Database
from mlops.registry.gates import GatePolicy, GateReport, GateResult, VersionFacts
from mlops.registry.journal import chain_row, plain
from mlops.registry.verify import Verification
from tests.support.packages import build_constant

SIZES = (10, 1_000, 100_000)
OPERATIONS = 200
RESULT = Path(__file__).resolve().parent / "results" / "registry.json"
MODEL = "demo"
#: Versions that are inserted together.
_BATCH = 2_000
AUTHOR = Author("benchmark", "measuring")


@dataclass(frozen=True)
class Timing:
    """One operation at one size, in microseconds over `n` runs."""

    backend: str
    versions: int
    operation: str
    n: int
    p50_us: float
    p99_us: float


def let_pass(candidate: VersionFacts, live: VersionFacts | None, policy: GatePolicy) -> GateReport:
    """Gates that cost nothing: their time is the model's, not the registry's."""
    return GateReport((GateResult("none", "pass", "not measured here"),))


def load(connection: Connection, first: int, last: int) -> None:
    """Writes versions `first` to `last` with two figures each and the audit rows that they would have left."""
    head = connection.execute(select(tables.audit_head)).one()
    at = max(head.at, datetime.now(UTC))
    previous, sequence = head.hash, head.sequence
    for start in range(first, last + 1, _BATCH):
        rows: dict[Any, list[dict[str, Any]]] = {tables.packages: [], tables.versions: [], tables.metrics: []}
        chain = []
        for number in range(start, min(start + _BATCH, last + 1)):
            sequence += 1
            written = list(_rows(number, sequence, at))
            for table, row in written:
                rows[table].append(row)
            writes = [{"op": "insert", "table": table.name, "row": plain(row)} for table, row in written]
            body = rfc8785.dumps({"writes": writes}).decode()
            chain.append(chain_row(previous, sequence, at, AUTHOR, "register", MODEL, number, body))
            previous = chain[-1]["hash"]
        for table, found in rows.items():
            connection.execute(insert(table), found)
        connection.execute(insert(tables.audit), chain)
    connection.execute(update(tables.audit_head).values(sequence=sequence, at=at, hash=previous))


def _rows(number: int, sequence: int, at: datetime) -> Iterator[tuple[Any, dict[str, Any]]]:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    yield tables.packages, {"digest": digest, "model": MODEL, "manifest": {"name": MODEL}, "registered_at": at}
    yield (
        tables.versions,
        {
            "model": MODEL,
            "version": number,
            "digest": digest,
            "status": "approved",
            "label": None,
            "author": "benchmark",
            "description": "",
            "metadata": {},
            "registered_at": at,
            "deleted_at": None,
        },
    )
    for name, value in (("sharpe", number % 97 / 50), ("log_loss", 0.7 - number % 89 / 1000)):
        yield (
            tables.metrics,
            {
                "model": MODEL,
                "version": number,
                "dataset": "validation",
                "name": name,
                "step": 0,
                "sequence": sequence,
                "value": value,
                "standard_error": 0.1,
                "n": 700,
                "at": at,
            },
        )


def operations(registry: Registry, size: int, packages: Iterator[Path]) -> dict[str, Callable[[int], object]]:
    """What is timed, by name; each is called with its turn."""
    turns = count(1)

    def write_desired(turn: int) -> object:
        desired = registry.desired(MODEL)
        state = desired.state if desired else DesiredState(split=(Share(version=1, role="stable", weight_bp=10_000),))
        scaled = state.model_copy(update={"position_scale": next(turns) % 100 / 100})
        return registry.set_desired(MODEL, scaled, AUTHOR, desired.revision if desired else 0)

    return {
        "resolve live": lambda turn: registry.resolve(MODEL, "live"),
        "resolve a number": lambda turn: registry.resolve(MODEL, 1 + turn * 7919 % size),
        "revision": lambda turn: registry.revision,
        "list a page": lambda turn: registry.versions(MODEL, before=1 + turn * 7919 % size + 100),
        "history page": lambda turn: registry.history(MODEL),
        "as of": lambda turn: registry.as_of(MODEL, datetime.now(UTC)),
        "write desired": write_desired,
        "log metrics": lambda turn: registry.log_metrics(MODEL, 1, "live", {"sharpe": 1.0}, AUTHOR, step=turn),
        "register": lambda turn: registry.register(next(packages), AUTHOR),
    }


def measure(url: str, folder: Path, packages: Iterator[Path]) -> list[Timing]:
    """Times every operation at every size, on one registry that grows."""
    timings = []
    database = Database(url)
    backend = database.engine.dialect.name
    with Registry(url, str(folder / "artifacts"), folder / "cache", folder / "keys", evaluate=let_pass) as registry:
        registry.register(next(packages), AUTHOR)
        registry.approve(MODEL, 1, AUTHOR)
        registry.promote(MODEL, 1, AUTHOR)
        for size in SIZES:
            newest = registry.model(MODEL).newest or 0
            database.write(lambda connection: load(connection, newest + 1, size))  # noqa: B023 - runs at once
            for name, operation in operations(registry, size, packages).items():
                operation(0)
                timings.append(_timing(backend, size, name, operation, OPERATIONS))
            timings.append(_timing(backend, size, "best", lambda turn: registry.best("sharpe"), 5))
            timings.append(_timing(backend, size, "verify all", lambda turn: _whole(registry.verify()), 1))
    database.close()
    return timings


def _timing(backend: str, size: int, name: str, operation: Callable[[int], object], n: int) -> Timing:
    times_us = []
    for turn in range(n):
        start = time.perf_counter_ns()
        operation(turn)
        times_us.append((time.perf_counter_ns() - start) / 1000)
    p50, p99 = np.quantile(times_us, (0.5, 0.99))
    return Timing(backend, size, name, n, round(float(p50), 1), round(float(p99), 1))


def _whole(found: Verification) -> None:
    if found.findings:
        raise SystemExit(f"the loaded registry does not verify: {found.findings[0]}")


def main() -> int:
    """Runs the measurement; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="", help="an empty database of PostgreSQL; default: a new file of SQLite")
    parser.add_argument("--out", type=Path, default=RESULT, help="the result file")
    arguments = parser.parse_args()
    facts = machine.describe()
    with tempfile.TemporaryDirectory(prefix="tickserve-registry-") as scratch:
        folder = Path(scratch)
        needed = len(SIZES) * (OPERATIONS + 1) + 1
        print(f"building {needed} packages", file=sys.stderr)
        built = [build_constant(folder / "packages", float(value), name=MODEL) for value in range(needed)]
        timings = measure(arguments.url or f"sqlite:///{folder / 'registry.db'}", folder, iter(built))
    table = Table("operation", *(f"{size:,} p50 us (p99)" for size in SIZES), "last / first")
    ratios = {}
    for name in dict.fromkeys(timing.operation for timing in timings):
        found = [timing for timing in timings if timing.operation == name]
        ratios[f"{name} {SIZES[-1]}/{SIZES[0]} p50_us"] = ratio = round(found[-1].p50_us / found[0].p50_us, 3)
        table.add_row(name, *(f"{timing.p50_us:,.0f} ({timing.p99_us:,.0f})" for timing in found), f"{ratio:.2f}")
    Console().print(table)
    result = {"machine": asdict(facts), "runs": [asdict(timing) for timing in timings], "ratios": ratios}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
