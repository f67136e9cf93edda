"""Controllers, people, servers and clocks in any order: what may never happen to a rollout does not."""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlops.rollout import Order, Phase
from mlops.rollout.controller import LEASE
from mlops.rollout.store import spec_of
from tests.support.registry import ANN, Backend, Clock, Packages, add
from tests.support.rollouts import World, make_spec, side
from tickserve.errors import ConflictError, ControlError, TickserveError

HOLDERS = st.sampled_from(["one", "two"])
SHARES = [0, 1_000, 5_000, 10_000]
_TEMPLATE: dict[str, Path] = {}


def template() -> Path:
    """A registry with a live version and one to be tried, made once and copied for each run."""
    if not _TEMPLATE:
        folder = Path(tempfile.mkdtemp(prefix="rollouts-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        packages = Packages(folder / "packages")
        with Backend(f"sqlite:///{folder / 'registry.db'}", folder).open() as registry:
            for value in (1.0, 2.0):
                add(registry, packages(value))
            registry.promote("demo", 1, ANN)
        _TEMPLATE["folder"] = folder
    return _TEMPLATE["folder"]


class Rollouts(RuleBasedStateMachine):
    """Each holder may look now and write later, with anything in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="rollout-"))
        shutil.copy(template() / "registry.db", self.folder / "registry.db")
        shutil.copytree(template() / "artifacts", self.folder / "artifacts")
        self.registry = Backend(f"sqlite:///{self.folder / 'registry.db'}", self.folder).open(clock=Clock())
        self.world = World(self.registry)
        self.looks: dict[str, Any] = {}
        self.story: list[tuple[str, int]] = []

    @initialize()
    def start(self) -> None:
        self.world.start(make_spec(max_bad_answers=5_000))
        self.world.report()

    @rule(holder=HOLDERS)
    def acquire(self, holder: str) -> None:
        lease = self.world.leases.acquire(LEASE, holder)
        if lease is not None:
            self.world.leases_[holder] = lease

    @rule(holder=HOLDERS)
    def look(self, holder: str) -> None:
        found = self.world.rollout
        if found.ended_at is None:
            self.looks[holder] = self.world.controller()._look(found, spec_of(found))

    @rule(holder=HOLDERS)
    def write(self, holder: str) -> None:
        moved, expected = self.looks.pop(holder, (None, 0))
        lease = self.world.leases_.get(holder)
        if moved is None or lease is None:
            return
        found, before = self.world.rollout, self.world.events
        try:
            self.world.controller()._write(found, spec_of(found), moved, expected, lease)
        except ConflictError:
            assert self.world.events == before, "what is refused leaves nothing"
            return
        with self.registry.journal.database.read() as connection:
            assert self.world.leases.holder(connection, LEASE) == holder, "only who holds the lease writes"

    @rule(holder=HOLDERS, is_taken=st.booleans())
    def oversleep(self, holder: str, is_taken: bool) -> None:
        """One is stopped between its look and its writing, for longer than its lease."""
        self.wait(1, counted=True)
        self.acquire(holder)
        self.look(holder)
        self.world.now_ns += 12 * 10**9
        if is_taken:
            self.acquire("one" if holder == "two" else "two")
        before = self.world.events
        self.write(holder)
        assert self.world.events == before, "it slept too long"

    @rule(holder=HOLDERS, seconds=st.integers(1, 4))
    def work(self, holder: str, seconds: int) -> None:
        """What a controller that nobody disturbs does for some seconds."""
        for _ in range(seconds):
            self.wait(1, counted=True)
            self.acquire(holder)
            self.look(holder)
            self.write(holder)

    @rule(seconds=st.integers(1, 15), counted=st.booleans())
    def wait(self, seconds: int, counted: bool) -> None:
        """Time goes on, and sidecars count, or do not."""
        for _ in range(seconds):
            if counted:
                self.world.count()
            self.world.now_ns += 10**9
        if counted:
            self.world.report()
        self.world.say()

    @rule(bad=st.sampled_from([{}, {}, {"failures": 3}, {"violations": 9}]))
    def behave(self, bad: dict[str, int]) -> None:
        """From here on the version answers so."""
        self.world.canary = side(**bad)

    @rule(seconds=st.sampled_from([-3_600, -30, 30, 3_600]))
    def jump(self, seconds: int) -> None:
        self.world.now_ns += seconds * 10**9
        self.world.say()

    @rule(order=st.sampled_from([Order.PAUSE, Order.CONTINUE, Order.CONTINUE, Order.ABORT, Order.FINISH]))
    def tell(self, order: Order) -> None:
        before = self.world.events
        try:
            self.world.order(order)
        except (ControlError, TickserveError):
            assert self.world.events == before

    @precondition(lambda self: self.world.rollout.ended_at is None)
    @rule()
    def roll_back(self) -> None:
        try:
            self.registry.rollback("demo", ANN)
        except TickserveError:
            assert not self.world.rollout.is_in(self.registry.desired("demo").state)  # type: ignore[union-attr]
        else:
            assert self.world.split == {1: 10_000}

    @invariant()
    def share_is_what_was_decided_last(self) -> None:
        if not self.registry.desired("demo"):
            return
        decisions = self.world.decisions if self.world_has_begun() else ()
        if not decisions:
            return
        share = self.world.split.get(2, 0)
        given = [each.share_bp for each in decisions if each.share_bp >= 0 and each.event != "ordered"]
        assert share == (given[-1] if given else 0)
        assert share in SHARES
        self.story_is_one(decisions)

    def world_has_begun(self) -> bool:
        try:
            return bool(self.world.rollout)
        except AssertionError:
            return False

    def story_is_one(self, decisions: Any) -> None:
        story = [(each.event, each.step) for each in decisions]
        assert story[: len(self.story)] == self.story, "what was decided stays"
        self.story = story
        events = [event for event, _ in story]
        steps = [step for event, step in story if event in ("started", "advanced")]
        assert steps in ([], [1], [1, 2]), "no step is left out, or taken twice"
        ends = [event for event in events if event in ("finished", "aborted")]
        assert len(ends) <= 1
        assert not ends or events[-1] == ends[0], "nothing happens after the end"
        assert bool(ends) == (self.world.rollout.ended_at is not None)
        is_paused = False
        for event in events:
            assert not (is_paused and event in ("started", "advanced", "paused")), "paused is paused"
            is_paused = event == "paused" or (is_paused and event != "continued")
        if not ends:
            assert (self.world.progress.state.phase is Phase.PAUSED) == is_paused

    def teardown(self) -> None:
        assert self.registry.verify().findings == ()
        self.registry.close()
        shutil.rmtree(self.folder, ignore_errors=True)


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=12, stateful_step_count=30, suppress_health_check=list(HealthCheck))
