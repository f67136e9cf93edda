"""Many processes at once, and processes killed in the middle."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.registry import Registration
from mlops.registry import register as register_module
from mlops.registry.journal import Write
from mlops.registry.store import ArtifactStore
from tests.support.registry import ANN, Backend, Packages, process_context, run_processes
from tickserve.errors import ConflictError

PROCESSES = 32


def register_and_promote(barrier: Any, backend: Backend, own: Path, shared: Path) -> tuple[int, int, int]:
    """Registers a package of one's own and one that everybody registers, then promotes one's own over what is live."""
    with backend.open() as registry:
        barrier.wait(90)
        common = registry.register(shared, ANN).version
        version = registry.register(own, ANN).version
        registry.approve("demo", version, ANN)
        while True:
            # Written over the revision just seen, so that no other's promotion can be lost unseen.
            desired = registry.desired("demo")
            try:
                written, _ = registry.promote("demo", version, ANN, expected=desired.revision if desired else 0)
            except ConflictError:
                continue
            return common, version, written.revision


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_32_processes_register_and_promote_without_losing_anything(backend: Backend, packages: Packages) -> None:
    own = [packages(value) for value in range(PROCESSES)]
    shared = packages(-1)
    results = run_processes(register_and_promote, [(backend, path, shared) for path in own], timeout_s=240)
    assert all(isinstance(result, tuple) for result in results), results
    common, versions, revisions = zip(*results, strict=True)
    assert len(set(common)) == 1, "one package is one version, whoever registers it"
    assert sorted({*versions, common[0]}) == list(range(1, PROCESSES + 2))
    assert sorted(revisions) == list(range(1, PROCESSES + 1)), "every promotion has a revision of its own"
    with backend.open() as registry:
        assert registry.revision == PROCESSES
        by_revision = dict(zip(revisions, versions, strict=True))
        desired = registry.desired("demo")
        assert desired is not None
        assert desired.state.named("stable") == by_revision[PROCESSES]
        assert registry.verify().findings == ()


def open_only(barrier: Any, backend: Backend) -> int:
    barrier.wait(60)
    with backend.open() as registry:
        return registry.revision


def test_many_processes_make_the_tables_at_once(backend: Backend) -> None:
    assert run_processes(open_only, [(backend,)] * 8) == [0] * 8
    with backend.open() as registry:
        assert registry.verify().findings == ()


def killed_in(place: str, backend: Backend, package: Path) -> None:
    """Registers a package, and dies at one place of it without any cleaning up."""

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    match place:
        case "while a file is written":
            original = os.fsync
            os.fsync = lambda descriptor: (original(descriptor), die())  # type: ignore[assignment,return-value]
        case "between the files":
            put = ArtifactStore.put
            seen: list[str] = []

            def third(store: ArtifactStore, data: bytes) -> str:
                if len(seen) == 2:
                    die()
                seen.append(put(store, data))
                return seen[-1]

            ArtifactStore.put = third  # type: ignore[method-assign]
        case "before the rows":
            register_module.ensure_model = die
        case "within the rows":
            register_module.insert_run = die  # type: ignore[assignment]
        case "before the commit":
            Write.body = die  # type: ignore[assignment,method-assign]
    with backend.open() as registry:
        registry.register(package, ANN, Registration(label="1.0.0"))


@pytest.mark.parametrize(
    "place",
    ["while a file is written", "between the files", "before the rows", "within the rows", "before the commit"],
)
def test_a_killed_process_leaves_no_half_version_and_no_file_that_gc_cannot_see(
    backend: Backend, packages: Packages, place: str
) -> None:
    with backend.open() as registry:
        registry.register(packages(1), ANN)
        before = {path for path in backend.artifacts.rglob("*") if path.is_file()}
    process = process_context().Process(target=killed_in, args=(place, backend, packages(2)))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with backend.open() as registry:
        assert [version.version for version in registry.versions("demo")] == [1]
        assert registry.verify().findings == ()
        left = {path for path in backend.artifacts.rglob("*") if path.is_file()} - before
        assert left
        found = registry.collect_garbage(ANN, grace=timedelta(0))
        assert {file.name for file in found} == {path.name for path in left}
        assert {path for path in backend.artifacts.rglob("*") if path.is_file()} == before
        assert registry.register(packages(2), ANN, Registration(label="1.0.0")).version == 2
        assert registry.verify().findings == ()


def hold_forever(backend: Backend) -> None:
    with backend.open() as registry:
        registry._journal.write("hold", ANN, lambda write: time.sleep(3600))


def test_a_killed_writer_gives_its_lock_back(backend: Backend, packages: Packages) -> None:
    with backend.open() as registry:
        process = process_context().Process(target=hold_forever, args=(backend,))
        process.start()
        bound = time.monotonic() + 60
        while not is_locked(registry) and time.monotonic() < bound:
            process.join(0.05)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join(60)
        assert registry.register(packages(1), ANN).version == 1


def is_locked(registry: Any) -> bool:
    """Whether somebody writes just now."""
    from sqlalchemy import select, text
    from sqlalchemy.exc import OperationalError

    from mlops.registry.schema import audit_head

    database = registry._database
    with database.engine.connect() as plain:
        try:
            if database.is_sqlite:
                plain.connection.dbapi_connection.execute("PRAGMA busy_timeout = 0")
                with plain.execution_options(tickserve_begin="IMMEDIATE").begin():
                    return False
            with plain.begin():
                plain.execute(text("SET LOCAL lock_timeout = 1"))
                plain.execute(select(audit_head).with_for_update(nowait=True))
                return False
        except OperationalError:
            return True
        finally:
            if database.is_sqlite:
                plain.connection.dbapi_connection.execute("PRAGMA busy_timeout = 60000")
