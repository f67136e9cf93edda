"""How fast the sidecar reads, logs and counts: `python -m benchmarks.sidecar`.

Processor time of the one thread that follows the ring, for each step alone and for all of them as the sidecar does
them: a ring of ten features is read, its segment appended and synced, its figures decoded, and counted into the bins
of a package.
"""

import cProfile
import json
import pstats
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.bulk import FEATURES, BulkProducer
from mlops.drift import DriftMonitor, DriftSpec
from mlops.package import ReferenceRows, TensorSpec, make_baseline
from mlops.package.manifest import make_manifest
from mlops.prediction_log import Batch
from mlops.prediction_log.index import LogIndex
from mlops.prediction_log.reading import SEGMENTS
from mlops.prediction_log.segments import SegmentWriter
from mlops.sidecar.follower import Follower

RING_BYTES = 32 << 20
PIECE = 16_384
WARM_UP, ROUNDS = 10, 60
WANTED_PER_S = 200_000


def watched() -> tuple[bytes, Callable[[Batch], None]]:
    """The digest of a package of ten features, and a monitor of drift from it."""
    names = tuple(f"f{number}" for number in range(FEATURES))
    manifest = make_manifest(
        name="demo",
        inputs=(TensorSpec(name="features", datatype="FP32", shape=(-1, FEATURES)),),
        outputs=(TensorSpec(name="signal", datatype="FP32", shape=(-1, 1)),),
        feature_names=names,
        files={},
    )
    rows = np.random.default_rng(2).standard_normal((10_000, FEATURES)).astype(np.float32)
    times = np.arange(len(rows), dtype=np.int64) * 10**9
    inputs = ReferenceRows("train", {"features": rows}, times)
    outputs = ReferenceRows("test", {"signal": rows[:1000, :1]}, times[:1000])
    baseline = make_baseline(manifest.inputs, manifest.outputs, inputs, outputs, feature_names=names)
    monitor = DriftMonitor(manifest, baseline, DriftSpec(kind="time", sub_blocks=24))

    def use(batch: Batch) -> None:
        monitor.add(batch)

    return bytes.fromhex(manifest.digest), use


def drifting(_: Path) -> Callable[[Batch], None]:
    """Counted as the sidecar counts them, into cells, sub-blocks and exact sums."""
    return watched()[1]


def indexed(scratch: Path) -> Callable[[Batch], None]:
    """The same, and what the Outcomes service asks: which predictions there are."""
    index = LogIndex(scratch)

    count = watched()[1]

    def use(batch: Batch) -> None:
        count(batch)
        index.add(batch)
        # A segment's worth is in memory, then it is in a file.
        if batch.position[-1] % (8 * PIECE) < PIECE:
            index.keep(0, [batch])

    return use


def measure(folder: Path, scratch: Path, use: Callable[[Batch], None]) -> dict[str, float]:
    """Records a second of processor time and of time, over rounds of one piece."""
    producer = BulkProducer(folder, ring_bytes=RING_BYTES, piece=PIECE, digest=watched()[0])
    writer = SegmentWriter(scratch / SEGMENTS, 1 << 40)
    follower = Follower(folder, writer)
    cpu = wall = 0
    records = 0
    for number in range(WARM_UP + ROUNDS):
        producer.produce()
        started, at = time.thread_time_ns(), time.perf_counter_ns()
        found = follower.poll()
        for batch in found:
            use(batch)
        if number >= WARM_UP:
            cpu += time.thread_time_ns() - started
            wall += time.perf_counter_ns() - at
            records += sum(len(batch) for batch in found)
    assert records == ROUNDS * producer.piece
    follower.close()
    writer.close()
    producer.end()
    return {"per_cpu_s": records / cpu * 1e9, "per_s": records / wall * 1e9}


def main() -> None:
    """Prints the table; `--profile` prints where the time goes, `--json` one line instead."""
    steps: dict[str, Callable[[Path], Callable[[Batch], None]]] = {
        "read, logged, decoded": lambda _: lambda _: None,
        "read, logged, decoded, counted for drift": drifting,
        "the same, and indexed for outcomes": indexed,
    }
    found = {}
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    for name, use in steps.items():
        folder = Path(tempfile.mkdtemp(prefix="tickserve-bench-", dir="/dev/shm"))
        try:
            with tempfile.TemporaryDirectory(prefix="tickserve-bench-") as scratch:
                if profile is not None:
                    profile.enable()
                found[name] = measure(folder, Path(scratch), use(Path(scratch)))
                if profile is not None:
                    profile.disable()
        finally:
            shutil.rmtree(folder)
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(30)
    if "--json" in sys.argv:
        print(json.dumps(found))
        return
    table = Table("step", "records/s of processor time", "records/s")
    for name, rates in found.items():
        table.add_row(name, f"{rates['per_cpu_s']:,.0f}", f"{rates['per_s']:,.0f}")
    Console().print(table)
    counted = found["read, logged, decoded, counted for drift"]["per_cpu_s"]
    print(f"wanted: {WANTED_PER_S:,} counted on one core; {'reached' if counted >= WANTED_PER_S else 'NOT reached'}")


if __name__ == "__main__":
    main()
