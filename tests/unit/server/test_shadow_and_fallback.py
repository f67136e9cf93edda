"""Shadow and fallback as desired state has them: in the plan where they fit, else in status with the reason."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlops.routing import WHOLE_BP
from server.api import wire
from server.engine.python import PythonEngine
from server.models import DesiredRows, DirectorySource, LocalState, ModelRecord, Reconciler, Settling, Target
from server.models.codec import plain_target, read_target
from server.models.local import Mark
from server.models.previous import Previous
from server.models.values import ShadowShare, Share, only
from server.plan import ModelPlan, Role, Shadow
from tests.support.models import FEATURES
from tests.support.packages import add_constant, flip_byte
from tickserve.errors import ControlError
from tickserve.v1 import control_pb2 as pb

OTHER_ORDER = tuple(reversed(FEATURES))


class Rig:
    """A reconciler over a models directory whose desired state the test writes."""

    def __init__(self, engine: PythonEngine, folder: Path, *features: tuple[str, ...]) -> None:
        self.models = folder / "models"
        self.models.mkdir()
        self.paths = [
            add_constant(self.models, float(number), feature_names=names) for number, names in enumerate(features, 1)
        ]
        rows = DesiredRows(folder / "desired.json")
        self.source = DirectorySource(self.models, settling=Settling(0.0), rows=rows)
        self.reconciler = Reconciler(self.source, engine, LocalState(folder))

    def desire(self, stable: str = "1", **changes: Any) -> ModelPlan:
        self.source.write("demo", replace(only(stable), **changes), None, None, actor="ann", reason="test")
        self.reconciler.reconcile()
        return self.plan

    @property
    def plan(self) -> ModelPlan:
        return self.reconciler.snapshot().plan.models["demo"]

    @property
    def record(self) -> ModelRecord:
        return self.reconciler.snapshot().models[0]

    def status(self) -> pb.ModelStatus:
        snapshot = self.reconciler.snapshot()
        return wire.model_status(snapshot.models[0], snapshot)

    def failures(self) -> list[tuple[str, str]]:
        """What status says of versions that are not what they should be."""
        return [(change.version, change.message) for change in self.status().failed]


@pytest.fixture
def rig_of(engine: PythonEngine, tmp_path: Path) -> Callable[..., Rig]:
    return lambda *features: Rig(engine, tmp_path, *features)


def test_both_are_loaded_and_in_the_plan(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of(*[FEATURES] * 3)
    plan = rig.desire(shadow=ShadowShare("2", 500, "salt", of="1"), fallback="3", latency_edge_ns=77)
    assert (plan.shadow, plan.fallback, plan.latency_edge_ns) == (Shadow("2", 500, b"salt", of="1"), "3", 77)
    assert set(plan.versions) == {"1", "2", "3"}
    assert plan.pins == {"1"}
    roles = {version.version: version.role for version in rig.status().versions}
    assert roles == {"1": Role.STABLE, "2": Role.SHADOW, "3": Role.FALLBACK}
    assert rig.failures() == []
    plan = rig.desire()
    assert (plan.shadow, plan.fallback, set(plan.versions)) == (None, "", {"1"})
    assert set(rig.record.loaded) == {"1"}, "what nobody needs is dropped"


def test_another_schema_is_refused_with_the_reason(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of(FEATURES, OTHER_ORDER)
    plan = rig.desire(shadow=ShadowShare("2", WHOLE_BP))
    assert (plan.shadow, set(plan.versions)) == (None, {"1"})
    ((version, message),) = rig.failures()
    assert version == "2"
    assert "feature names or their order" in message


def test_who_changed_the_schema_leaves_the_old_one_without_its_shadow(rig_of: Callable[..., Rig]) -> None:
    """The version is loaded and whole; it is no shadow of what is stable now."""
    rig = rig_of(FEATURES, FEATURES, OTHER_ORDER)
    assert rig.desire(shadow=ShadowShare("2", WHOLE_BP), fallback="2").shadow is not None
    plan = rig.desire("3", shadow=ShadowShare("2", WHOLE_BP), fallback="2", schema_override="3")
    assert (plan.shadow, plan.fallback) == (None, "")
    assert rig.plan.split.segments[0].version == "3"
    ((version, message),) = rig.failures()
    assert version == "2"
    assert "version 2 has other feature names or their order than version 3, which is stable" in message
    rig.reconciler.reconcile()
    told = [event for event in rig.reconciler.events.after(0) if event.kind == "failed"]
    assert [(event.version, event.message) for event in told] == [(version, message)], "it is told once"
    assert {each.version: each.role for each in rig.status().versions}["2"] == Role.PREVIOUS
    assert rig.desire("1", shadow=ShadowShare("2", WHOLE_BP), schema_override="1").shadow is not None
    assert rig.failures() == []


def test_one_that_cannot_be_loaded_holds_nothing_up(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of(FEATURES, FEATURES)
    flip_byte(rig.paths[1] / "model.onnx")
    plan = rig.desire(shadow=ShadowShare("2", WHOLE_BP), fallback="2")
    assert (plan.split.segments[0].version, plan.shadow, plan.fallback) == ("1", None, "")
    assert [version for version, _ in rig.failures()] == ["2"]


def test_a_version_that_is_not_there_is_refused(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of(FEATURES)
    for changes in ({"shadow": ShadowShare("9", WHOLE_BP)}, {"fallback": "9"}):
        with pytest.raises(ControlError, match="holds no version '9'"):
            rig.desire(**changes)


def test_what_was_taken_out_here_is_neither(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of(FEATURES, FEATURES)
    wanted = {"shadow": ShadowShare("2", WHOLE_BP), "fallback": "2"}
    assert rig.desire(**wanted).fallback == "2"
    mark = Mark("breaker", "bad", 1)
    rig.reconciler.change_overrides(lambda overrides: overrides.refusing("demo", "2", mark))
    rig.reconciler.reconcile()
    assert (rig.plan.shadow, rig.plan.fallback, set(rig.plan.versions)) == (None, "", {"1"})
    rig.reconciler.change_overrides(lambda overrides: overrides.released("demo"))
    rig.reconciler.reconcile()
    assert (rig.plan.shadow is not None, rig.plan.fallback) == (True, "2")


def test_a_previous_version_that_is_the_shadow_makes_no_room(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of(FEATURES, FEATURES)
    rig.desire()
    plan = rig.desire("2", shadow=ShadowShare("1", WHOLE_BP, of="2"))
    assert (plan.previous, plan.shadow) == ("1", Shadow("1", WHOLE_BP, b"", of="2"))
    previous = Previous(rig.reconciler._installation, rig.reconciler.events)
    assert not previous.release("demo", 0)
    rig.desire("2")
    assert previous.release("demo", 0)


def test_a_shadow_alone_is_no_reason_to_pin(rig_of: Callable[..., Rig]) -> None:
    rig = rig_of(FEATURES, FEATURES)
    plan = rig.desire(shadow=ShadowShare("2", WHOLE_BP))
    assert "2" not in plan.pins


TARGET = Target(
    shares=(Share("1", Role.STABLE, WHOLE_BP),),
    shadow=ShadowShare("2", 250, "s", of="1"),
    fallback="3",
    latency_edge_ns=1_500_000,
)


def test_control_writes_what_it_reads() -> None:
    desired = pb.DesiredState(
        split=[pb.Share(version="1", role="ROLE_STABLE", weight_bp=WHOLE_BP)],
        shadow=pb.Shadow(version="2", fraction_bp=250, salt="s", of="1"),
        fallback_version="3",
        latency_edge_ns=1_500_000,
    )
    assert wire.read_target(desired) == TARGET
    assert wire.read_target(pb.DesiredState.FromString(desired.SerializeToString())) == TARGET


@pytest.mark.parametrize(
    ("shadow", "text"),
    [
        (pb.Shadow(version="2"), "fraction 0 is not from 1 to 10000"),
        (pb.Shadow(version="2", fraction_bp=10_001), "fraction 10001 is not"),
        (pb.Shadow(version="x", fraction_bp=1), "version 'x' is no positive decimal integer"),
        (pb.Shadow(version="2", fraction_bp=1, of="y"), "version 'y' is no positive decimal integer"),
        (pb.Shadow(version="2", fraction_bp=1, of="2"), "version 2 cannot be the shadow of itself"),
    ],
)
def test_control_refuses_what_is_no_shadow(shadow: pb.Shadow, text: str) -> None:
    with pytest.raises(ControlError, match=text) as caught:
        wire.read_target(pb.DesiredState(shadow=shadow))
    assert caught.value.field == "desired.shadow"


def test_control_refuses_what_is_no_version() -> None:
    with pytest.raises(ControlError, match="version '-1'") as caught:
        wire.read_target(pb.DesiredState(fallback_version="-1"))
    assert caught.value.field == "desired.fallback_version"


def test_files_of_state_keep_both_and_may_be_older() -> None:
    plain = plain_target(TARGET)
    assert read_target(plain) == TARGET
    del plain["latency_edge_ns"], plain["shadow"]["of"]
    assert read_target(plain) == replace(TARGET, latency_edge_ns=0, shadow=ShadowShare("2", 250, "s"))
