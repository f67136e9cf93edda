"""The reconciler under any order of changes, faults and restarts, as a state machine.

Whatever happens: only verified versions are installed, a model that answered goes on answering, also after a restart
where its version is still whole, and once faults are gone it gets to what is desired.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine import Prepared
from server.models import (
    Desired,
    LocalState,
    ModelDesired,
    Operations,
    Reconciler,
    ServedFile,
    Target,
    VersionRef,
)
from server.models.values import only
from server.plan import Halt, Plan, VersionPlan
from tests.support.models import echo_model, unwritten_plan
from tickserve.errors import ControlError, DamagedPackageError, PackageError, UnreachableError

VERSIONS = [str(number) for number in range(1, 6)]
FAULTS = ("damaged", "unloadable", "unreachable", "memory", "crash")


class World:
    """What outlives a process: the registry with its versions, and which fault each of them has for now."""

    def __init__(self) -> None:
        self.target, self.revision, self.is_away = only("1"), 1, False
        self.kept: Desired | None = None
        self.faults: dict[str, str] = {}
        self.now = 0.0


class FakeSource:
    """A registry that is a value; `kept` stands for the file of the last good state."""

    name = "registry"

    def __init__(self, world: World) -> None:
        self._world = world

    def read(self) -> Desired:
        world = self._world
        if world.is_away:
            raise UnreachableError("the registry does not answer")
        refs = {
            version: VersionRef(version, digest(version), fingerprint=(version, world.revision)) for version in VERSIONS
        }
        model = ModelDesired("demo", world.revision, (world.target,), refs)
        world.kept = Desired({"demo": model}, world.revision)
        return world.kept

    def last_good(self) -> Desired | None:
        return self._world.kept

    def open(self, model: str, ref: VersionRef) -> VersionPlan:
        fault = self._world.faults.get(ref.version)
        if fault == "damaged":
            raise DamagedPackageError(f"version {ref.version} is damaged")
        if fault == "unreachable":
            raise UnreachableError("the store does not answer")
        return plan_of(ref.version)

    def accepts_schema(self, target: Target, old: VersionPlan, new: VersionPlan) -> bool:
        return False

    def write(self, model: str, target: Target, halt: Halt | None, expected_revision: int | None, **_: Any) -> int:
        world = self._world
        if world.is_away:
            raise UnreachableError("the registry does not answer")
        world.target, world.revision = target, world.revision + 1
        return world.revision


class FakeEngine:
    """Refuses to install what was not prepared, and to prepare what has a fault."""

    name = "fake"

    def __init__(self, world: World) -> None:
        self._world = world
        self._ready: set[str] = set()
        self.plan: Plan | None = None

    def prepare(self, version: VersionPlan) -> Prepared:
        fault = self._world.faults.get(version.version)
        if fault == "unloadable":
            raise PackageError("no such operator")
        if fault == "memory":
            raise MemoryError
        if fault == "crash":
            raise ZeroDivisionError("a bug of the loader")
        self._ready.add(version.version)
        return Prepared(version, 1000, 1 << 20, 0.0, 0.001)

    def discard(self, version: VersionPlan) -> None:
        if self.plan is None or version.version not in self.plan.models["demo"].versions:
            self._ready.discard(version.version)

    def install(self, plan: Plan) -> None:
        for model in plan.models.values():
            assert model.versions.keys() <= self._ready, "installed what is not prepared"
            assert {segment.version for segment in model.split.segments} <= model.versions.keys()
        self.plan = plan


def plan_of(version: str) -> VersionPlan:
    return replace(unwritten_plan(echo_model(), name="demo", version=version), digest=bytes.fromhex(digest(version)))


def digest(version: str) -> str:
    return version.rjust(64, "0")


class Reconciling(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        self.folder = Path(tempfile.mkdtemp(prefix="ts-states-"))
        self.world = World()
        self.served_before = ""
        self.engine = FakeEngine(self.world)
        self.start()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)
        structlog.reset_defaults()

    @rule()
    def start(self) -> None:
        """As after kill -9: nothing but files and the registry is left."""
        self.served_before = self.serving or self.served_before
        self.engine = FakeEngine(self.world)
        self.reconciler = Reconciler(
            FakeSource(self.world),
            self.engine,  # type: ignore[arg-type]
            LocalState(self.folder),
            served=ServedFile(self.folder / "served.json"),
            clock=lambda: self.world.now,
        )
        self.operations = Operations(self.reconciler)
        self.was_serving = False

    @rule(version=st.sampled_from(VERSIONS))
    def promote(self, version: str) -> None:
        self.world.target, self.world.revision = only(version), self.world.revision + 1

    @rule(version=st.sampled_from(VERSIONS), fault=st.sampled_from(FAULTS))
    def break_version(self, version: str, fault: str) -> None:
        self.world.faults[version] = fault

    @rule(version=st.sampled_from(VERSIONS))
    def mend_version(self, version: str) -> None:
        self.world.faults.pop(version, None)

    @rule(is_away=st.booleans())
    def registry(self, is_away: bool) -> None:
        self.world.is_away = is_away

    @rule(seconds=st.sampled_from([0.1, 6.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @rule()
    def pass_once(self) -> None:
        self.reconciler.reconcile()
        if self.served_before and self.served_before not in self.world.faults:
            assert self.serving
        self.served_before = ""

    @precondition(lambda self: self.serving)
    @rule()
    def roll_back(self) -> None:
        before = self.serving
        try:
            version = self.operations.rollback("demo", actor="kim", reason="test").version
        except ControlError:
            # Nothing is kept warm.
            assert self.serving == before
        else:
            assert self.serving == version != before

    @precondition(lambda self: self.serving)
    @rule()
    def trip(self) -> None:
        self.operations.trip("demo", self.serving, "test", halts=False, is_slow=True)

    @precondition(lambda self: self.serving)
    @rule(is_following=st.booleans())
    def follow(self, is_following: bool) -> None:
        self.operations.follow("demo", is_following=is_following, actor="kim", reason="test")

    @rule()
    def settle(self) -> None:
        """Without faults it gets to what is desired, unless somebody here decided otherwise."""
        self.world.faults.clear()
        self.world.is_away = False
        for _ in range(2):
            self.world.now += 400.0
            self.reconciler.reconcile()
        snapshot = self.reconciler.snapshot()
        [record] = snapshot.models
        assert record.failed == {} or not self.serving
        out = snapshot.overrides.refused.get("demo", {})
        if "demo" not in snapshot.overrides.held and self.world.target.stable not in out:
            assert self.serving == self.world.target.stable

    @property
    def serving(self) -> str:
        models: Mapping[str, Any] = self.engine.plan.models if self.engine.plan else {}
        segments: Sequence[Any] = models["demo"].split.segments if "demo" in models else ()
        return str(segments[-1].version) if segments else ""

    @invariant()
    def goes_on_answering(self) -> None:
        assert self.serving or not self.was_serving
        self.was_serving = bool(self.serving)

    @invariant()
    def keeps_at_most_two_loaded(self) -> None:
        for record in self.reconciler.snapshot().models:
            if record.plan is not None:
                assert len(record.plan.versions) <= 2


Reconciling.TestCase.settings = settings(
    max_examples=150, stateful_step_count=25, suppress_health_check=list(HealthCheck)
)
TestReconciling = Reconciling.TestCase
