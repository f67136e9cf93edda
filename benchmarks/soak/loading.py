"""Scenario `loading`: what requests to one model see while versions of a large forest are loaded beside it.

Each round loads one version, is as long again without a load, and as long beside a process of the lowest priority that
computes; these three in turns. The last shows what any work costs there, however much it yields: processors share
caches, memory and heat. LOADS says how many rounds, ENGINE which engine serves, RATE how many requests a second each
client process sends. Latency counts from when a request was due; every answer is held against an offline run.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.figures import ratio_of_rounds
from benchmarks.soak.swap import clients, pause_until, serving_directory
from benchmarks.soak.versions import build, small
from mlops.package import add_version

FOREST = "forest-100"
_LOAD_S = 60.0
_KINDS = ("without", "during", "beside")
_COMPUTES = "import os\nos.nice(19)\nwhile True:\n    pass"


def main(environment: Mapping[str, str]) -> dict[str, Any]:
    """Runs the scenario and returns its figures."""
    rounds = int(environment.get("LOADS", "15"))
    engine = environment.get("ENGINE", "auto")
    rate = float(environment.get("RATE", "100"))
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        return run(Path(folder), rounds=rounds, engine=engine, rate=rate)


def run(home: Path, *, rounds: int, engine: str, rate: float) -> dict[str, Any]:
    """Runs it in this folder of state."""
    folder = home / "models"
    folder.mkdir()
    package, expected = build(home / "packages", 1, small)
    add_version(folder, package)
    models.build(FOREST, folder)
    [forest] = (home / "packages" / FOREST).iterdir()
    marks: list[tuple[int, int, str]] = []
    load_s: list[float] = []
    with serving_directory(home, engine) as (_, control), clients(control.status().listen[0], rate, expected) as stop:
        version = 1
        for place in range(rounds):
            for kind in (*_KINDS[place % 3 :], *_KINDS[: place % 3]):
                begin = time.monotonic_ns()
                if kind == "during":
                    version += 1
                    shutil.copytree(forest, home / "staged")
                    # The same package under another number: it is loaded all the same.
                    (home / "staged").rename(folder / FOREST / str(version))
                    control.wait(lambda status, wanted=str(version): serves(status, wanted), _LOAD_S)
                    load_s.append((time.monotonic_ns() - begin) / 1e9)
                else:
                    with computing(kind == "beside"):
                        pause_until(begin + int(statistics.median(load_s or [5.0]) * 1e9))
                marks.append((begin, time.monotonic_ns(), kind))
            print(f"round {place + 1} of {rounds}, {load_s[-1]:.1f} s to load", flush=True)
        answers, name = stop(), control.status().engine
    found: dict[str, Any] = {
        "scenario": "loading",
        "engine": name,
        "loads": rounds,
        "file_mb": round((forest / "model.onnx").stat().st_size / 2**20, 1),
        "load_s": round(statistics.median(load_s), 2),
        "requests": len(answers.version),
        "failed": int((answers.version == 0).sum()),
        "wrong": int((~answers.is_right & (answers.version > 0)).sum()),
    }
    for q, label in ((0.5, "p50"), (0.99, "p99")):
        by_kind: dict[str, list[float]] = {kind: [] for kind in _KINDS}
        for begin, end, kind in marks:
            inside = (answers.sent_ns >= begin) & (answers.sent_ns < end) & (answers.version > 0)
            by_kind[kind].append(float(np.quantile(answers.latency_us[inside], q)))
        found |= {f"{label}_{kind}_us": round(statistics.median(by_kind[kind]), 1) for kind in _KINDS}
        # Against nothing, and against the other process.
        for name, kind in (("ratio", "without"), ("ratio_to_beside", "beside")):
            ratio = ratio_of_rounds(by_kind["during"], by_kind[kind])
            found |= {
                f"{label}_{name}": round(ratio.median, 3),
                f"{label}_{name}_low": round(ratio.low, 3),
                f"{label}_{name}_high": round(ratio.high, 3),
            }
    return found


@contextmanager
def computing(is_wanted: bool) -> Iterator[None]:
    """A process of the lowest priority that computes meanwhile, where one is wanted."""
    process = subprocess.Popen([sys.executable, "-c", _COMPUTES]) if is_wanted else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def serves(status: Any, version: str) -> bool:
    """Whether the forest is there. Raises where it cannot be."""
    model = status.model(FOREST)
    if model.failed:
        raise RuntimeError(model.failed[0].message)
    return bool(model.stable == version)
