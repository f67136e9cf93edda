"""Measures our engines beside their peers, what the features cost, and the scenarios: `python -m benchmarks.run`.

Without servers named, all that can be had are measured, and ours are compared with the peers. Servers that are named
are compared with the last one named; the same name twice measures the noise of the measurement itself.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import chart, comparison, features, generator, machine, perf_analyzer
from benchmarks.kinds import KINDS, available
from benchmarks.report import Comparison, show_record, write
from benchmarks.scenarios import fairness, memory, overload
from tickserve.errors import ConfigurationError, TickserveError

#: Load average above which somebody else is at work here.
QUIET_LOAD = 0.5
#: Columns of the tables where no terminal says its width.
WIDTH = 140
RESULT = Path(__file__).resolve().parent / "results" / "latest.json"
#: Servers that `make bench` measures; native-off has a part of its own.
SERVERS = ("native", "python", "cpp", "triton", "bare", "mlserver")
ENGINES = ("native", "python")
PARTS = ("comparison", "features", "overload", "fairness", "memory")


def compare(arguments: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    """Servers side by side."""
    perf_analyzer.set_up()
    chosen = arguments.servers or SERVERS
    found, missing = available(list(dict.fromkeys(chosen)))
    for name, why in missing.items():
        console.print(f"not measured: {name}: {why}", highlight=False)
    servers = [name for name in chosen if name in found]
    if arguments.servers:
        names = list(comparison.named(servers))
        pairs = [(name, names[-1]) for name in names[:-1]]
    else:
        peers = [name for name in servers if not KINDS[name].is_ours]
        pairs = [(name, peer) for name in servers if KINDS[name].is_ours for peer in peers]
    cells = (comparison.all_cells if arguments.all else comparison.default_cells)(servers, arguments.rounds)
    rounds = [
        measured
        for cell in cells
        if not arguments.model or cell.model in arguments.model
        for measured in comparison.run_cell(cell, folder, arguments.window_ms)
    ]
    report = Comparison(comparison.named(servers), pairs, rounds)
    report.show(console)
    return {"not_measured": missing, **report.result()}


def measure_features(arguments: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    """The native engine beside the same engine without its features, and without its tap."""
    found, missing = available(("native-off", "native-tap-off"))
    for name, why in missing.items():
        console.print(f"not measured: {name}: {why}", highlight=False)
    costs = [
        cost
        for without in found
        for model in ("forest-100", "logistic")
        for cost in features.measure(without, model, folder, arguments.rounds)
    ]
    features.show(console, costs)
    return {"features": [asdict(cost) for cost in costs]}


def run_scenario(name: str, folder: Path, console: Console) -> dict[str, Any]:
    """One scenario on each engine that can be had."""
    engines, _ = available(ENGINES)
    if name == "fairness":
        models = ("forest-100", "logistic")
        records: Sequence[Any] = [fairness.measure(engine, model, folder) for engine in engines for model in models]
    else:
        measure = {"overload": overload.measure, "memory": memory.measure}[name]
        records = [measure(engine, folder) for engine in engines]
    show_record(console, name, records)
    return {name: [asdict(record) for record in records]}


def main() -> int:
    """Runs the parts; returns the exit code."""
    arguments = _arguments()
    # Ended from outside, the servers must go too: leave by the way that unwinds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=max(Console().width, WIDTH))
    facts = machine.describe()
    result = _earlier(arguments)
    failed = False
    with tempfile.TemporaryDirectory(prefix="tickserve-bench-") as scratch:
        folder = Path(scratch)
        for part in arguments.parts:
            try:
                result |= _run(part, arguments, folder, console)
            except ConfigurationError as error:
                console.print(f"not measured: {part}: {error.message}", highlight=False)
                result.setdefault("not_measured", {})[part] = error.message
            except TickserveError as error:
                print(f"error: {part}: {error.message}", file=sys.stderr)
                failed = True
            else:
                result.setdefault("measured", {})[part] = asdict(machine.describe())
    if facts.load_average > QUIET_LOAD:
        print(
            f"The load average was {facts.load_average:.1f} at the start: others are at work here, mind the intervals."
        )
    result = {"machine": asdict(facts), **{name: part for name, part in result.items() if name != "machine"}}
    write(arguments.out, result)
    print(f"written: {arguments.out}")
    if arguments.chart is not None and "runs" in result:
        chart.draw(result, arguments.chart)
        print(f"written: {arguments.chart}")
    return 3 if failed else 0


def _run(part: str, arguments: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    if part == "comparison":
        return compare(arguments, folder, console)
    generator.set_up()
    if part == "features":
        return measure_features(arguments, folder, console)
    return run_scenario(part, folder, console)


def _earlier(arguments: argparse.Namespace) -> dict[str, Any]:
    """What an earlier run left of the parts that this one does not measure."""
    if set(arguments.parts) == set(PARTS) or not arguments.out.exists():
        return {}
    found: dict[str, Any] = json.loads(arguments.out.read_text())
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=f"of {', '.join(KINDS)}; default: what can be had")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all of them")
    parser.add_argument("--model", nargs="+", help="only these models; default: all")
    parser.add_argument("--all", action="store_true", help="every model under every load on every server, hours")
    parser.add_argument("--rounds", type=int, default=30, help="interleaved rounds (default: 30)")
    parser.add_argument("--window-ms", type=int, default=100, help="a run is three windows (default: 100)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the result file; parts that are not run stay")
    parser.add_argument("--chart", type=Path, help="an SVG to draw of it")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.servers if name not in KINDS]
    if unknown:
        parser.error(f"unknown server {', '.join(unknown)}: choose from {', '.join(KINDS)}")
    if arguments.rounds < 1 or arguments.window_ms < 100:
        parser.error("--rounds must be at least 1, --window-ms at least 100")
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
