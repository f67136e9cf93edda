"""What a shadow costs the requests that it gets copies of: `python -m benchmarks.shadow`.

One native server, with a shadow of all requests and without one in turns, under an open loop at a part of what one
core can do. CPU is that of the threads that answer, a request; the shadow's thread is apart.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks import generator, machine, models
from benchmarks.figures import Paired, ratio_of_rounds
from benchmarks.kinds import Place, need_native, tickserve
from benchmarks.machine import StealClock
from benchmarks.servers import ServerProcess
from benchmarks.threads import cpu_ns
from mlops.package import add_version
from tickserve.errors import UnreachableError
from tickserve.v1 import control_pb2 as pb

#: Of what one core can do.
LOAD = 0.3
CAPACITY_S, WARM_UP_S = 3.0, 0.3
IN_FLIGHT = 16
#: The generator's own CPU; the server has all others.
GENERATOR_CPU = 0
#: A rollout's frozen edge: with one the processor's clock is read around the runs that are compared.
EDGE_NS = 1_000_000
SETTLE_TIMEOUT_S = 30.0
WANTED_CPU, WANTED_P50 = 1.03, 1.05
LIVE, SHADOW = "1", "2"


@dataclass(frozen=True)
class Half:
    """One load, with a shadow or without: microseconds; copies that the shadow ran and that were dropped."""

    has_shadow: bool
    live_cpu_us: float
    p50_us: float
    p99_us: float
    late_p99_us: float
    shadow_cpu_us: float
    requests: int
    copies: int
    dropped: int
    steal_pct: float


@dataclass(frozen=True)
class Report:
    """What came out: medians over rounds of with over without, each with its interval, and the rounds."""

    machine: machine.Machine
    model: str
    capacity_per_s: float
    rate_per_s: float
    live_cpu: Paired
    p50: Paired
    dropped: int
    copies: int
    rounds: list[Half]


class Served:
    """The server, whose shadow is switched by its desired state."""

    def __init__(self, server: ServerProcess, model: str, admin: Path) -> None:
        self.server = server
        self._model = model
        self._channel = grpc.insecure_channel(f"unix:{admin}")
        self._revision = 0

    def set_shadow(self, *, is_on: bool) -> None:
        """Gives every request to the live version, and a copy of every one to the shadow or none."""
        desired = pb.DesiredState(model=self._model, position_scale=1.0, latency_edge_ns=EDGE_NS)
        desired.split.add(version=LIVE, role="ROLE_STABLE", weight_bp=10_000)
        if is_on:
            desired.shadow.CopyFrom(pb.Shadow(version=SHADOW, fraction_bp=10_000, salt="benchmark"))
        request = pb.SetDesiredRequest(
            desired=desired, expected_revision=self._revision, actor="benchmark", reason="benchmark"
        )
        call = self._channel.unary_unary(
            "/tickserve.v1.Control/SetDesired",
            request_serializer=pb.SetDesiredRequest.SerializeToString,
            response_deserializer=pb.SetDesiredResponse.FromString,
        )
        self._revision = call(request, timeout=10.0).revision

    def settle(self, message: bytes, *, is_on: bool) -> None:
        """Warms both up, until the plan is the one that was asked for and nothing waits for the shadow."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            before = self.shadow_counts()
            generator.closed(self.server.address, message, WARM_UP_S, cpu=GENERATOR_CPU)
            after = self.drained(deadline)
            if (after["copies"] > before["copies"]) is is_on:
                return
        raise UnreachableError("the server did not come to have the shadow that was asked for")

    def drained(self, deadline: float) -> Mapping[str, int]:
        """The counts of the shadow once nothing waits for it."""
        while (counts := self.shadow_counts())["queued"] and time.monotonic() < deadline:
            time.sleep(0.02)
        return counts

    def shadow_counts(self) -> Mapping[str, int]:
        """Copies that were run, dropped, and that wait."""
        counts = {"copies": 0, "dropped": 0, "queued": 0}
        names = {
            "tickserve_requests_total": "copies",
            "tickserve_shadow_dropped_total": "dropped",
            "tickserve_shadow_queued": "queued",
        }
        for family in text_string_to_metric_families(self.server.metrics()):
            for sample in family.samples:
                is_request = sample.name == "tickserve_requests_total"
                if sample.name in names and (not is_request or sample.labels.get("role") == "shadow"):
                    counts[names[sample.name]] += int(sample.value)
        return counts


@contextmanager
def serving(model: str, folder: Path) -> Iterator[Served]:
    """A native server of one worker with two versions of a model, the first of which answers."""
    models_dir = folder / "models"
    models_dir.mkdir()
    for seed in (models.SEED, models.SEED + 1):
        add_version(models_dir, models.package(model, folder / f"package-{seed}", seed))
    place = Place(models_dir, model, folder)
    environment = {"TICKSERVE_WORKERS": "1", "TICKSERVE_VERSION_POLICY": '{"*": "latest 2"}'}
    with tickserve(place, "native", environment=environment, cpus=machine.other_cpus(GENERATOR_CPU)) as server:
        yield Served(server, model, folder / "home-native" / "admin.sock")


def measure(served: Served, message: bytes, rate: float, seconds: float, *, is_on: bool) -> Half:
    """One load."""
    served.set_shadow(is_on=is_on)
    served.settle(message, is_on=is_on)
    before, steal = served.shadow_counts(), StealClock()
    live, shadow = cpu_ns(served.server.pid, "data-"), cpu_ns(served.server.pid, "shadow")
    run = generator.open_loop(served.server.address, message, seconds, rate, cpu=GENERATOR_CPU)
    live, shadow = cpu_ns(served.server.pid, "data-") - live, cpu_ns(served.server.pid, "shadow") - shadow
    after = served.drained(time.monotonic() + SETTLE_TIMEOUT_S)
    latencies, requests = run.latencies_us(), len(run.records)
    return Half(
        has_shadow=is_on,
        live_cpu_us=live / 1e3 / requests,
        p50_us=float(np.median(latencies)),
        p99_us=float(np.quantile(latencies, 0.99)),
        late_p99_us=float(np.quantile(run.lateness_us(), 0.99)),
        shadow_cpu_us=shadow / 1e3 / requests,
        requests=requests,
        copies=after["copies"] - before["copies"],
        dropped=after["dropped"] - before["dropped"],
        steal_pct=steal.percent(),
    )


def run(model: str, rounds: int, seconds: float) -> Report:
    """All rounds; which half comes first changes from round to round."""
    message = generator.request(model, 1)
    halves: list[Half] = []
    with tempfile.TemporaryDirectory(prefix="tickserve-bench-") as folder, serving(model, Path(folder)) as served:
        served.set_shadow(is_on=False)
        served.settle(message, is_on=False)
        closed = generator.closed(served.server.address, message, CAPACITY_S, in_flight=IN_FLIGHT, cpu=GENERATOR_CPU)
        capacity = len(closed.records) / CAPACITY_S
        rate = LOAD * capacity
        for number in range(rounds):
            turns = (False, True) if number % 2 == 0 else (True, False)
            halves.extend(measure(served, message, rate, seconds, is_on=is_on) for is_on in turns)
    on = [half for half in halves if half.has_shadow]
    off = [half for half in halves if not half.has_shadow]
    return Report(
        machine=machine.describe(),
        model=model,
        capacity_per_s=capacity,
        rate_per_s=rate,
        live_cpu=ratio_of_rounds([half.live_cpu_us for half in on], [half.live_cpu_us for half in off]),
        p50=ratio_of_rounds([half.p50_us for half in on], [half.p50_us for half in off]),
        dropped=sum(half.dropped for half in on),
        copies=sum(half.copies for half in on),
        rounds=halves,
    )


def show(report: Report) -> None:
    """Prints the table and whether what is wanted was reached."""
    table = Table("", "without", "with", "ratio", "95% interval", "wanted")
    on = [half for half in report.rounds if half.has_shadow]
    off = [half for half in report.rounds if not half.has_shadow]
    for name, field, ratio, wanted in (
        ("CPU of the live path, us a request", "live_cpu_us", report.live_cpu, WANTED_CPU),
        ("p50, us", "p50_us", report.p50, WANTED_P50),
    ):
        without, with_ = (float(np.median([getattr(half, field) for half in halves])) for halves in (off, on))
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        table.add_row(name, f"{without:.2f}", f"{with_:.2f}", f"{ratio.median:.3f}", interval, f"{wanted:.2f}")
    for name, field in (("p99, us", "p99_us"), ("generator late, p99, us", "late_p99_us")):
        without, with_ = (float(np.median([getattr(half, field) for half in halves])) for halves in (off, on))
        table.add_row(name, f"{without:.2f}", f"{with_:.2f}", "", "", "")
    shadow = float(np.median([half.shadow_cpu_us for half in on]))
    table.add_row("CPU of the shadow, us a request", "", f"{shadow:.2f}", "", "", "")
    console = Console()
    console.print(f"{report.model}: {report.rate_per_s:,.0f}/s, {LOAD:.0%} of {report.capacity_per_s:,.0f}/s")
    console.print(table)
    sent = sum(half.requests for half in on)
    console.print(f"copies: {report.copies:,} run and {report.dropped:,} dropped of {sent:,}")
    is_reached = report.live_cpu.median <= WANTED_CPU and report.p50.median <= WANTED_P50
    console.print(f"wanted: {'reached' if is_reached else 'NOT reached'}")


def main() -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load; two a round")
    parser.add_argument("--model", default="forest-100", choices=list(models.MODELS))
    arguments = parser.parse_args()
    need_native()
    generator.set_up()
    report = run(arguments.model, arguments.rounds, arguments.seconds)
    show(report)
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
