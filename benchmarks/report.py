"""What was measured, for people and for programs: tables, and the result file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Paired, ratio_of_rounds
from benchmarks.kinds import Kind
from benchmarks.measure import Round

#: The figures of a run, with their headings.
FIGURES = {
    "p50_us": "p50 us",
    "p99_us": "p99 us",
    "p999_us": "p99.9 us",
    "requests_per_s": "req/s",
    "cpu_us_per_request": "CPU us/req",
    "steal_pct": "steal %",
}
COMPARED = ("p50_us", "cpu_us_per_request", "p99_us", "requests_per_s")
#: Model, load and server.
Cell = tuple[str, str, str]


class Comparison:
    """The rounds of servers side by side.

    Parameters
    ----------
    kinds : mapping
        Kind of each server by the name that its rounds carry.
    pairs : sequence of (str, str)
        The names of which the first is compared with the second.
    rounds : sequence of Round
        In the order measured.
    """

    def __init__(self, kinds: Mapping[str, Kind], pairs: Sequence[tuple[str, str]], rounds: Sequence[Round]) -> None:
        self._kinds = kinds
        self._pairs = pairs
        self._rounds = rounds
        self._cells: dict[Cell, dict[int, Round]] = {}
        for measured in rounds:
            self._cells.setdefault((measured.model, measured.load, measured.server), {})[measured.number] = measured

    def medians(self) -> dict[Cell, dict[str, float]]:
        """The median of each figure over its rounds."""
        return {
            cell: {figure: float(np.median([getattr(r, figure) for r in rounds.values()])) for figure in FIGURES}
            for cell, rounds in self._cells.items()
        }

    def ratios(self) -> dict[str, Paired]:
        """Ratios by `server/reference model load figure`, over the rounds that both took part in."""
        return {
            f"{server}/{reference} {model} {load} {figure}": ratio
            for (model, load), server, reference, ones, others in self._paired()
            for figure in COMPARED
            for ratio in [ratio_of_rounds([getattr(r, figure) for r in ones], [getattr(r, figure) for r in others])]
        }

    def stages(self) -> dict[Cell, dict[str, float]]:
        """The median over rounds of each stage's mean time, in microseconds, where a server publishes them."""
        found = {}
        for cell, rounds in self._cells.items():
            times = [r.stages_us for r in rounds.values()]
            if times[0]:
                found[cell] = {stage: float(np.median([t[stage] for t in times])) for stage in times[0]}
        return found

    def show(self, console: Console) -> None:
        """Prints the figures, the ratios, and the stages."""
        table = Table("model", "load", "server", *FIGURES.values(), title="medians over rounds")
        for cell, figures in self.medians().items():
            table.add_row(*cell, *(f"{figures[name]:,.1f}" for name in FIGURES))
        console.print(table)
        table = Table("ratio", "median", "95% interval", "rounds", title="ratios of paired rounds")
        for name, ratio in self.ratios().items():
            table.add_row(name, f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}", str(ratio.rounds))
        console.print(table)
        stages = self.stages()
        if stages:
            names = list(next(iter(stages.values())))
            table = Table("model", "load", "server", *names, title="mean us of each stage, by the server's histograms")
            for cell, times in stages.items():
                table.add_row(*cell, *(f"{times.get(name, float('nan')):.1f}" for name in names))
            console.print(table)

    def result(self) -> dict[str, Any]:
        """The parts `runs`, `ratios`, `stages` and `rounds` of the result file."""
        runs = [
            {
                "server": self._kinds[server].server,
                "engine": self._kinds[server].engine,
                "model": model,
                "load": load,
                **{name: round(figure, 3) for name, figure in figures.items()},
                "rounds": len(self._cells[model, load, server]),
            }
            for (model, load, server), figures in self.medians().items()
        ]
        return {
            "runs": runs,
            "ratios": {name: asdict(ratio) for name, ratio in self.ratios().items()},
            "stages": {" ".join(cell): stages for cell, stages in self.stages().items()},
            "rounds": [asdict(r) for r in self._rounds],
        }

    def _paired(self) -> Iterator[tuple[tuple[str, str], str, str, list[Round], list[Round]]]:
        for model, load in dict.fromkeys((model, load) for model, load, _ in self._cells):
            for server, reference in self._pairs:
                ones, others = (self._cells.get((model, load, name), {}) for name in (server, reference))
                both = sorted(ones.keys() & others.keys())
                if both:
                    yield (model, load), server, reference, [ones[n] for n in both], [others[n] for n in both]


def show_record(console: Console, title: str, records: Sequence[Any]) -> None:
    """Prints records of one kind side by side, a figure a line."""
    fields = [asdict(record) for record in records]
    table = Table("", *(str(each.get("engine", "")) for each in fields), title=title)
    for name in fields[0]:
        if name != "engine":
            table.add_row(name, *(_text(each[name]) for each in fields))
    console.print(table)


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Writes the result file: one line for each element of a list, so that it can be read and compared."""
    parts = []
    for name, value in result.items():
        if isinstance(value, list):
            lines = ",\n  ".join(_json(element) for element in value)
            parts.append(f'"{name}": [\n  {lines}\n ]')
        elif isinstance(value, dict) and value and all(isinstance(element, dict) for element in value.values()):
            lines = ",\n  ".join(f"{json.dumps(key)}: {_json(element)}" for key, element in value.items())
            parts.append(f'"{name}": {{\n  {lines}\n }}')
        else:
            parts.append(f'"{name}": {_json(value)}')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n " + ",\n ".join(parts) + "\n}\n")


def _json(value: Any) -> str:
    return json.dumps(_rounded(value), allow_nan=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(element) for key, element in value.items()}
    return [_rounded(element) for element in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    if isinstance(value, dict):
        return "; ".join(f"{key} {_text(element)}" for key, element in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
