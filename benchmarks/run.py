"""Measures servers side by side, in interleaved rounds: `python -m benchmarks.run [SERVER ...]`.

Every server named is compared with the last one; the same name twice measures the noise of the measurement itself.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks import machine, models, perf_analyzer
from benchmarks.measure import Round, measure
from benchmarks.report import Report
from benchmarks.servers import KINDS, ServerProcess
from tickserve.errors import TickserveError

#: Load average above which somebody else is at work here.
QUIET_LOAD = 0.5
RESULT = Path(__file__).resolve().parent / "results" / "latest.json"
WARM_UP_MS = 300


def measure_rounds(
    servers: dict[str, ServerProcess], model: str, rounds: int, concurrencies: Sequence[int], window_ms: int
) -> list[Round]:
    """Measures every server under every load once a round, next to each other, in turning order.

    A drift of the machine then falls on all servers alike.
    """
    for name, server in servers.items():
        for concurrency in concurrencies:
            measure(name, server, model, concurrency, WARM_UP_MS)
    measured = []
    for number in track(range(rounds), "rounds", console=Console(stderr=True)):
        order = list(servers) if number % 2 == 0 else list(reversed(servers))
        for concurrency in concurrencies:
            measured += [measure(name, servers[name], model, concurrency, window_ms) for name in order]
    return measured


def main() -> int:
    """Runs the comparison; returns the exit code."""
    arguments = _arguments()
    # Ended from outside, the servers must go too: leave by the way that unwinds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    facts = machine.describe()
    try:
        perf_analyzer.set_up()
        with tempfile.TemporaryDirectory(prefix="tickserve-bench-") as scratch, ExitStack() as running:
            folder = Path(scratch)
            models.build(arguments.model, folder / "models")
            kinds, servers = {}, {}
            for position, kind in enumerate(arguments.servers):
                name = kind if arguments.servers.count(kind) == 1 else f"{kind}-{position + 1}"
                kinds[name] = KINDS[kind]
                home, log = folder / f"{name}-home", folder / f"{name}.log"
                server = KINDS[kind].make(folder / "models", arguments.model, home, log)
                servers[name] = running.enter_context(server)
            rounds = measure_rounds(
                servers, arguments.model, arguments.rounds, arguments.concurrency, arguments.window_ms
            )
    except TickserveError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 3
    report = Report(arguments.model, kinds, rounds)
    report.show(Console())
    if facts.load_average > QUIET_LOAD:
        print(
            f"The load average was {facts.load_average:.1f} at the start: others are at work here, mind the intervals."
        )
    report.write(arguments.out, facts)
    print(f"written: {arguments.out}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--model", choices=sorted(models.MODELS), default="forest-100")
    parser.add_argument("--rounds", type=int, default=30, help="interleaved rounds (default: 30)")
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=[1, 16], help="requests in flight (default: 1 16)"
    )
    parser.add_argument("--window-ms", type=int, default=200, help="a run is three windows (default: 200)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the result file")
    arguments = parser.parse_args()
    arguments.servers = arguments.servers or list(KINDS)
    unknown = [name for name in arguments.servers if name not in KINDS]
    if unknown:
        parser.error(f"unknown server {', '.join(unknown)}: choose from {', '.join(KINDS)}")
    if arguments.rounds < 1 or arguments.window_ms < 100 or min(arguments.concurrency) < 1:
        parser.error("--rounds and --concurrency must be at least 1, --window-ms at least 100")
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
