"""A models directory as the source of desired state: version policies, operators' rows, rules, what is kept of it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mlops.package import MODEL_FILE
from mlops.routing import MAX_HASH, upper_bound
from server.engine.python import PythonEngine
from server.models import (
    DirectorySource,
    LocalState,
    Memory,
    Operations,
    Reconciler,
    ServedFile,
    parse_policy,
)
from server.models.loading import InlineLoader, Job, Result
from server.models.values import RuleChange, Share, Target, only
from server.plan import Halt, Role
from tests.support.packages import add_constant, flip_byte
from tests.support.reconciling import no_room, segments, shares, stable, with_rows
from tickserve.errors import Code, ConfigurationError, ControlError


@pytest.mark.parametrize(
    ("policy", "answers", "pins"),
    [
        ("latest 1", "3", {"3"}),
        ("latest 2", "3", {"2", "3"}),
        ("latest 9", "3", {"1", "2", "3"}),
        ("specific 1", "1", {"1"}),
        ("specific 1, 2", "2", {"1", "2"}),
        ("specific 2,9", "2", {"2"}),
    ],
)
def test_policy_says_which_versions_answer_and_may_be_asked_for(
    models: Path, engine: PythonEngine, policy: str, answers: str, pins: set[str]
) -> None:
    source = DirectorySource(models, policies={"*": parse_policy("specific 7"), "demo": parse_policy(policy)})
    reconciler = Reconciler(source, engine, LocalState(models.parent))
    reconciler.reconcile()
    plan = reconciler.snapshot().plan.models["demo"]
    assert (stable(reconciler), plan.pins, set(plan.versions)) == (answers, pins, pins)


@pytest.mark.parametrize("text", ["", "latest", "latest 0", "latest -1", "specific", "specific 0", "specific a", "all"])
def test_policy_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="'latest N' or 'specific N, N' is expected"):
        parse_policy(text)


def test_operators_row_outranks_the_policy_survives_a_restart_and_can_be_given_back(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    def start() -> Reconciler:
        return with_rows(models, engine, tmp_path)

    reconciler = start()
    reconciler.reconcile()
    operations = Operations(reconciler)
    assert operations.set_desired("demo", only("1"), None, 0, actor="kim", reason="compare") == 1
    reconciler.reconcile()
    assert stable(reconciler) == "1"
    with pytest.raises(ControlError, match="moved from revision 0 to 1; read it again") as moved:
        operations.set_desired("demo", only("2"), None, 0, actor="kim", reason="late")
    assert moved.value.code is Code.ABORTED
    with pytest.raises(ControlError, match="holds no version '9'; versions here: 1, 2, 3") as unknown:
        operations.set_desired("demo", only("9"), None, 1, actor="kim", reason="typo")
    assert unknown.value.code is Code.NOT_FOUND

    again = start()
    again.reconcile()
    assert stable(again) == "1"
    [record] = again.snapshot().models
    assert (record.desired.revision, record.desired.actor, record.desired.reason) == (1, "kim", "compare")
    operations = Operations(again)
    # Neither would be obeyed.
    for more, halt in ((replace(Target(()), position_scale=0.5), None), (Target(()), Halt("bad fills", "kim", 1))):
        with pytest.raises(ControlError, match=r"without a split, .* `tickserve halt demo` stops it") as idle:
            operations.set_desired("demo", more, halt, 1, actor="kim", reason="stop")
        assert idle.value.code is Code.INVALID_ARGUMENT
    operations.set_desired("demo", Target(()), None, 1, actor="kim", reason="done")
    again.reconcile()
    assert stable(again) == "3"
    assert [event.kind for event in again.events.after(0) if event.actor] == ["desired"]


def test_other_schema_needs_its_name_also_over_a_restart(models: Path, engine: PythonEngine, tmp_path: Path) -> None:
    def start() -> Reconciler:
        return with_rows(models, engine, tmp_path, served=ServedFile(tmp_path / "served.json"))

    reconciler = start()
    reconciler.reconcile()
    add_constant(models, 4.0, feature_names=("rsi", "momentum", "volume"))
    for _ in range(2):
        reconciler.reconcile()
        assert stable(reconciler) == "3"
        [record] = reconciler.snapshot().models
        assert "has other feature names or their order than version 3" in record.failed["4"].error.message
        reconciler = start()
    reconciler.reconcile()
    Operations(reconciler).set_desired(
        "demo", only("4", schema_override="4"), None, 0, actor="kim", reason="clients are ready"
    )
    reconciler.retry("demo")
    reconciler.reconcile()
    assert stable(reconciler) == "4"


class HeldLoader:
    """Loads a version when the test says so."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str], Job] = {}
        self.ended: list[Result] = []

    def start(self, key: tuple[str, str], job: Job) -> bool:
        self.jobs[key] = job
        return True

    def take(self) -> list[Result]:
        ended, self.ended = self.ended, []
        return ended

    @property
    def loading(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.jobs) | {result.key for result in self.ended}

    def load(self, version: str) -> None:
        inline = InlineLoader()
        inline.start(("demo", version), self.jobs.pop(("demo", version)))
        self.ended += inline.take()


def test_schema_is_held_against_what_is_stable_when_the_load_ends(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    loader = HeldLoader()
    reconciler = with_rows(models, engine, tmp_path, loader=loader)

    def load(version: str) -> None:
        loader.load(version)
        reconciler.reconcile()

    def desire(target: Target) -> None:
        reconciler.source.write("demo", target, None, None, actor="kim", reason="try it")
        reconciler.reconcile()

    reconciler.reconcile()
    load("3")
    assert stable(reconciler) == "3"
    desire(only("2"))
    add_constant(models, 4.0, feature_names=("rsi", "momentum", "volume"))
    desire(only("4", schema_override="4"))
    load("4")
    assert stable(reconciler) == "4"
    # Its load began beside version 3, whose schema it has.
    desire(only("2"))
    load("2")
    assert stable(reconciler) == "4"
    load("2")
    assert stable(reconciler) == "4"
    text = "has other feature names or their order than version 4"
    assert text in reconciler.snapshot().models[0].failed["2"].error.message


def test_damaged_overrides_keep_the_server_from_starting(models: Path, engine: PythonEngine, tmp_path: Path) -> None:
    (tmp_path / "overrides.json").write_text('{"held": {"demo"')
    with pytest.raises(ConfigurationError, match="which models are held and which versions were taken out"):
        Reconciler(DirectorySource(models), engine, LocalState(tmp_path))


def test_server_goes_on_with_what_it_served_as_that_very_package(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    def start() -> Reconciler:
        served = ServedFile(tmp_path / "served.json")
        return Reconciler(DirectorySource(models), engine, LocalState(tmp_path), served=served)

    start().reconcile()
    broken = add_constant(models, 4.0)
    (broken / "model.onnx").write_bytes(b"nothing")
    reconciler = start()
    reconciler.reconcile()
    assert stable(reconciler) == "3"
    [record] = reconciler.snapshot().models
    assert set(record.failed) == {"4"}


def test_rows_keep_each_key_where_it_is_also_over_a_restart(models: Path, engine: PythonEngine, tmp_path: Path) -> None:
    def start() -> Reconciler:
        return with_rows(models, engine, tmp_path, served=ServedFile(tmp_path / "served.json"))

    reconciler = start()
    operations = Operations(reconciler, reconciler.reconcile)
    reconciler.reconcile()
    for wanted in (shares("2", 6_000, "1"), shares("3", 3_000, "2")):
        operations.set_desired("demo", Target(wanted), None, None, actor="kim", reason="try")
    expected = [("2", upper_bound(6_000)), ("3", upper_bound(9_000)), ("2", MAX_HASH)]
    assert segments(reconciler) == expected
    again = start()
    again.reconcile()
    assert segments(again) == expected


def test_versions_that_some_clients_may_pin_are_loaded_and_named_as_grpc_does(
    models: Path, engine: PythonEngine, tmp_path: Path
) -> None:
    reconciler = with_rows(models, engine, tmp_path)
    operations = Operations(reconciler, reconciler.reconcile)
    reconciler.reconcile()
    target = replace(only("1"), client_pins=(("2", ("ipv6:[::1]", "subject:CN=desk")),))
    operations.set_desired("demo", target, None, None, actor="kim", reason="try")
    plan = reconciler.snapshot().plan.models["demo"]
    assert set(plan.versions) >= {"1", "2"}
    assert plan.client_pins == {"2": {"ipv6:%5B::1%5D", "subject:CN=desk"}}
    # A version that is taken out here is nobody's to pin.
    operations.set_desired("demo", replace(target, shares=only("2").shares), None, None, actor="kim", reason="try")
    operations.rollback("demo", actor="kim", reason="bad fills")
    assert reconciler.snapshot().plan.models["demo"].client_pins == {}


def test_what_is_served_is_written_once_the_disk_has_room(
    models: Path, engine: PythonEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "served.json"
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(tmp_path), served=ServedFile(served))
    with monkeypatch.context() as full, capture_logs() as logs:
        full.setattr("server.models.files.os.fsync", no_room)
        for _ in range(3):
            reconciler.reconcile()
    assert [entry["event"] for entry in logs].count("last_served_not_written") == 1
    assert ServedFile(served).read() == {}
    reconciler.reconcile()
    assert ServedFile(served).read()["demo"].target.stable == "3"


def test_policy_that_names_no_version_that_is_there_is_said(models: Path, engine: PythonEngine) -> None:
    source = DirectorySource(models, policies={"*": parse_policy("specific 7")})
    reconciler = Reconciler(source, engine, LocalState(models.parent))
    reconciler.reconcile()
    assert reconciler.snapshot().models[0].why.startswith("no version of model 'demo' is wanted")


def test_rules_change_only_with_the_rest_of_what_is_desired(models: Path, engine: PythonEngine, tmp_path: Path) -> None:
    flip_byte(models / "demo" / "2" / MODEL_FILE)
    reconciler = with_rows(models, engine, tmp_path)
    reconciler.reconcile()
    rules = (RuleChange("finite", "flag"),)
    shares = (Share("3", Role.STABLE, 9_000), Share("2", Role.CANARY, 1_000))
    Operations(reconciler).set_desired(
        "demo", Target(shares, rules=rules), None, 0, actor="kim", reason="canary, and only say so"
    )
    reconciler.reconcile()
    [record] = reconciler.snapshot().models
    assert "2" in record.failed
    assert record.loaded["3"].rules == ()
    flip_byte(models / "demo" / "2" / MODEL_FILE)
    reconciler.reconcile()
    [record] = reconciler.snapshot().models
    assert record.target is not None
    assert record.target.weights == {"2": 1_000, "3": 9_000}
    assert {version: loaded.rules for version, loaded in record.loaded.items()} == {"2": rules, "3": rules}


def test_rules_of_a_split_change_all_at_once_or_not_at_all(models: Path, engine: PythonEngine, tmp_path: Path) -> None:
    loader = HeldLoader()
    memory = Memory()
    reconciler = with_rows(models, engine, tmp_path, loader=loader, memory=memory)
    operations = Operations(reconciler)

    def desire(*rules: RuleChange) -> None:
        split = Target(shares("2", 1_000, "3"), rules=rules)
        operations.set_desired("demo", split, None, None, actor="kim", reason="try it")
        reconciler.reconcile()

    def load(version: str) -> None:
        loader.load(version)
        reconciler.reconcile()

    def served() -> dict[str, str]:
        # Another install in between, as any halt is.
        operations.halt("demo", actor="kim", reason="stop")
        operations.resume("demo", actor="kim", reason="")
        plan = reconciler.snapshot().plan.models["demo"]
        assert engine._installed.keys() == {version.key for version in plan.versions.values()}
        return {number: version.output_rules[0].policy for number, version in plan.versions.items()}

    reconciler.reconcile()
    load("3")
    desire()
    load("2")
    assert served() == {"2": "reject", "3": "reject"}
    desire(RuleChange("values_finite", "flag"))
    load("2")
    assert served() == {"2": "reject", "3": "reject"}
    load("3")
    assert served() == {"2": "flag", "3": "flag"}
    # What was loaded for rules that nobody wants any more is given up.
    desire(RuleChange("values_finite", "clip"))
    load("3")
    desire(RuleChange("values_finite", "flag"))
    assert served() == {"2": "flag", "3": "flag"}
    [record] = reconciler.snapshot().models
    assert (record.reloaded, engine._prepared) == ({}, {})
    assert memory.taken_bytes == sum(each.resident_bytes for each in record.prepared.values())


def test_load_that_ends_after_its_model_went_leaves_nothing_behind(models: Path, engine: PythonEngine) -> None:
    add_constant(models, 1.0, name="other")
    loader = HeldLoader()
    reconciler = Reconciler(DirectorySource(models), engine, LocalState(models.parent), loader=loader)
    reconciler.reconcile()
    loader.load("3")
    assert [version for _, version, _, _ in engine._prepared] == ["3"]
    shutil.rmtree(models / "demo")
    reconciler.reconcile()
    assert engine._prepared == {}
