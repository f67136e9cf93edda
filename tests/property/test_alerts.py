"""The policy under restarts, crashes, full disks, registries that fail, and operators who change things meanwhile."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlops.alerts.actions import FoundScale, Notice, Why
from mlops.alerts.history import read_history
from mlops.alerts.matrix import Level, Matrix, Row
from mlops.alerts.policy import RowState, step
from mlops.alerts.reading import Reading
from mlops.alerts.runner import AlertPolicy
from tickserve.errors import Code, ConflictError, UnreachableError

#: Distinct from what the rows set, so that it is known whose a scale is.
OPERATOR_SCALES = (1.0, 0.9, 0.6, 0.3, 0.1)
FAULTS = ("none", "none", "unreachable", "conflict", "crash before", "crash after", "disk full")


def make_row(name: str, warning: float, critical: float) -> Row:
    def level(enter: float, leave: float, scale: float, **more: Any) -> Level:
        return Level(
            enter=enter,
            leave=leave,
            actions=("set_position_scale", "notify", *more.pop("also", ())),
            position_scale=scale,
            **more,
        )

    return Row(
        name=name,
        source="outcome",
        figure="ic",
        basis="upper",
        direction="below",
        length=60,
        warning=level(2, 3, warning, windows=1),
        critical=level(0, 1, critical, clear_windows=2, also=("halt", "request_retraining")),
    )


ROWS = {row.name: row for row in (make_row("a", 0.75, 0.5), make_row("b", 0.8, 0.25))}


class CrashError(BaseException):
    """The process is gone."""


class World:
    """What a registry would hold, and how it fails."""

    def __init__(self) -> None:
        self.scale, self.revision, self.is_halted = 1.0, 1, False
        self.operator_scale = 1.0
        self.effects: Counter[str] = Counter()
        self.notices: Counter[str] = Counter()
        self.fault = "none"

    def read_scale(self, model: str) -> FoundScale:
        self._meet("unreachable")
        return FoundScale(self.scale, self.revision)

    def write_scale(self, model: str, scale: float, found: FoundScale, why: Why) -> None:
        self._meet("conflict")
        self._meet("crash before")
        assert found.revision == self.revision
        assert scale <= self.operator_scale, "raised above what an operator allows"
        self.scale, self.revision = scale, self.revision + 1
        self.effects[why.id] += 1
        self._meet("crash after")

    give_back_scale = write_scale

    def reduce_share(self, model: str, why: Why) -> bool:
        raise AssertionError("no row moves traffic")

    def roll_back(self, model: str, version: str, why: Why) -> bool:
        raise AssertionError("no row moves traffic")

    def halt(self, model: str, why: Why) -> bool:
        self._meet("unreachable")
        self._meet("crash before")
        if self.is_halted:
            return False
        self.is_halted, self.revision = True, self.revision + 1
        self.effects[why.id] += 1
        self._meet("crash after")
        return True

    def was_written(self, model: str, identity: str) -> bool:
        self._meet("unreachable")
        return self.effects[identity] > 0

    def notify(self, notice: Notice) -> None:
        self._meet("unreachable")
        self.notices[notice.id] += 1

    def _meet(self, fault: str) -> None:
        if self.fault != fault:
            return
        self.fault = "none"
        if fault == "unreachable":
            raise UnreachableError("the registry does not answer")
        if fault == "conflict":
            assert ConflictError.code == Code.ABORTED
            raise ConflictError("the desired state moved")
        raise CrashError


class Alerts(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.world = World()
        self.stores_left = 0
        self.said: list[tuple[str, Reading]] = []
        self.time = 0
        self.open()

    def open(self) -> None:
        self.policy = AlertPolicy("demo", Matrix(row=tuple(ROWS.values())), self.path, self.world)
        store = self.policy._file.write

        def write(state: Any) -> None:
            if self.world.fault == "disk full":
                raise OSError(28, "No space left on device")
            self.stores_left -= 1
            if self.stores_left == 0:
                raise CrashError
            store(state)

        self.policy._file.write = write  # type: ignore[method-assign]

    def reopen(self) -> None:
        """As after a crash: what was not counted durably is told again, with all that was."""
        self.policy.close()
        self.world.fault, self.stores_left = "none", 0
        self.open()
        for name, reading in self.said:
            self.policy.observe(name, [reading])

    @rule(
        name=st.sampled_from(sorted(ROWS)),
        value=st.sampled_from([-1.0, 0.5, 1.5, 2.5, 3.5, None]),
        version=st.sampled_from(["1", "1", "1", "2"]),
        again=st.booleans(),
    )
    def read(self, name: str, value: float | None, version: str, again: bool) -> None:
        self.time += 1
        reading = Reading("demo", version, str(self.time), self.time, self.time + 1, value, evidence="x")
        self.said.append((name, reading))
        try:
            for _ in range(1 + again):
                self.policy.observe(name, [reading])
        except CrashError:
            self.reopen()

    @rule(fault=st.sampled_from(FAULTS))
    def act(self, fault: str) -> None:
        self.world.fault = fault
        try:
            self.policy.act()
        except CrashError:
            self.reopen()
        self.world.fault = "none"

    @rule(
        fault=st.sampled_from(["crash before", "crash after", "stores"]),
        stores=st.integers(1, 12),
        scale=st.sampled_from([None, *OPERATOR_SCALES]),
        resumes=st.booleans(),
    )
    def crash_and_meanwhile(self, fault: str, stores: int, scale: float | None, resumes: bool) -> None:
        """The process dies somewhere in its actions, and before it is back an operator does something."""
        self.world.fault = fault
        self.stores_left = stores if fault == "stores" else 0
        try:
            self.policy.act()
        except CrashError:
            if scale is not None:
                self.operator_sets(scale)
            if resumes and self.world.is_halted:
                self.operator_resumes()
            self.reopen()
        self.world.fault, self.stores_left = "none", 0

    @rule()
    def restart(self) -> None:
        self.reopen()

    @rule(scale=st.sampled_from(OPERATOR_SCALES))
    def operator_sets(self, scale: float) -> None:
        if scale != self.world.scale:
            self.world.revision += 1
        self.world.scale = self.world.operator_scale = scale

    @rule()
    def operator_promotes(self) -> None:
        self.world.revision += 1

    @precondition(lambda self: self.world.is_halted)
    @rule()
    def operator_resumes(self) -> None:
        self.world.is_halted, self.world.revision = False, self.world.revision + 1

    @rule()
    def everything_is_done_in_the_end(self) -> None:
        self.world.fault = "none"
        self.policy.act()
        self.policy.act()
        assert self.policy.pending == 0
        if not any(self.policy.levels().values()):
            assert self.world.scale == self.world.operator_scale
        ids = [row.id for row in read_history(self.path / "history.jsonl")]
        assert len(ids) == len(set(ids))
        records = [row for row in read_history(self.path / "history.jsonl") if row.action == "record"]
        assert len(records) == self.transitions()

    @invariant()
    def nothing_has_an_effect_twice(self) -> None:
        if hasattr(self, "world"):
            assert max(self.world.effects.values(), default=0) <= 1

    @invariant()
    def levels_are_those_of_all_windows_in_order(self) -> None:
        if hasattr(self, "policy"):
            states: dict[str, RowState] = {}
            for name, reading in self.said:
                states[name], _ = step(ROWS[name], states.get(name, RowState()), reading)
            expected = {name: state.level for name, state in states.items() if state.end is not None}
            assert self.policy.levels() == expected

    def transitions(self) -> int:
        states: dict[str, RowState] = {}
        found = 0
        for name, reading in self.said:
            states[name], changed = step(ROWS[name], states.get(name, RowState()), reading)
            found += len(changed)
        return found

    def teardown(self) -> None:
        if hasattr(self, "policy"):
            self.policy.close()
            self.folder.cleanup()


TestAlerts = Alerts.TestCase
TestAlerts.settings = settings(max_examples=60, stateful_step_count=40)


def test_a_scale_whose_write_was_not_seen_to_end_is_not_set_again_over_an_operator() -> None:
    state = Alerts()
    state.begin()
    try:
        state.read(name="a", value=-1.0, version="1", again=False)
        state.crash_and_meanwhile(fault="crash after", stores=1, scale=1.0, resumes=False)
        state.everything_is_done_in_the_end()
        state.nothing_has_an_effect_twice()
        assert state.world.scale == 1.0
    finally:
        state.teardown()
