"""One client pipelines 512-row messages over a stream; another asks for one row at a time: what the first costs it."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import generator, models
from benchmarks.kinds import Place, tickserve
from benchmarks.machine import StealClock

ROWS = 512
#: Messages of the stream that are sent and not answered: more than its windows let through at once.
IN_FLIGHT = 64
SECONDS = 3.0


@dataclass(frozen=True)
class Fairness:
    """The asking client's latencies alone and beside the stream, in milliseconds, and how much the stream got done."""

    engine: str
    model: str
    before_p50_ms: float
    during_p50_ms: float
    before_p99_ms: float
    during_p99_ms: float
    during_worst_ms: float
    stream_messages_per_s: float
    steal_pct: float


def measure(engine: str, model: str, folder: Path) -> Fairness:
    """The scenario on one engine and model."""
    models_dir = models.build(model, folder / f"models-{model}")
    own = folder / f"fairness-{engine}-{model}"
    own.mkdir()
    one, many = generator.request(model, 1), generator.request(model, ROWS)
    with tickserve(Place(models_dir, model, own), engine) as server:
        generator.closed(server.address, one, 0.5)
        steal = StealClock()
        before = generator.closed(server.address, one, SECONDS).latencies_us() / 1e3
        with generator.streaming(server.address, many, SECONDS + 1.0, in_flight=IN_FLIGHT) as stream:
            # Its first messages must be under way.
            time.sleep(0.5)
            during = generator.closed(server.address, one, SECONDS).latencies_us() / 1e3
            pipelined = stream.result()
    return Fairness(
        engine=engine,
        model=model,
        before_p50_ms=float(np.median(before)),
        during_p50_ms=float(np.median(during)),
        before_p99_ms=float(np.quantile(before, 0.99)),
        during_p99_ms=float(np.quantile(during, 0.99)),
        during_worst_ms=float(during.max()),
        stream_messages_per_s=len(pipelined.records) / (SECONDS + 1.0),
        steal_pct=steal.percent(),
    )
