"""The memory budget beside loads: what should not fit is refused, and what is kept warm makes room."""

from dataclasses import replace
from pathlib import Path

from server.engine.python import PythonEngine
from server.models import (
    DirectorySource,
    LocalState,
    Memory,
    Operations,
    Reconciler,
    parse_policy,
)
from server.models.values import ShadowShare, Target, only
from tests.support.packages import add_constant
from tests.support.reconciling import stable, with_rows
from tickserve.errors import Code


def test_version_that_should_not_fit_is_refused_before_it_is_loaded(models: Path, engine: PythonEngine) -> None:
    memory = Memory(1 << 30)
    loads: list[str] = []
    prepare = engine.prepare

    def counted(version: object) -> object:
        loads.append(version.version)  # type: ignore[attr-defined]
        return replace(prepare(version), resident_bytes=600 << 20)  # type: ignore[arg-type]

    engine.prepare = counted  # type: ignore[method-assign,assignment]
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(models.parent), memory=memory)
    reconciler.reconcile()
    assert (loads, memory.taken_bytes) == (["3"], 600 << 20)
    add_constant(models, 4.0)
    reconciler.reconcile()
    [record] = reconciler.snapshot().models
    assert record.failed["4"].error.code is Code.RESOURCE_EXHAUSTED
    assert "of the 1024.0 MiB of memory_budget_mb are taken" in record.failed["4"].error.message
    assert (loads, stable(reconciler)) == (["3"], "3")


def test_room_is_made_by_giving_up_what_is_kept_warm(models: Path, engine: PythonEngine) -> None:
    memory = Memory()
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(models.parent), memory=memory)
    prepare = engine.prepare
    engine.prepare = lambda version: replace(prepare(version), resident_bytes=300 << 20)  # type: ignore[method-assign]
    reconciler.reconcile()
    add_constant(models, 4.0)
    reconciler.reconcile()
    assert reconciler.snapshot().models[0].previous == "3"
    memory.budget_bytes = 800 << 20
    add_constant(models, 5.0)
    reconciler.reconcile()
    assert (stable(reconciler), reconciler.snapshot().models[0].previous) == ("5", "4")
    kinds = [(event.kind, event.version) for event in reconciler.events.after(0)]
    assert kinds[-2:] == [("previous_released", "3"), ("installed", "5")]


def test_what_is_kept_warm_stays_where_giving_it_up_would_not_make_room(models: Path, engine: PythonEngine) -> None:
    memory = Memory()
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(models.parent), memory=memory)
    prepare = engine.prepare
    engine.prepare = lambda version: replace(prepare(version), resident_bytes=300 << 20)  # type: ignore[method-assign]
    reconciler.reconcile()
    add_constant(models, 4.0)
    reconciler.reconcile()
    # Beside the load of another model, 100 MiB more than the version that is kept warm takes are missing.
    memory.reserve(("other", "1"), 500 << 20)
    memory.budget_bytes = 1000 << 20
    add_constant(models, 5.0)
    reconciler.reconcile()
    [record] = reconciler.snapshot().models
    assert (stable(reconciler), record.previous) == ("4", "3")
    assert record.failed["5"].error.code is Code.RESOURCE_EXHAUSTED
    memory.budget_bytes = 1100 << 20
    reconciler.retry("demo")
    reconciler.reconcile()
    assert (stable(reconciler), reconciler.snapshot().models[0].previous) == ("5", "4")


def test_no_room_is_made_of_what_clients_may_still_pin(models: Path, engine: PythonEngine) -> None:
    memory = Memory()
    source = DirectorySource(models, policies={"*": parse_policy("latest 2")})
    reconciler = Reconciler(source, engine, LocalState(models.parent), memory=memory)
    prepare = engine.prepare
    engine.prepare = lambda version: replace(prepare(version), resident_bytes=300 << 20)  # type: ignore[method-assign]
    reconciler.reconcile()
    add_constant(models, 4.0)
    reconciler.reconcile()
    memory.budget_bytes = 800 << 20
    add_constant(models, 5.0)
    reconciler.reconcile()
    [record] = reconciler.snapshot().models
    assert record.failed["5"].error.code is Code.RESOURCE_EXHAUSTED
    assert (stable(reconciler), record.previous) == ("4", "3")
    assert reconciler.snapshot().plan.models["demo"].versions.keys() == {"3", "4"}


def test_a_shadow_counts_what_it_takes_beside_what_was_measured(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    memory, mb = Memory(), 1 << 20
    prepare = engine.prepare
    engine.prepare = lambda version: replace(  # type: ignore[method-assign]
        prepare(version), resident_bytes=300 * mb, shadow_bytes=150 * mb
    )
    reconciler = with_rows(models, engine, tmp_path, memory=memory)
    reconciler.reconcile()
    operations = Operations(reconciler)

    def desire(target: Target) -> int:
        operations.set_desired("demo", target, None, None, actor="kim", reason="try it")
        reconciler.retry("demo")
        reconciler.reconcile()
        return memory.taken_bytes // mb

    assert memory.taken_bytes == 300 * mb
    # Beside the stable one it would fit by what was measured, and not with what it makes as a shadow.
    memory.budget_bytes = 700 * mb
    shadowed = replace(only("3"), shadow=ShadowShare("2", 1000))
    assert desire(shadowed) == 300
    assert "should need 450.0 MiB" in reconciler.snapshot().models[0].failed["2"].error.message
    memory.budget_bytes = 800 * mb
    assert desire(shadowed) == 750
    assert reconciler.snapshot().plan.models["demo"].shadow is not None
    assert desire(only("3", pins=frozenset({"2"}))) == 600
