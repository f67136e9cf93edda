"""A change that fails, in every way that one can, under load on every engine.

What was served goes on, the reason is told once, and the change happens as soon as nothing is wrong any more.
"""

import contextlib
import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from mlops.package import MANIFEST_FILE, MODEL_FILE, load_private_key, new_key, sign_package
from mlops.registry import Registry
from mlops.registry.desired import make_state
from mlops.registry.store import ArtifactStore
from mlops.registry.values import Share
from server.metrics import ServerCollector
from server.models import (
    DirectorySource,
    EventLog,
    LocalState,
    Memory,
    ModelRecord,
    PackageCache,
    Reconciler,
    Source,
    ThreadLoader,
    Trials,
)
from server.models.registry import RegistrySource
from server.plan import VersionPlan
from tests.conformance.conftest import Bench
from tests.support.models import large_model, slow_model
from tests.support.packages import add_constant, build_constant, flip_byte
from tests.support.registry import ANN, add, gates
from tickserve.client import Client
from tickserve.errors import Code

WITHIN_S = 60.0


@dataclass
class Load:
    """A client that sends without a pause and keeps what came back."""

    address: str
    versions: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._send, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)

    def _send(self, stop: threading.Event) -> None:
        with Client(self.address, model="demo", timeout_s=60.0, check_features=False) as client:
            while not stop.is_set():
                try:
                    answer = client.predict([1.0, 2.0, 3.0])
                except Exception as error:  # noqa: BLE001 - whatever it is, it was lost
                    self.wrong.append(repr(error))
                    continue
                self.versions.append(answer.version)
                if list(answer.values) != [float(answer.version)]:
                    self.wrong.append(f"version {answer.version} answered {answer.values}")


class Rig:
    """A reconciler with loading threads over an engine, and the folder of models that it follows."""

    def __init__(self, bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench, self.folder, self.patch = bench, folder, monkeypatch
        self.models = folder / "models"
        self.models.mkdir()
        self.memory = Memory()
        self.now = time.monotonic()
        self.source: Source = DirectorySource(self.models)
        self.registry: Any = None
        self.events = EventLog(folder / "events.jsonl")
        self.trials = Trials(60.0)
        self.uses_trials = False

    def start(self) -> None:
        self.reconciler = Reconciler(
            self.source,
            self.bench.engine,
            LocalState(self.folder),
            loader=ThreadLoader(2, 60.0, wake=lambda: None, drop=self.bench.engine.discard, clock=lambda: self.now),
            memory=self.memory,
            trials=self.trials if self.uses_trials else None,
            events=self.events,
            clock=lambda: self.now,
        )

    def trials_at_work(self) -> frozenset[int]:
        """The process that tries a version, once it was told to."""
        wait_until(lambda: self.trials.busy)
        return self.trials.busy

    def until(self, is_true: Callable[[ModelRecord], bool]) -> ModelRecord:
        """Passes until it is true of the model."""
        end = time.monotonic() + WITHIN_S
        while time.monotonic() < end:
            self.reconciler.reconcile()
            found = [record for record in self.reconciler.snapshot().models if record.name == "demo"]
            if found and is_true(found[0]):
                return found[0]
            threading.Event().wait(0.01)
        pytest.fail(f"not within {WITHIN_S} s: {self.reconciler.snapshot().models}")

    def metrics(self) -> set[tuple[str, str]]:
        """The changes that failed, by model and version, as they are scraped."""
        collector = ServerCollector("test", self.bench.engine.counters, self.reconciler.snapshot, lambda: True)
        [family] = [found for found in collector.collect() if found.name == "tickserve_failed_change"]
        return {(sample.labels["model"], sample.labels["version"]) for sample in family.samples if sample.value == 1}

    def serves(self, version: str) -> None:
        self.until(lambda record: record.target is not None and record.target.stable == version)


Mend = Callable[[], Any]
Fault = Callable[[Rig], tuple[Code, str, Mend]]


def corrupt_artifact(rig: Rig) -> tuple[Code, str, Mend]:
    path = add_constant(rig.models, 2.0) / MODEL_FILE
    good = path.read_bytes()
    flip_byte(path)
    return Code.DATA_LOSS, "is damaged", lambda: path.write_bytes(good)


def checksum(rig: Rig) -> tuple[Code, str, Mend]:
    path = add_constant(rig.models, 2.0) / MANIFEST_FILE
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"description":""', b'"description":"x"'))
    return Code.DATA_LOSS, "says another", lambda: path.write_bytes(good)


def with_keys(rig: Rig) -> None:
    keys = rig.folder / "keys"
    new_key(keys, "desk")
    sign_package(rig.models / "demo" / "1", load_private_key(keys, "desk"))
    rig.source = DirectorySource(rig.models, keys)


def signature(rig: Rig) -> tuple[Code, str, Mend]:
    key = load_private_key(rig.folder / "keys", "desk")
    path = add_constant(rig.models, 2.0)
    return Code.FAILED_PRECONDITION, "is not signed", lambda: sign_package(path, key)


def unsupported_op(rig: Rig) -> tuple[Code, str, Mend]:
    # Written as it is, because onnx's own checker knows the operators too.
    graph = helper.make_graph(
        [helper.make_node("NoSuchOperator", ["features"], ["values"])],
        "graph",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows", 1])],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    path = rig.models / "demo" / "2"
    path.mkdir()
    (path / MODEL_FILE).write_bytes(model)
    rig.patch.setattr("server.models.preparing.require_schema", lambda *_: None)
    return Code.FAILED_PRECONDITION, "NoSuchOperator", lambda: replaced(rig, path)


def wrong_schema(rig: Rig) -> tuple[Code, str, Mend]:
    path = add_constant(rig.models, 2.0, feature_names=("rsi", "momentum", "volume"))
    return Code.FAILED_PRECONDITION, "other feature names or their order", lambda: replaced(rig, path)


def golden_mismatch(rig: Rig) -> tuple[Code, str, Mend]:
    prepare = rig.bench.engine.prepare

    def with_other_golden(version: VersionPlan) -> Any:
        if version.golden is not None and version.version == "2":
            version.golden.outputs["values"][:] = 2.5
        return prepare(version)

    add_constant(rig.models, 2.0)
    rig.patch.setattr(rig.bench.engine, "prepare", with_other_golden)
    return Code.FAILED_PRECONDITION, "golden", rig.patch.undo


def over_the_memory_budget(rig: Rig) -> tuple[Code, str, Mend]:
    add_constant(rig.models, 2.0)
    rig.memory.budget_bytes = 1
    rig.memory.keep({("other", "1"): 1 << 20})
    return Code.RESOURCE_EXHAUSTED, "of memory_budget_mb are taken", lambda: setattr(rig.memory, "budget_bytes", 0)


def out_of_memory_while_loading(rig: Rig) -> tuple[Code, str, Mend]:
    add_constant(rig.models, 2.0)
    failing(rig, MemoryError())
    return Code.RESOURCE_EXHAUSTED, "memory ran out", rig.patch.undo


def loading_thread_that_ends(rig: Rig) -> tuple[Code, str, Mend]:
    add_constant(rig.models, 2.0)
    failing(rig, SystemExit(9))
    return Code.FAILED_PRECONDITION, "SystemExit", rig.patch.undo


def killed_loader(rig: Rig) -> tuple[Code, str, Mend]:
    mend = add_endless(rig)
    os.kill(*rig.trials_at_work(), signal.SIGKILL)
    return Code.FAILED_PRECONDITION, "ended the process that tried it, by SIGKILL", mend


def loader_that_hangs(rig: Rig) -> tuple[Code, str, Mend]:
    rig.trials._timeout_s = 0.2
    mend = add_endless(rig)

    def mend_both() -> None:
        rig.trials._timeout_s = 60.0
        mend()

    return Code.DEADLINE_EXCEEDED, "was not tried within 0.2 s", mend_both


def loader_that_needs_more_memory_than_is_left(rig: Rig) -> tuple[Code, str, Mend]:
    path = rig.models / "demo" / "2"
    path.mkdir()
    (path / MODEL_FILE).write_bytes(large_model(1 << 28))
    rig.memory.budget_bytes = 256 << 20
    rig.patch.setattr("server.models.preparing.require_schema", lambda *_: None)
    return (
        Code.RESOURCE_EXHAUSTED,
        "loading it takes more than the",
        lambda: replaced(rig, path),
    )


def add_endless(rig: Rig) -> Mend:
    """Adds a version 2 whose loading ends with no test, and begins to load it."""
    path = rig.models / "demo" / "2"
    staged = rig.folder / "staged"
    staged.mkdir()
    (staged / MODEL_FILE).write_bytes(slow_model(repeats=20_000))
    rig.patch.setattr("server.models.preparing.require_schema", lambda *_: None)
    staged.rename(path)
    rig.reconciler.reconcile()
    return lambda: replaced(rig, path)


def clock_step(rig: Rig) -> tuple[Code, str, Mend]:
    code, text, mend = corrupt_artifact(rig)
    real = time.time_ns
    rig.patch.setattr("server.models.reconciler.time.time_ns", lambda: real() - 3600 * 10**9)
    return code, text, mend


def disk_full(rig: Rig) -> tuple[Code, str, Mend]:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rig.registry.promote("demo", 2, ANN)
    rig.patch.setattr("mlops.package._files.os.fsync", full)
    return Code.FAILED_PRECONDITION, "No space left on device", rig.patch.undo


def fetch_timeout(rig: Rig) -> tuple[Code, str, Mend]:
    entered, release = threading.Event(), threading.Event()
    get = ArtifactStore.get

    def hanging(store: ArtifactStore, sha256: str, size_bytes: int) -> bytes:
        entered.set()
        release.wait(WITHIN_S)
        return get(store, sha256, size_bytes)

    rig.patch.setattr(ArtifactStore, "get", hanging)
    # Not by promoting it: the gates read the package too.
    found = rig.registry.desired("demo")
    state = make_state(split=(Share(version=2, role="stable", weight_bp=10_000),))
    rig.registry.set_desired("demo", state, ANN, found.revision)
    rig.reconciler.reconcile()
    assert entered.wait(WITHIN_S)
    rig.now += 61.0
    return Code.DEADLINE_EXCEEDED, "was not loaded within 60 s", release.set


def registry_gone_half_way(rig: Rig) -> tuple[Code, str, Mend]:
    rig.registry.promote("demo", 2, ANN)
    artifacts = rig.folder / "artifacts"
    artifacts.rename(rig.folder / "away")
    return Code.DATA_LOSS, "is missing", lambda: (rig.folder / "away").rename(artifacts)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        corrupt_artifact,
        checksum,
        signature,
        unsupported_op,
        wrong_schema,
        golden_mismatch,
        over_the_memory_budget,
        out_of_memory_while_loading,
        loading_thread_that_ends,
        killed_loader,
        loader_that_hangs,
        loader_that_needs_more_memory_than_is_left,
        clock_step,
        disk_full,
        fetch_timeout,
        registry_gone_half_way,
    )
}


@pytest.mark.parametrize("fault", FAULTS)
def test_failed_change_leaves_what_was_served_and_happens_once_it_can(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, fault: str
) -> None:
    rig = Rig(bench, tmp_path, monkeypatch)
    request.addfinalizer(rig.trials.close)
    add_constant(rig.models, 1.0)
    BEFORE.get(fault, lambda _: None)(rig)
    rig.start()
    rig.serves("1")
    load = Load(bench.address)
    with load.running():
        with capture_logs() as logs:
            code, text, mend = FAULTS[fault](rig)
            record = rig.until(lambda record: "2" in record.failed)
            rig.reconciler.reconcile()
        failed = record.failed["2"]
        assert (failed.error.code, text in failed.error.message) == (code, True), failed.error.message
        # The same reason once wherever it is told.
        logged = [(entry["version"], entry["error"]) for entry in logs if entry["event"] == "change_failed"]
        told = [(event.version, event.message) for event in rig.events.after(0) if event.kind == "failed"]
        assert logged == told == [("2", failed.error.message)]
        assert rig.metrics() == {("demo", "2")}
        assert record.target is not None
        assert record.target.stable == "1"
        answered = len(load.versions)
        wait_until(lambda: len(load.versions) > answered + 10)
        mend()
        rig.now += 400.0
        rig.serves("2")
        wait_until(lambda: load.versions[-1:] == ["2"])
    assert load.wrong == []
    assert set(load.versions) == {"1", "2"}
    assert sorted(load.versions) == load.versions
    kinds = [(event.kind, event.version) for event in rig.events.after(0) if event.kind in ("installed", "failed")]
    assert kinds[-2:] == [("failed", "2"), ("installed", "2")]
    assert rig.reconciler.snapshot().models[0].failed == {}


def test_load_that_never_ends_is_given_up_and_holds_no_other_model(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(bench, tmp_path, monkeypatch)
    add_constant(rig.models, 1.0)
    release, entered = threading.Event(), threading.Event()
    read = DirectorySource.open

    def slow(source: DirectorySource, model: str, ref: Any) -> VersionPlan:
        if (model, ref.version) == ("demo", "2"):
            entered.set()
            release.wait(WITHIN_S)
        return read(source, model, ref)

    monkeypatch.setattr(DirectorySource, "open", slow)
    loader = ThreadLoader(1, 5.0, wake=lambda: None, drop=bench.engine.discard, clock=lambda: rig.now)
    rig.reconciler = Reconciler(
        rig.source, bench.engine, LocalState(tmp_path), loader=loader, events=rig.events, clock=lambda: rig.now
    )
    rig.serves("1")
    add_constant(rig.models, 2.0)
    rig.reconciler.reconcile()
    assert entered.wait(WITHIN_S)
    rig.now += 6.0
    failed = rig.until(lambda record: "2" in record.failed).failed["2"]
    assert failed.error.code is Code.DEADLINE_EXCEEDED
    assert "was not loaded within 5 s" in failed.error.message
    # The only place to load is free again.
    add_constant(rig.models, 7.0, name="other")
    wait_until(lambda: (rig.reconciler.reconcile(), "other" in rig.reconciler.snapshot().plan.models)[1])
    release.set()
    wait_until(lambda: not loader._given_up)
    rig.now += 400.0
    rig.serves("2")


def failing(rig: Rig, error: BaseException) -> None:
    prepare = rig.bench.engine.prepare

    def fail(version: VersionPlan) -> Any:
        if version.version == "2":
            raise error
        return prepare(version)

    rig.patch.setattr(rig.bench.engine, "prepare", fail)


def replaced(rig: Rig, path: Path) -> None:
    """Puts a whole package where the bad one was."""
    rig.patch.undo()
    good = build_constant(rig.folder / "packages", 2.0)
    shutil.rmtree(path)
    shutil.copytree(good, path)


def with_registry(rig: Rig) -> None:
    """A registry with two versions, the first one live, as the source instead of the folder."""
    folder = rig.folder

    def opened(cache: Path, **options: Any) -> Registry:
        return Registry(f"sqlite:///{folder}/registry.db", str(folder / "artifacts"), cache, folder / "keys", **options)

    rig.registry = opened(folder / "fetched", evaluate=gates("pass"))
    for value in (1.0, 2.0):
        add(rig.registry, build_constant(folder / "packages", value))
    rig.registry.promote("demo", 1, ANN)
    cache = PackageCache(folder / "cache", 1 << 30, frozenset)
    rig.source = RegistrySource(lambda: opened(cache.folder), cache, folder / "registry.json", keys=folder / "keys")


def with_trials(rig: Rig) -> None:
    """Each version is tried in a process of its own first."""
    rig.uses_trials = True


#: What must be there before anything is served.
BEFORE: dict[str, Callable[[Rig], None]] = {
    "signature": with_keys,
    "disk_full": with_registry,
    "fetch_timeout": with_registry,
    "registry_gone_half_way": with_registry,
    "killed_loader": with_trials,
    "loader_that_hangs": with_trials,
    "loader_that_needs_more_memory_than_is_left": with_trials,
}


def wait_until(is_true: Callable[[], Any]) -> None:
    end = time.monotonic() + WITHIN_S
    while not is_true():
        assert time.monotonic() < end, "not in time"
        threading.Event().wait(0.01)
