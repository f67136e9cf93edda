"""The version that is kept warm, over a restart: loaded again behind what is served, and only then."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.engine import Prepared
from server.engine.python import PythonEngine
from server.models import (
    DesiredRows,
    DirectorySource,
    Loader,
    LocalState,
    Mark,
    Memory,
    ModelRecord,
    Operations,
    Reconciler,
    ServedFile,
    Settling,
)
from server.models.loading import InlineLoader
from server.models.values import only
from server.plan import VersionPlan
from tests.support.packages import add_constant
from tickserve.errors import ControlError

Start = Callable[..., Reconciler]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def start(models: Path) -> Iterator[Start]:
    """Starts one process after the other over the same folder of state, each with an engine of its own."""
    engines: list[PythonEngine] = []

    def started(
        memory: Memory | None = None, loads: list[tuple[str, str]] | None = None, loader: Loader | None = None
    ) -> Reconciler:
        engine = PythonEngine(
            ["127.0.0.1:0"], pool_threads=1, max_in_flight=8, max_in_flight_per_client=8, max_message_bytes=1 << 20
        )
        engine.start()
        engines.append(engine)
        if loads is not None:
            watch(engine, loads)
        rows = DesiredRows(models.parent / "desired.json")
        source = DirectorySource(models, settling=Settling(0.0), rows=rows)
        served = ServedFile(models.parent / "served.json")
        return Reconciler(source, engine, LocalState(models.parent), served=served, memory=memory, loader=loader)

    yield started
    for engine in engines:
        engine.stop(0.0)


def watch(engine: PythonEngine, loads: list[tuple[str, str]]) -> None:
    prepare = engine.prepare

    def watched(version: VersionPlan) -> Prepared:
        loads.append((version.model, version.version))
        return prepare(version)

    engine.prepare = watched  # type: ignore[method-assign]


def demo(reconciler: Reconciler) -> ModelRecord:
    return next(record for record in reconciler.snapshot().models if record.name == "demo")


def stable_and_previous(reconciler: Reconciler) -> tuple[str, str]:
    record = demo(reconciler)
    assert record.plan is not None
    assert record.target is not None
    assert record.plan.previous == record.previous
    return record.target.stable, record.previous


def kinds(reconciler: Reconciler) -> list[tuple[str, str]]:
    return [(event.kind, event.version) for event in reconciler.events.after(0)]


def serve_two(start: Start, models: Path, **second: object) -> None:
    """One process that served version 1, then 2."""
    add_constant(models, 1.0)
    reconciler = start()
    reconciler.reconcile()
    add_constant(models, 2.0, **second)
    if second:
        reconciler.source.write("demo", only("2", schema_override="2"), None, None, actor="ann", reason="new order")
    reconciler.reconcile()
    assert stable_and_previous(reconciler) == ("2", "1")


def test_it_is_there_after_a_restart_and_can_be_gone_back_to(start: Start, models: Path) -> None:
    serve_two(start, models)
    add_constant(models, 7.0, name="other")
    loads: list[tuple[str, str]] = []
    reconciler = start(loads=loads)
    reconciler.reconcile()
    reconciler.reconcile()
    assert stable_and_previous(reconciler) == ("2", "1")
    # What answers comes first, of every model.
    assert loads == [("demo", "2"), ("other", "1"), ("demo", "1")]
    assert kinds(reconciler)[-1] == ("previous_restored", "1")
    assert Operations(reconciler).rollback("demo", actor="ann", reason="bad fills").version == "1"
    assert stable_and_previous(reconciler) == ("1", "")
    assert len(loads) == 3


def test_it_survives_restarts_that_never_came_to_it(start: Start, models: Path) -> None:
    serve_two(start, models)
    first = start()
    first.refresh()
    first._adopt()
    first._step("demo")
    for result in first._loader.take():
        first._finish(result)
    first._step("demo")
    first._installation.keep_served()
    assert stable_and_previous(first) == ("2", "")
    second = start()
    second.reconcile()
    assert stable_and_previous(second) == ("2", "1")


def test_what_was_served_last_is_kept_warm_where_something_newer_is_served(start: Start, models: Path) -> None:
    serve_two(start, models)
    add_constant(models, 3.0)
    reconciler = start()
    reconciler.reconcile()
    assert stable_and_previous(reconciler) == ("3", "2")


def test_without_its_package_the_server_goes_on_and_says_so(start: Start, models: Path) -> None:
    serve_two(start, models)
    shutil.rmtree(models / "demo" / "1")
    reconciler = start()
    reconciler.reconcile()
    assert stable_and_previous(reconciler) == ("2", "")
    assert kinds(reconciler)[-1] == ("previous_not_restored", "1")
    assert demo(reconciler).failed == {}
    with pytest.raises(ControlError, match="keeps no earlier version warm"):
        Operations(reconciler).rollback("demo", actor="ann", reason="")


def test_another_package_in_its_place_is_not_taken_for_it(start: Start, models: Path) -> None:
    serve_two(start, models)
    shutil.rmtree(models / "demo" / "1")
    path = add_constant(models, 9.0)
    path.rename(models / "demo" / "1")
    reconciler = start()
    reconciler.reconcile()
    assert stable_and_previous(reconciler) == ("2", "")
    assert kinds(reconciler)[-1] == ("previous_not_restored", "1")


def test_its_schema_may_be_another_one_as_before_the_restart(start: Start, models: Path) -> None:
    serve_two(start, models, feature_names=("rsi", "momentum", "volume"))
    reconciler = start()
    reconciler.reconcile()
    assert stable_and_previous(reconciler) == ("2", "1")


def test_version_that_was_taken_out_is_not_brought_back(start: Start, models: Path) -> None:
    serve_two(start, models)
    reconciler = start()
    reconciler.reconcile()
    Operations(reconciler).trip("demo", "2", "9 of 10 answers were bad", halts=False)
    assert stable_and_previous(reconciler) == ("1", "")
    reconciler.converge()
    restarted = start()
    restarted.reconcile()
    assert stable_and_previous(restarted) == ("1", "")


class PendingLoader(InlineLoader):
    """Has loaded, and says so only when it is asked for what there is to take."""

    @property
    def loading(self) -> frozenset[tuple[str, str]]:  # type: ignore[override]
        return frozenset(result.key for result in self._results)


def test_version_that_is_taken_out_while_it_loads_is_not_brought_back(start: Start, models: Path) -> None:
    serve_two(start, models)
    reconciler = start(loader=PendingLoader())
    reconciler.refresh()
    reconciler._adopt()
    reconciler._step("demo")
    for result in reconciler._loader.take():
        reconciler._finish(result)
    reconciler._step("demo")
    assert reconciler._loader.loading == {("demo", "1")}
    reconciler.change_overrides(lambda found: found.refusing("demo", "1", Mark("ann", "bad fills", 1)))
    reconciler.reconcile()
    assert stable_and_previous(reconciler) == ("2", "")
    assert set(demo(reconciler).loaded) == {"2"}


def test_memory_that_is_short_is_left_to_what_answers(start: Start, models: Path) -> None:
    serve_two(start, models)
    memory = Memory()
    reconciler = start(memory)
    reconciler.refresh()
    reconciler._adopt()
    reconciler._step("demo")
    for result in reconciler._loader.take():
        reconciler._finish(result)
    # Another model is being loaded meanwhile.
    memory.reserve(("other", "1"), 1 << 20)
    memory.budget_bytes = 1
    reconciler.reconcile()
    assert stable_and_previous(reconciler) == ("2", "")
    assert ("previous_not_restored", "1") in kinds(reconciler)
