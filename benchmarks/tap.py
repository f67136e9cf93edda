"""What the tap costs the python engine, and how fast a ring is read: `python -m benchmarks.tap`.

Processor time of the thread in tight loops, the best mean of several: others on the machine count only by what they do
to the caches. For the native engine:
`cargo run --release --example tap_cost` in native/core.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import models
from mlops.routing import MAX_HASH, key_bucket
from mlops.tap import PageOwner, Reading, Record, RingReader, RingWriter, Tallier, Tensor
from mlops.tap.layout import DATATYPE_NUMBER
from server.engine.python import prediction
from server.engine.python.job import Job
from server.engine.python.recorder import Recorder
from server.engine.python.runtime import Tally, prepare
from server.engine.python.serving import build
from server.models import DirectorySource
from server.plan import ModelPlan, Plan, Role, Segment, Split
from server.tap import Tap
from tickserve.v1 import prediction_pb2 as pb

MODEL = "forest-100"
RING_BYTES, SLOT_BYTES = 64 << 20, 512
READS = 100_000
LOOPS, REPEATS = 2_000, 15
Steps = dict[str, Callable[[], object]]


def steps(folder: Path, tap: Tap) -> Steps:
    """All of what a request of one row and ten features pays, and the parts of it."""
    models.build(MODEL, folder)
    version = DirectorySource(folder).read(MODEL, 1, folder / MODEL / "1")
    model = ModelPlan(MODEL, {"1": version}, Split(b"salt", (Segment(MAX_HASH, "1", Role.STABLE),)))
    plan = Plan(1, MappingProxyType({MODEL: model}))
    runtime, _ = prepare(version)
    installed = build(plan, lambda _: runtime, lambda *_: Tally(), tap.place(plan))
    row = np.random.default_rng(1).standard_normal(models.FEATURES).astype(np.float32)
    request = pb.PredictRequest(model=MODEL, routing_key="EURUSD", entities=["EURUSD"], features=row.tolist())
    serving, pending = prediction.route(request, installed, "drawn")
    job = Job(prediction.CODEC, serving, pending, prediction.shape(serving, pending), 0, 1 << 62)
    job.run()
    recorder, reader = Recorder(tap), RingReader(tap.rings[0])

    def whole() -> None:
        recorder.record(serving, prediction.ask(request, pending), "drawn", job, 0, None)
        drain(reader)

    whole()
    ((_, record),) = reader.read().records
    drain(reader, down_to=0)
    # A second producer, of a ring that the first one does not write to.
    writer, tallier = RingWriter(tap.rings[1]), Tallier(PageOwner(tap.counters), 0)
    other = RingReader(tap.rings[1])

    def write() -> None:
        writer.write(record)
        drain(other)

    return {
        "the tap of a request, all of it": whole,
        "of it: one record into the ring": write,
        "of it: one request in the counters page": lambda: tallier.count(0, 7, ()),
        "of it: the key bucket": lambda: key_bucket(b"salt", b"EURUSD"),
    }


def cpu_us(step: Callable[[], object]) -> float:
    """The best of several means of the thread's processor time, in microseconds."""
    means = []
    for _ in range(REPEATS):
        start = time.thread_time_ns()
        for _ in range(LOOPS):
            step()
        means.append((time.thread_time_ns() - start) / LOOPS)
    return min(means) / 1e3


def drain(reader: RingReader, down_to: int = 60_000) -> None:
    """Empties a ring before it is full."""
    if reader.lag_slots > down_to:
        reader.consume(Reading(position=reader.span()[1]))


def read_rates(path: Path) -> dict[str, float]:
    """Records a second: each as an object, and all as one structured array with their features."""
    writer, reader = RingWriter(path), RingReader(path)
    drain(reader, down_to=0)
    tensor = np.arange(models.FEATURES, dtype="<f4")
    features_in = Tensor(DATATYPE_NUMBER["FP32"], (1, models.FEATURES), tensor.tobytes())
    usual = Record(1, 0, 1, 1, (0,) * 6, 0, 1, 0, 0, 1, 1, 0, 7, b"id", b"key", (features_in,), (features_in,))
    for _ in range(READS):
        writer.write(usual)
    start = time.perf_counter()
    slots = reader.slots(*reader.span())
    features = np.ascontiguousarray(slots["payload"][:, 24 : 24 + 4 * models.FEATURES]).view("<f4")
    assert features.sum() == READS * tensor.sum()
    as_array = time.perf_counter() - start
    start = time.perf_counter()
    found = len(reader.read(READS).records)
    return {"as one structured array": READS / as_array, "each as an object": found / (time.perf_counter() - start)}


def main() -> None:
    """Prints the tables."""
    shared = Path(tempfile.mkdtemp(prefix="tickserve-bench-", dir="/dev/shm"))
    tap = Tap(shared / "tap", ring_bytes=RING_BYTES, slot_bytes=SLOT_BYTES, producers=2)
    try:
        costs = Table("step", "CPU us")
        with tempfile.TemporaryDirectory(prefix="tickserve-bench-") as scratch:
            for name, step in steps(Path(scratch), tap).items():
                costs.add_row(name, f"{cpu_us(step):.2f}")
        rates = Table("reading", "records/s")
        for name, rate in read_rates(tap.rings[1]).items():
            rates.add_row(name, f"{rate:,.0f}")
        console = Console()
        console.print(costs)
        console.print(rates)
    finally:
        tap.close()
        shared.rmdir()


if __name__ == "__main__":
    main()
