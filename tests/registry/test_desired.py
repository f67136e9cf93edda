from datetime import timedelta
from itertools import islice

import pytest

from mlops.registry import (
    AllowedPin,
    DesiredState,
    GateError,
    Registry,
    RuleOverride,
    Shadow,
    Share,
    SplitSegment,
    Status,
)
from mlops.registry.desired import make_state
from mlops.registry.gates import GatePolicy
from tests.support.registry import ANN, Backend, Clock, Packages, add, gates
from tickserve.errors import ConflictError, RegistryArgumentError, RegistryError, UnknownError


def live(registry: Registry) -> int | None:
    desired = registry.desired("demo")
    return desired.state.named("stable") if desired else None


def test_only_approved_versions_may_be_desired(registry: Registry, packages: Packages) -> None:
    version = registry.register(packages(1), ANN)
    with pytest.raises(RegistryError, match="is validated; approve it first"):
        registry.promote("demo", 1, ANN)
    with pytest.raises(RegistryError, match="only approved versions may be desired"):
        registry.set_desired("demo", only(1), ANN, 0)
    assert registry.desired("demo") is None
    assert registry.approve("demo", version.version, ANN).status == Status.APPROVED
    registry.promote("demo", 1, ANN)
    assert live(registry) == 1
    assert registry.resolve("demo", "live").version == 1


def only(version: int) -> DesiredState:
    return DesiredState(split=(Share(version=version, role="stable", weight_bp=10_000),))


def test_promotion_keeps_the_rest_of_the_state(registry: Registry, packages: Packages) -> None:
    for value in (1, 2, 3):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    state = make_state(
        split=(
            Share(version=1, role="stable", weight_bp=9_000),
            Share(version=2, role="canary", weight_bp=1_000),
        ),
        salt="s",
        shadow=Shadow(version=3, fraction_bp=500),
        fallback_version=1,
        position_scale=0.25,
        allowed_pins=(AllowedPin(version=2, clients=("desk",)),),
        rule_overrides=(RuleOverride(rule="values_finite", policy="flag"),),
    )
    registry.set_desired("demo", state, ANN, 1)
    assert registry.resolve("demo", "canary").version == 2
    desired, _ = registry.promote("demo", 2, ANN)
    assert desired.state == state.model_copy(update={"split": only(2).split})
    assert registry.promote("demo", 3, ANN)[0].state.shadow is None


@pytest.mark.parametrize(
    ("shadow", "whose"),
    [
        (Shadow(version=1, fraction_bp=500), "another version"),
        (Shadow(version=2, fraction_bp=500, of=9), "version 9"),
    ],
)
def test_shadow_that_would_get_no_copies_is_refused(
    registry: Registry, packages: Packages, shadow: Shadow, whose: str
) -> None:
    for value in (1, 2):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    with pytest.raises(RegistryError, match=f"a shadow without copies: {whose} has no share"):
        registry.set_desired("demo", only(1).model_copy(update={"shadow": shadow}), ANN, 1)
    kept = Shadow(version=2, fraction_bp=500, of=1)
    registry.set_desired("demo", only(1).model_copy(update={"shadow": kept}), ANN, 1)
    # Who changes something else is not asked about a shadow that is there.
    found = registry.desired("demo")
    assert found is not None
    registry.set_desired("demo", only(2).model_copy(update={"shadow": kept}), ANN, found.revision)


def test_a_state_is_written_only_over_the_revision_it_was_based_on(registry: Registry, packages: Packages) -> None:
    for value in (1, 2):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN, expected=0)
    with pytest.raises(ConflictError, match="moved from revision 0 to 1"):
        registry.promote("demo", 2, ANN, expected=0)
    with pytest.raises(ConflictError):
        registry.set_desired("demo", only(2), ANN, 0)
    with pytest.raises(ConflictError):
        registry.rollback("demo", ANN, 7)
    assert live(registry) == 1


def test_a_promotion_decided_against_another_live_version_conflicts(backend: Backend, packages: Packages) -> None:
    with backend.open() as other:
        for value in (1, 2, 3):
            add(other, packages(value))
        other.promote("demo", 1, ANN)

        def meanwhile(*facts: object) -> object:
            other.promote("demo", 3, ANN)
            return gates("pass")(*facts)  # type: ignore[arg-type]

        with backend.open(evaluate=meanwhile) as registry:
            with pytest.raises(ConflictError):
                registry.promote("demo", 2, ANN)
            assert live(registry) == 3


def test_only_desired_state_moves_the_revision(registry: Registry, packages: Packages) -> None:
    assert registry.revision == 0
    add(registry, packages(1))
    registry.log_metrics("demo", 1, "live", {"sharpe": 1.0}, ANN)
    registry.set_alias("demo", "champion", 1, ANN)
    assert registry.revision == 0
    registry.promote("demo", 1, ANN)
    assert registry.revision == 1
    registry.promote("demo", 1, ANN)
    assert registry.revision == 1, "nothing changed"


def test_watch_tells_each_move_once(registry: Registry, packages: Packages) -> None:
    add(registry, packages(1))
    add(registry, packages(2))
    waits = iter([None, lambda: registry.promote("demo", 1, ANN), None, lambda: registry.promote("demo", 2, ANN)])

    def pause(seconds: float) -> None:
        if step := next(waits):
            step()

    assert list(islice(registry.watch(pause=pause), 3)) == [0, 1, 2]


def test_rollback_goes_back_and_further_back(registry: Registry, packages: Packages) -> None:
    for value in (1, 2, 3):
        registry.promote("demo", add(registry, packages(value)), ANN)
    assert registry.rollback("demo", ANN).state.named("stable") == 2
    assert registry.rollback("demo", ANN).state.named("stable") == 1
    with pytest.raises(UnknownError, match="no earlier stable version"):
        registry.rollback("demo", ANN)
    registry.promote("demo", 3, ANN)
    assert registry.rollback("demo", ANN).state.named("stable") == 1, "what was live before 3"


def test_rollback_passes_over_what_is_no_longer_approved(registry: Registry, packages: Packages) -> None:
    for value in (1, 2, 3):
        registry.promote("demo", add(registry, packages(value)), ANN)
    registry.retire("demo", 2, ANN)
    assert registry.rollback("demo", ANN).state.named("stable") == 1


def test_rollback_never_goes_to_what_was_rolled_back_from(registry: Registry, packages: Packages) -> None:
    for value in (1, 2, 3):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    registry.promote("demo", 2, ANN)
    registry.rollback("demo", ANN)
    registry.promote("demo", 3, ANN)
    assert registry.rollback("demo", ANN).state.named("stable") == 1
    with pytest.raises(UnknownError, match="no earlier stable version"):
        registry.rollback("demo", ANN)
    registry.promote("demo", 3, ANN)
    registry.approve("demo", 1, ANN)
    registry.retire("demo", 1, ANN)
    with pytest.raises(UnknownError, match="no earlier stable version"):
        registry.rollback("demo", ANN)


def test_another_schema_needs_its_name_as_override(registry: Registry, packages: Packages) -> None:
    registry.promote("demo", add(registry, packages(1)), ANN)
    add(registry, packages(1, feature_names=("rsi", "momentum", "volume")))
    with pytest.raises(RegistryError, match="features: in another order"):
        registry.promote("demo", 2, ANN)
    desired, _ = registry.promote("demo", 2, ANN, schema_override=2)
    assert (desired.state.named("stable"), desired.state.schema_override) == (2, 2)
    report = registry.gate_evaluations(registry.version("demo", 2))[0].report
    assert report["policy"]["schema_override"] is True, "the gate of the schema is told of it too"
    assert registry.rollback("demo", ANN).state.schema_override == 1


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_gates_that_do_not_pass_keep_a_version_out_and_are_kept(
    backend: Backend, packages: Packages, verdict: str
) -> None:
    with backend.open(evaluate=gates(verdict)) as registry:  # type: ignore[arg-type]
        add(registry, packages(1))
        with pytest.raises(GateError, match=f"the-gate: said {verdict}") as caught:
            registry.promote("demo", 1, ANN)
        assert caught.value.report.verdict == verdict
        assert live(registry) is None
        assert registry.history("demo")[0].action == "promote-refused"
        registry.approve_inconclusive("demo", 1, ANN)
        if verdict == "fail":
            with pytest.raises(GateError):
                registry.promote("demo", 1, ANN)
        else:
            registry.promote("demo", 1, ANN)
            assert live(registry) == 1
        kept = registry.gate_evaluations(registry.version("demo", 1))
        assert [found.verdict for found in kept] == [verdict] * 2
        assert kept[0].action == ("promote" if verdict == "inconclusive" else "promote-refused")
        assert kept[0].report["gates"][0]["figures"] == {"of": "demo"}
        assert kept[0].report["policy"] == GatePolicy().model_dump(mode="json")
        approvals = registry.approvals(registry.version("demo", 1))
        assert [(approval.kind, approval.actor, approval.reason) for approval in approvals] == [
            ("version", "ann", "because"),
            ("inconclusive", "ann", "because"),
        ]


def test_an_inconclusive_gate_is_approved_against_the_version_that_is_live(
    backend: Backend, packages: Packages
) -> None:
    with backend.open() as registry:
        for value in (1, 2, 3):
            add(registry, packages(value))
        registry.promote("demo", 1, ANN)
    with backend.open(evaluate=gates("inconclusive")) as registry:  # type: ignore[arg-type]
        registry.approve_inconclusive("demo", 2, ANN)
        registry.approve_inconclusive("demo", 3, ANN)
        registry.promote("demo", 3, ANN)
        with pytest.raises(GateError, match="somebody has to approve that"):
            registry.promote("demo", 2, ANN)
        registry.approve_inconclusive("demo", 2, ANN)
        desired = registry.desired("demo")
        assert desired is not None
        registry.set_desired("demo", desired.state.model_copy(update={"position_scale": 0.5}), ANN, desired.revision)
        registry.promote("demo", 2, ANN)
        assert live(registry) == 2


def test_gates_get_both_versions_with_figures_and_rows(backend: Backend, packages: Packages) -> None:
    import numpy as np

    seen: list[object] = []

    def evaluate(candidate: object, live: object, policy: GatePolicy) -> object:
        seen[:] = [candidate, live]
        return gates("pass")(candidate, live, policy)  # type: ignore[arg-type]

    with backend.open(evaluate=evaluate) as registry:
        for value in (1, 2):
            add(registry, packages(value))
        registry.log_metrics("demo", 2, "backtest", {"sharpe": 1.5, "sortino": float("nan")}, ANN)
        table = {"time": np.arange(3), "prediction": np.ones(3)}
        registry.log_evaluation("demo", 2, "test", table, ANN)
        registry.promote("demo", 1, ANN)
        assert seen[1] is None
        registry.promote("demo", 2, ANN)
    candidate, before = seen
    assert candidate.metrics["backtest"]["sharpe"].value == 1.5  # type: ignore[attr-defined]
    assert "sortino" not in candidate.metrics["backtest"]  # type: ignore[attr-defined]
    assert candidate.evaluations["test"]["prediction"].tolist() == [1, 1, 1]  # type: ignore[attr-defined]
    assert (candidate.path / "model.onnx").is_file()  # type: ignore[attr-defined]
    assert before.path != candidate.path  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"split": (Share(version=1, role="stable", weight_bp=9_999),)}, "sum to 9999"),
        ({"split": (Share(version=1, role="canary", weight_bp=10_000),)}, "exactly one stable"),
        ({"position_scale": 1.5}, "less than or equal to 1"),
        ({"position_scale": float("nan")}, "finite"),
        ({"allowed_pins": (AllowedPin(version=1), AllowedPin(version=1))}, "pin is named twice"),
    ],
)
def test_a_state_that_contradicts_itself_is_refused(entries: dict[str, object], reason: str) -> None:
    with pytest.raises(RegistryArgumentError, match=reason):
        make_state(**entries)


def test_the_clock_never_takes_history_backwards(registry: Registry, packages: Packages, clock: Clock) -> None:
    for value in (1, 2):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    start = clock.now
    clock.step(-3600)
    registry.promote("demo", 2, ANN)
    times = [change.at for change in registry.history("demo")]
    assert times == sorted(times, reverse=True)
    assert registry.as_of("demo", start) == registry.desired("demo")
    assert registry.as_of("demo", start - timedelta(seconds=1)) is None


def test_rollback_goes_further_back_after_the_state_was_edited(registry: Registry, packages: Packages) -> None:
    for value in (1, 2, 3):
        registry.promote("demo", add(registry, packages(value)), ANN)
    desired = registry.rollback("demo", ANN)
    state = desired.state.model_copy(update={"position_scale": 0.5})
    registry.set_desired("demo", state, ANN, desired.revision)
    desired = registry.rollback("demo", ANN)
    assert (desired.state.named("stable"), desired.state.position_scale) == (1, 0.5)


def test_gates_may_be_run_before_approval(registry: Registry, packages: Packages) -> None:
    registry.register(packages(1), ANN)
    assert registry.check("demo", 1, ANN).verdict == "pass"
    assert registry.desired("demo") is None


def two(canary: int, weight_bp: int, stable: int, salt: str = "") -> DesiredState:
    return DesiredState(
        split=(
            Share(version=canary, role="canary", weight_bp=weight_bp),
            Share(version=stable, role="stable", weight_bp=10_000 - weight_bp),
        ),
        salt=salt,
    )


def layout(registry: Registry) -> list[tuple[str, int]]:
    desired = registry.desired("demo")
    assert desired is not None
    return [(each.version, each.upto_bp) for each in desired.state.layout()]


def test_segments_follow_from_the_state_before_and_are_kept_where_that_matters(
    backend: Backend, packages: Packages
) -> None:
    with backend.open(evaluate=gates("pass")) as registry:
        for value in (1, 2, 3):
            add(registry, packages(value))
        registry.promote("demo", 1, ANN)
        first = registry.set_desired("demo", two(2, 1_000, 1), ANN, None)
        assert first.state == two(2, 1_000, 1)
        registry.set_desired("demo", two(2, 6_000, 1), ANN, None)
        # Another canary and stable version: version 2 keeps what it has, though canaries come first without a history.
        registry.set_desired("demo", two(3, 3_000, 2), ANN, None)
        assert layout(registry) == [("2", 6_000), ("3", 9_000), ("2", 10_000)]
    # Every process that opens the registry has the same ones, and the log replays to them.
    with backend.open() as again:
        assert layout(again) == [("2", 6_000), ("3", 9_000), ("2", 10_000)]
        assert again.verify().findings == ()
        history = again.desired("demo")
        assert history is not None
        assert again.set_desired("demo", two(3, 3_000, 2), ANN, None).revision == history.revision
        # Another salt moves every key anyway.
        again.set_desired("demo", two(3, 3_000, 2, salt="new"), ANN, None)
        assert layout(again) == [("3", 3_000), ("2", 10_000)]
        assert again.verify().findings == ()


def test_segments_that_a_caller_sends_are_not_taken(registry: Registry, packages: Packages) -> None:
    for value in (1, 2):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    state = two(2, 1_000, 1).model_copy(
        update={"segments": (SplitSegment(version=1, upto_bp=9_000), SplitSegment(version=2, upto_bp=10_000))}
    )
    assert registry.set_desired("demo", state, ANN, None).state == two(2, 1_000, 1)


def test_segments_of_other_weights_are_no_state() -> None:
    with pytest.raises(RegistryArgumentError, match="do not give each version its weight"):
        make_state(split=two(2, 1_000, 1).split, segments=(SplitSegment(version=1, upto_bp=10_000),))


def test_a_rollout_that_went_through_leaves_no_segments_behind(registry: Registry, packages: Packages) -> None:
    for value in (1, 2, 3):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    registry.set_desired("demo", two(2, 6_000, 1), ANN, None)
    registry.set_desired("demo", two(3, 3_000, 2), ANN, None)
    assert registry.promote("demo", 3, ANN)[0].state == only(3)
    assert registry.rollback("demo", ANN).state == only(2)


def test_several_canaries_are_a_split_and_none_of_them_is_the_canary(registry: Registry, packages: Packages) -> None:
    for value in (1, 2, 3):
        add(registry, packages(value))
    registry.promote("demo", 1, ANN)
    split = (
        Share(version=2, role="canary", weight_bp=1_000),
        Share(version=3, role="canary", weight_bp=2_000),
        Share(version=1, role="stable", weight_bp=7_000),
    )
    registry.set_desired("demo", make_state(split=split), ANN, None)
    assert layout(registry) == [("2", 1_000), ("3", 3_000), ("1", 10_000)]
    assert registry.resolve("demo", "live").version == 1
    with pytest.raises(UnknownError, match=r"versions \[2, 3\] of model 'demo' are all canary"):
        registry.resolve("demo", "canary")
