"""How measured rounds are shown and kept: tables for people, a result file for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Ratio, ratio_of_rounds
from benchmarks.machine import Machine
from benchmarks.measure import Round
from benchmarks.servers import Kind

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


class Report:
    """The rounds of servers under one model, in the order measured; every server is compared with the last one.

    Parameters
    ----------
    kinds : mapping
        Kind of each server by the name that its rounds carry.
    """

    def __init__(self, model: str, kinds: Mapping[str, Kind], rounds: Sequence[Round]) -> None:
        self._model = model
        self._kinds = kinds
        self._rounds = rounds
        self._cells: dict[tuple[str, str], list[Round]] = {}
        for measured in rounds:
            self._cells.setdefault((measured.load, measured.server), []).append(measured)

    def medians(self) -> dict[tuple[str, str], dict[str, float]]:
        """The median of each figure over its rounds, by (load, server)."""
        return {
            cell: {figure: float(np.median([getattr(r, figure) for r in rounds])) for figure in FIGURES}
            for cell, rounds in self._cells.items()
        }

    def ratios(self) -> dict[str, Ratio]:
        """Ratios by `server/reference load figure`."""
        *others, reference = self._kinds
        return {
            f"{server}/{reference} {load} {figure}": ratio_of_rounds(
                [getattr(r, figure) for r in self._cells[load, server]],
                [getattr(r, figure) for r in self._cells[load, reference]],
            )
            for load in dict.fromkeys(load for load, _ in self._cells)
            for server in others
            for figure in COMPARED
        }

    def stages(self) -> dict[tuple[str, str], dict[str, float]]:
        """The median over rounds of each stage's mean time, in microseconds, by (load, server)."""
        return {
            cell: {stage: float(np.median([r.stages_us[stage] for r in rounds])) for stage in rounds[0].stages_us}
            for cell, rounds in self._cells.items()
            if rounds[0].stages_us
        }

    def show(self, console: Console) -> None:
        """Prints the figures, the ratios, and the stages where a server publishes them."""
        table = Table("load", "server", *FIGURES.values(), title=f"{self._model}, medians over rounds")
        for (load, server), figures in sorted(self.medians().items()):
            table.add_row(load, server, *(f"{figures[name]:,.1f}" for name in FIGURES))
        console.print(table)
        table = Table("ratio", "median", "95% interval", "rounds", title="ratios of paired rounds")
        for name, ratio in self.ratios().items():
            table.add_row(name, f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}", str(ratio.rounds))
        console.print(table)
        for (load, server), stages in sorted(self.stages().items()):
            table = Table("stage", "mean us", title=f"{server} {load}, its own histograms")
            for stage, mean_us in stages.items():
                table.add_row(stage, f"{mean_us:.1f}")
            console.print(table)

    def write(self, path: Path, machine: Machine) -> None:
        """Writes the result file; `rounds` and `stages` let others compute what the medians hide."""
        runs = [
            {
                "server": self._kinds[server].server,
                "engine": self._kinds[server].engine,
                "model": self._model,
                "load": load,
                **{name: round(figure, 3) for name, figure in figures.items()},
            }
            for (load, server), figures in self.medians().items()
        ]
        result = {
            "machine": asdict(machine),
            "runs": runs,
            "ratios": {name: asdict(ratio) for name, ratio in self.ratios().items()},
            "stages": {f"{server} {load}": stages for (load, server), stages in self.stages().items()},
            "rounds": [asdict(r) for r in self._rounds],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
