"""What a call costs its caller, native client beside grpcio: `python -m benchmarks.client [--rounds N]`.

One client process, one server process, one call at a time. In each round both transports take turns, in turning order,
against the same server; CPU time is that of the whole client process, all threads, over the calls of one turn.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import machine, models
from benchmarks.figures import Paired, ratio_of_rounds
from benchmarks.kinds import KINDS, Place
from benchmarks.report import write
from tickserve import Client, aio
from tickserve.client.choice import TransportName

RESULT = Path(__file__).resolve().parent / "results" / "client.json"
MODEL = "logistic"
TRANSPORTS: tuple[TransportName, ...] = ("native", "grpcio")
TIMEOUT_S = 5.0
WARM_UP_CALLS = 300

#: Makes so many calls of these features, and returns the duration of each in nanoseconds.
Load = Callable[[NDArray[np.float32], int], list[int]]


@dataclass(frozen=True)
class Turn:
    """One transport's turn: median and 99th percentile of its calls, and CPU time a call, in microseconds."""

    p50_us: float
    p99_us: float
    cpu_us: float


@dataclass(frozen=True)
class Result:
    """One way to call, both transports, medians over the rounds; the ratios are native over grpcio."""

    call: str
    rows: int
    calls_a_turn: int
    native: Turn
    grpcio: Turn
    p50_ratio: Paired
    p99_ratio: Paired
    cpu_ratio: Paired


def blocking(address: str, transport: TransportName, held: ExitStack) -> Load:
    """`Client.predict`."""
    client = held.enter_context(Client(address, model=MODEL, timeout_s=TIMEOUT_S, transport=transport))

    def load(features: NDArray[np.float32], calls: int) -> list[int]:
        taken = []
        for number in range(calls):
            start = time.perf_counter_ns()
            client.predict(features[number % len(features)])
            taken.append(time.perf_counter_ns() - start)
        return taken

    return load


def streaming(address: str, transport: TransportName, held: ExitStack) -> Load:
    """`Stream.predict`, one at a time."""
    client = held.enter_context(Client(address, model=MODEL, timeout_s=TIMEOUT_S, transport=transport))
    stream = held.enter_context(client.stream())

    def load(features: NDArray[np.float32], calls: int) -> list[int]:
        taken = []
        for number in range(calls):
            start = time.perf_counter_ns()
            stream.predict(features[number % len(features)])
            taken.append(time.perf_counter_ns() - start)
        return taken

    return load


def asynchronous(address: str, transport: TransportName, held: ExitStack) -> Load:
    """`aio.Client.predict`, one at a time."""
    loop = held.enter_context(_loop())
    client = aio.Client(address, model=MODEL, timeout_s=TIMEOUT_S, transport=transport)
    held.callback(lambda: loop.run_until_complete(client.close()))

    async def ask(features: NDArray[np.float32], calls: int) -> list[int]:
        taken = []
        for number in range(calls):
            start = time.perf_counter_ns()
            await client.predict(features[number % len(features)])
            taken.append(time.perf_counter_ns() - start)
        return taken

    return lambda features, calls: loop.run_until_complete(ask(features, calls))


WAYS: dict[str, Callable[[str, TransportName, ExitStack], Load]] = {
    "Client.predict": blocking,
    "aio.Client.predict": asynchronous,
    "Stream.predict": streaming,
}


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.close()


def measure(call: str, rows: int, address: str, rounds: int, calls: int) -> Result:
    """Both transports in turns."""
    features = models.requests(rows)
    turns: dict[TransportName, list[Turn]] = {name: [] for name in TRANSPORTS}
    with ExitStack() as held:
        loads = {name: WAYS[call](address, name, held) for name in TRANSPORTS}
        for load in loads.values():
            load(features, WARM_UP_CALLS)
        for number in range(rounds):
            for name in TRANSPORTS if number % 2 == 0 else TRANSPORTS[::-1]:
                turns[name].append(_turn(loads[name], features, calls))
    native, grpcio = (turns[name] for name in TRANSPORTS)
    return Result(
        call,
        rows,
        calls,
        _median(native),
        _median(grpcio),
        *(
            ratio_of_rounds([getattr(turn, figure) for turn in native], [getattr(turn, figure) for turn in grpcio])
            for figure in ("p50_us", "p99_us", "cpu_us")
        ),
    )


def _turn(load: Load, features: NDArray[np.float32], calls: int) -> Turn:
    before = time.process_time_ns()
    taken = load(features, calls)
    cpu_ns = time.process_time_ns() - before
    p50, p99 = np.quantile(taken, [0.5, 0.99]) / 1e3
    return Turn(float(p50), float(p99), cpu_ns / calls / 1e3)


def _median(turns: Sequence[Turn]) -> Turn:
    figures = [asdict(turn) for turn in turns]
    return Turn(**{name: statistics.median(each[name] for each in figures) for name in figures[0]})


def show(console: Console, results: Sequence[Result]) -> None:
    """Prints the table."""
    table = Table("call", "rows", "native p50/p99/CPU us", "grpcio p50/p99/CPU us", "p50", "p99", "CPU")
    for each in results:
        turns = (f"{t.p50_us:.0f} / {t.p99_us:.0f} / {t.cpu_us:.0f}" for t in (each.native, each.grpcio))
        ratios = (
            f"{r.median:.2f} ({r.low:.2f}-{r.high:.2f})" for r in (each.p50_ratio, each.p99_ratio, each.cpu_ratio)
        )
        table.add_row(each.call, str(each.rows), *turns, *ratios)
    console.print(table)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds (default: 20)")
    parser.add_argument("--calls", type=int, default=400, help="calls of one turn (default: 400)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the result file")
    arguments = parser.parse_args()
    facts = machine.describe()
    KINDS["native"].set_up()
    with tempfile.TemporaryDirectory(prefix="tickserve-bench-") as scratch:
        folder = Path(scratch)
        place = Place(models.build(MODEL, folder / "models"), MODEL, folder)
        with KINDS["native"].make(place) as server:
            clock = machine.StealClock()
            results = [
                measure(call, rows, server.address, arguments.rounds, arguments.calls)
                for call in WAYS
                for rows in (1, 64)
            ]
            steal_pct = clock.percent()
    show(Console(width=140), results)
    report: dict[str, Any] = {"machine": asdict(facts), "steal_pct": steal_pct, "runs": [asdict(r) for r in results]}
    write(arguments.out, report)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
