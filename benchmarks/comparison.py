"""Servers side by side: interleaved rounds of every load, on one model after the other."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks import models
from benchmarks.kinds import KINDS, Kind, Place
from benchmarks.loads import LOADS, Load
from benchmarks.measure import Round, measure
from benchmarks.servers import ServerProcess

WARM_UP_MS = 300


@dataclass(frozen=True)
class Cell:
    """What is measured on one model: every server under every load, in so many rounds."""

    model: str
    loads: tuple[Load, ...]
    servers: tuple[str, ...]
    rounds: int


def default_cells(servers: Sequence[str], rounds: int) -> list[Cell]:
    """The forest under every load; the other models under two, in a third of the rounds, without MLServer."""
    fewer = tuple(server for server in servers if server != "mlserver")
    short = tuple(LOADS[name] for name in ("c=1", "c=16"))
    others = ("logistic", "boosting-100", "mlp")
    return [
        Cell("forest-100", tuple(LOADS.values()), tuple(servers), rounds),
        *(Cell(model, short, fewer, max(1, rounds // 3)) for model in others),
    ]


def all_cells(servers: Sequence[str], rounds: int) -> list[Cell]:
    """Every model under every load on every server, in all rounds."""
    names = ("forest-100", "logistic", "boosting-100", "mlp")
    return [Cell(model, tuple(LOADS.values()), tuple(servers), rounds) for model in names]


def named(servers: Sequence[str]) -> dict[str, Kind]:
    """The kinds by the names that their rounds carry: one that is asked for twice is numbered."""
    return {
        kind if servers.count(kind) == 1 else f"{kind}-{position + 1}": KINDS[kind]
        for position, kind in enumerate(servers)
    }


def run_cell(cell: Cell, folder: Path, window_ms: int) -> list[Round]:
    """Measures one cell: all servers run all the time, and take turns in turning order within each load of a round.

    A drift of the machine then falls on all of them alike. What has an `every` above one sits rounds out.
    """
    models_dir = models.build(cell.model, folder / f"models-{cell.model}")
    kinds = named(cell.servers)
    rounds: list[Round] = []
    with ExitStack() as running:
        servers: Mapping[str, ServerProcess] = {
            name: running.enter_context(
                kind.make(Place(models_dir, cell.model, _folder(folder, f"{cell.model}-{name}")))
            )
            for name, kind in kinds.items()
        }
        for name, kind in kinds.items():
            for load in cell.loads:
                if kind.takes(load):
                    measure(0, name, servers[name], cell.model, load, WARM_UP_MS)
        for number in track(range(cell.rounds), cell.model, console=Console(stderr=True)):
            present = [name for name, kind in kinds.items() if number % kind.every == 0]
            order = present if number % 2 == 0 else list(reversed(present))
            for load in cell.loads:
                if number % load.every:
                    continue
                rounds += [
                    measure(number, name, servers[name], cell.model, load, window_ms)
                    for name in order
                    if kinds[name].takes(load)
                ]
    return rounds


def _folder(folder: Path, name: str) -> Path:
    own = folder / name
    own.mkdir()
    return own
