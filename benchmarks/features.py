"""What the features cost: the native engine beside the same engine built without them, or with its tap off.

Both run at once and take turns under our own load generator, which is lighter than perf_analyzer and repeats one
request, so that the difference is not lost in its noise.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import generator, models
from benchmarks.figures import Paired, difference_of_rounds
from benchmarks.kinds import KINDS, Place
from benchmarks.machine import StealClock
from benchmarks.servers import ServerProcess

ON = "native"
WINDOW_S = 0.3
IN_FLIGHT = (1, 16)


@dataclass(frozen=True)
class Cost:
    """CPU of one request with and without the features, in microseconds, and the difference over paired rounds."""

    without: str
    model: str
    load: str
    on_us: float
    off_us: float
    difference_us: Paired
    steal_pct: float


def measure(without: str, model: str, folder: Path, rounds: int) -> list[Cost]:
    """Measures the engine as it is beside the kind `without`, which lacks something."""
    kinds = (ON, without)
    models_dir = models.build(model, folder / f"models-{model}")
    message = generator.request(model, 1)
    spent: dict[tuple[int, str], list[float]] = {}
    with ExitStack() as running:
        servers = {}
        for kind in kinds:
            own = folder / f"features-{model}-{without}-{kind}"
            own.mkdir()
            servers[kind] = running.enter_context(KINDS[kind].make(Place(models_dir, model, own)))
        steal = StealClock()
        for number in track(range(-1, rounds), f"{without}, {model}", console=Console(stderr=True)):
            for in_flight in IN_FLIGHT:
                for kind in kinds if number % 2 == 0 else tuple(reversed(kinds)):
                    cpu_us = _cpu_us(servers[kind], message, in_flight)
                    # The first turn warms up.
                    if number >= 0:
                        spent.setdefault((in_flight, kind), []).append(cpu_us)
        steal_pct = steal.percent()
    costs = []
    for in_flight in IN_FLIGHT:
        on, off = (spent[in_flight, kind] for kind in kinds)
        medians = [sorted(values)[len(values) // 2] for values in (on, off)]
        costs.append(Cost(without, model, f"c={in_flight}", *medians, difference_of_rounds(on, off), steal_pct))
    return costs


def show(console: Console, costs: Sequence[Cost]) -> None:
    """Prints what was measured."""
    table = Table("without", "model", "load", "with us", "without us", "difference us", "95% interval", title="CPU")
    for cost in costs:
        more = cost.difference_us
        figures = (f"{figure:.2f}" for figure in (cost.on_us, cost.off_us, more.median))
        table.add_row(cost.without, cost.model, cost.load, *figures, f"{more.low:.2f} to {more.high:.2f}")
    console.print(table)


def _cpu_us(server: ServerProcess, message: bytes, in_flight: int) -> float:
    before = server.snapshot().inferences
    cpu_ns = server.cpu_ns()
    generator.closed(server.address, message, WINDOW_S, in_flight=in_flight)
    cpu_ns = server.cpu_ns() - cpu_ns
    return cpu_ns / 1e3 / (server.snapshot().inferences - before)
