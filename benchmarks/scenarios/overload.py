"""Twice the load that a server can bear: how much of its peak it still answers, how late, and what the rest is told.

The server has one CPU and the generator another, so that overload of one is not overload of both. The model takes about
a millisecond; its package lets a request wait for its turn for 20 ms before it is refused.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import generator, models
from benchmarks.kinds import Place, tickserve
from benchmarks.machine import StealClock
from benchmarks.servers import ServerProcess
from tickserve.errors import ConfigurationError
from tickserve.load import ANSWERED

MODEL = "slow"
#: Costs next to nothing, so that the same rate shows what the generator can do.
CHEAP = "logistic"
OVERLOADED = "RESOURCE_EXHAUSTED OVERLOADED"
#: How many requests are in flight where the peak is sought: enough that the server never waits, below its bounds.
PEAK_IN_FLIGHT = 8
SECONDS = 6.0
#: The beginning of an open loop is left out: queues fill first.
SETTLE_S = 1.0
FACTOR = 2.0
LATE_US = 1000.0


@dataclass(frozen=True)
class Overload:
    """Rates in requests a second, latencies in milliseconds from when a request should have been sent."""

    engine: str
    run_time_us: float
    peak_per_s: float
    offered_per_s: float
    goodput_per_s: float
    goodput_of_peak: float
    accepted_p50_ms: float
    accepted_p99_ms: float
    refused_p99_ms: float
    shares: dict[str, float]
    #: Answers outside the two outcomes that are meant.
    other_share: float
    #: Whether the generator was late by less than `LATE_US` at the 99th percentile; else nothing here counts.
    generator_kept_up: bool
    generator_late_p99_us: float
    generator_late_max_us: float
    generator_sent_of_intended: float
    #: What the same generator reaches against a model that costs next to nothing, at the same rate and settings.
    generator_check_late_p99_us: float
    generator_check_answered: float
    steal_pct: float


def measure(engine: str, folder: Path) -> Overload:
    """The scenario on one engine."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise ConfigurationError("overload needs two CPUs, one for the server and one for the generator")
    for model in (MODEL, CHEAP):
        models_dir = models.build(model, folder / "models-overload")
    own = folder / f"overload-{engine}"
    own.mkdir()
    server = tickserve(Place(models_dir, MODEL, own), engine, cpus=cpus[:1])
    with server:
        return _measure(engine, server, cpus[1])


def _measure(engine: str, server: ServerProcess, cpu: int) -> Overload:
    message, steal = generator.request(MODEL, 1), StealClock()
    generator.closed(server.address, message, 1.0, in_flight=PEAK_IN_FLIGHT, cpu=cpu)
    peaks = [
        generator.closed(server.address, message, 2.0, in_flight=PEAK_IN_FLIGHT, cpu=cpu).answered.sum() / 2.0
        for _ in range(3)
    ]
    alone = generator.closed(server.address, message, 1.0, cpu=cpu)
    peak = float(np.median(peaks))
    rate = FACTOR * peak
    run = generator.open_loop(server.address, message, SECONDS, rate, cpu=cpu)
    steady = run.between(SETTLE_S, SECONDS)
    check = generator.open_loop(server.address, generator.request(CHEAP, 1), 2.0, rate, cpu=cpu)
    # Goodput is what was answered in the time, whenever it was asked.
    done_s = run.records["done"] / 1e9
    answered = run.answered & (done_s >= SETTLE_S) & (done_s < SECONDS)
    goodput = float(answered.sum()) / (SECONDS - SETTLE_S)
    latencies_ms, shares = steady.latencies_us() / 1e3, steady.shares()
    refused = steady.records[~steady.answered]
    refused_ms = (refused["done"].astype(np.int64) - refused["intended"].astype(np.int64)) / 1e6
    late_us, check_late_us = (float(np.quantile(each.lateness_us(), 0.99)) for each in (run, check))
    return Overload(
        engine=engine,
        run_time_us=float(np.median(alone.latencies_us())),
        peak_per_s=peak,
        offered_per_s=rate,
        goodput_per_s=goodput,
        goodput_of_peak=goodput / peak,
        accepted_p50_ms=float(np.quantile(latencies_ms, 0.5)),
        accepted_p99_ms=float(np.quantile(latencies_ms, 0.99)),
        refused_p99_ms=float(np.quantile(refused_ms, 0.99)) if len(refused_ms) else 0.0,
        shares=dict(shares),
        other_share=sum(share for outcome, share in shares.items() if outcome not in (ANSWERED, OVERLOADED)),
        generator_kept_up=max(late_us, check_late_us) < LATE_US,
        generator_late_p99_us=late_us,
        generator_late_max_us=float(run.lateness_us().max()),
        generator_sent_of_intended=len(run.records) / int(SECONDS * rate),
        generator_check_late_p99_us=check_late_us,
        generator_check_answered=float(check.answered.mean()),
        steal_pct=steal.percent(),
    )
