"""Scenario `loading`: what requests to one model see while versions of a large forest are loaded beside it.

Each round loads one version, and is then as long again without a load, or the other way round. LOADS says how many
rounds, ENGINE which engine serves, RATE how many requests a second each client process sends. Latency counts from when
a request was due; every answer is held against an offline run.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
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
    marks: list[tuple[int, int, bool]] = []
    load_s: list[float] = []
    with serving_directory(home, engine) as (_, control), clients(control.status().listen[0], rate, expected) as stop:
        version = 1
        for place in range(rounds):
            for is_loading in (place % 2 == 0, place % 2 == 1):
                begin = time.monotonic_ns()
                if is_loading:
                    version += 1
                    shutil.copytree(forest, home / "staged")
                    # The same package under another number: it is loaded all the same.
                    (home / "staged").rename(folder / FOREST / str(version))
                    control.wait(lambda status, wanted=str(version): serves(status, wanted), _LOAD_S)
                    load_s.append((time.monotonic_ns() - begin) / 1e9)
                else:
                    pause_until(begin + int(statistics.median(load_s or [5.0]) * 1e9))
                marks.append((begin, time.monotonic_ns(), is_loading))
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
        by_kind: dict[bool, list[float]] = {True: [], False: []}
        for begin, end, is_loading in marks:
            inside = (answers.sent_ns >= begin) & (answers.sent_ns < end) & (answers.version > 0)
            by_kind[is_loading].append(float(np.quantile(answers.latency_us[inside], q)))
        ratio = ratio_of_rounds(by_kind[True], by_kind[False])
        found |= {
            f"{label}_without_us": round(statistics.median(by_kind[False]), 1),
            f"{label}_during_us": round(statistics.median(by_kind[True]), 1),
            f"{label}_ratio": round(ratio.median, 3),
            f"{label}_ratio_low": round(ratio.low, 3),
            f"{label}_ratio_high": round(ratio.high, 3),
        }
    return found


def serves(status: Any, version: str) -> bool:
    """Whether the forest is there. Raises where it cannot be."""
    model = status.model(FOREST)
    if model.failed:
        raise RuntimeError(model.failed[0].message)
    return bool(model.stable == version)
