"""One measurement: one server under one load, once."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks import models, perf_analyzer
from benchmarks.loads import Load
from benchmarks.machine import StealClock
from benchmarks.servers import ServerProcess, Snapshot
from tickserve.errors import InternalError


@dataclass(frozen=True)
class Round:
    """One server under one load, once; stages in microseconds a request, where the server publishes them."""

    number: int
    server: str
    model: str
    load: str
    p50_us: float
    p99_us: float
    p999_us: float
    requests_per_s: float
    cpu_us_per_request: float
    steal_pct: float
    stages_us: Mapping[str, float]


def measure(number: int, name: str, server: ServerProcess, model: str, load: Load, window_ms: int) -> Round:
    """One run of perf_analyzer against one server.

    CPU time spans the load generator's whole life, and is divided by exactly the inferences that the server counted in
    it. Reading the counts costs CPU, so it is done outside the span.
    """
    before, steal = server.snapshot(), StealClock()
    cpu_ns = server.cpu_ns()
    inputs = models.requests(load.rows)
    client = perf_analyzer.run(
        server.address, model, models.INPUT, inputs, load.concurrency, window_ms, streaming=load.is_streaming
    )
    cpu_ns = server.cpu_ns() - cpu_ns
    steal_pct, after = steal.percent(), server.snapshot()
    inferences = after.inferences - before.inferences
    if inferences < len(client.latencies_ns):
        raise InternalError(f"{name} counted {inferences} requests, its client {len(client.latencies_ns)}")
    return Round(
        number=number,
        server=name,
        model=model,
        load=load.name,
        p50_us=client.quantile_us(0.5),
        p99_us=client.quantile_us(0.99),
        p999_us=client.quantile_us(0.999),
        requests_per_s=client.requests_per_s,
        cpu_us_per_request=cpu_ns / 1e3 / inferences,
        steal_pct=steal_pct,
        stages_us=stages_between(before, after),
    )


def stages_between(before: Snapshot, after: Snapshot) -> dict[str, float]:
    """Mean time of each stage, in microseconds, over the requests between two snapshots."""
    stages = {}
    for stage, (seconds, count) in after.stages.items():
        seconds_before, count_before = before.stages.get(stage, (0.0, 0))
        if count > count_before:
            stages[stage] = 1e6 * (seconds - seconds_before) / (count - count_before)
    return stages
