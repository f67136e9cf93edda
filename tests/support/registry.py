"""Registries for tests: one folder or database each, gates that say what the test wants, packages that differ."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlops.registry import Author, GateReport, Registry
from mlops.registry.gates import GatePolicy, GateResult, Verdict, VersionFacts
from tests.support.packages import build_constant

ANN = Author("ann", "because")


@dataclass(frozen=True)
class Backend:
    """Where a registry lies; as a value, it goes to other processes."""

    url: str
    folder: Path

    def open(self, **options: Any) -> Registry:
        """The registry, with gates that pass."""
        settings: dict[str, Any] = {"evaluate": gates("pass")} | options
        folder = self.folder
        return Registry(self.url, str(folder / "artifacts"), folder / "cache", folder / "keys", **settings)

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"


def gates(verdict: Verdict) -> Callable[[VersionFacts, VersionFacts | None, GatePolicy], GateReport]:
    """An evaluation whose one gate says this."""

    def evaluate(candidate: VersionFacts, live: VersionFacts | None, policy: GatePolicy) -> GateReport:
        return GateReport((GateResult("the-gate", verdict, f"said {verdict}", {"of": candidate.manifest.name}, 1.0),))

    return evaluate


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def step(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


class Packages:
    """Packages of small models, built once each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[Any, Path] = {}

    def __call__(self, value: float = 1.0, *, name: str = "demo", **changes: Any) -> Path:
        key = (value, name, repr(sorted(changes.items())))
        if key not in self._built:
            self._built[key] = build_constant(self._folder, value, name=name, **changes)
        return self._built[key]


def add(registry: Registry, package: Path) -> int:
    """Registers and approves a package; returns its number."""
    version = registry.register(package, ANN)
    registry.approve(version.model, version.version, ANN)
    return version.version


def process_context() -> Any:
    """How tests start processes: from one that imported everything once, for 32 would spend a minute on it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlops.registry", "onnxruntime", "psycopg", __name__])
    return context


def run_processes(work: Callable[..., Any], arguments: list[tuple[Any, ...]], timeout_s: float = 100.0) -> list[Any]:
    """Runs `work(barrier, *arguments)` in a process for each, all released at once; what each returned, or raised."""
    context = process_context()
    barrier, results = context.Barrier(len(arguments)), context.Queue()
    processes = [
        context.Process(target=_call, args=(work, barrier, results, place, given), daemon=True)
        for place, given in enumerate(arguments)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(results.get(timeout=timeout_s) for _ in processes)
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    return [found[place] for place in range(len(processes))]


def _call(work: Callable[..., Any], barrier: Any, results: Any, place: int, arguments: tuple[Any, ...]) -> None:
    try:
        results.put((place, work(barrier, *arguments)))
    except BaseException as error:  # noqa: BLE001 - told to the test
        results.put((place, f"{type(error).__name__}: {error}"))
