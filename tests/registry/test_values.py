"""What a row cannot hold is refused before it is written, with its place, on each back end."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from mlops.package import Metric
from mlops.registry import (
    Author,
    DesiredState,
    Registration,
    Registry,
    RuleOverride,
    RunFacts,
    ServerEvent,
    Share,
)
from tests.support.registry import ANN, Packages, add
from tickserve.errors import RegistryArgumentError, UnknownError

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001
TABLE = {"time": np.array(["NaT"], "M8[ns]"), "prediction": np.ones(1)}
HUGE = 2**70


def said(**entries: Any) -> Callable[[Registry, Packages], object]:
    return lambda registry, packages: registry.register(packages(7), ANN, Registration(**entries))


def logged(figure: Any, **options: Any) -> Callable[[Registry, Packages], object]:
    return lambda registry, _: registry.log_metrics("demo", 1, "live", {"sharpe": figure}, ANN, **options)


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (said(metadata={"a": 2**60}), "metadata cannot be written as JSON"),
        (said(metadata={"a": float("nan")}), "metadata cannot be written as JSON"),
        (said(metadata={"a": np.float32(1)}), "metadata cannot be written as JSON"),
        (said(metadata={1: "x"}), "metadata cannot be written as JSON"),
        (said(metadata={"a": "x" * (4 << 20)}), "bytes of JSON, at most"),
        (said(run=RunFacts(seed=HUGE)), "seed is .*; a whole number"),
        (said(run=RunFacts(duration_s=float("inf"))), "duration_s is inf; a finite number"),
        (said(run=RunFacts(started_at=NAIVE)), "has no time zone"),
        (said(run=RunFacts(status="odd")), "one of running, completed, failed"),  # type: ignore[arg-type]
        (said(label="1.0.0-" + "a" * 200), "no semantic version"),
        (logged("abc"), "'abc'; a number is expected"),
        (logged(Metric(value=1.0, standard_error=-1.0, n=9)), "standard error -1.0, below 0"),
        (logged(1.0, step=-1), "step -1 .* is below 0"),
        (logged(1.0, step=HUGE), "step is .*; a whole number"),
        (lambda registry, _: registry.log_evaluation("demo", 1, "live", TABLE, ANN), "has no time"),
        (lambda registry, _: registry.report("s", [ServerEvent("installed", NAIVE, "demo", 1)], ANN), "no time zone"),
        (lambda registry, _: registry.report("s", [ServerEvent("odd", NAIVE)], ANN), "none of installed"),  # type: ignore[arg-type]
        (lambda registry, _: registry.as_of("demo", NAIVE), "no time zone"),
        (lambda registry, _: registry.search(limit=-1), "a page has 1 to"),
        (lambda registry, _: registry.versions("demo", limit=10**6), "a page has 1 to"),
    ],
)
def test_what_a_row_cannot_hold_is_refused_and_nothing_is_written(
    registry: Registry, packages: Packages, ask: Callable[[Registry, Packages], object], reason: str
) -> None:
    add(registry, packages(1))
    before = registry.history()
    with pytest.raises(RegistryArgumentError, match=reason):
        ask(registry, packages)
    assert registry.history() == before
    assert registry.verify().findings == ()


@pytest.mark.parametrize("number", [0, -1, HUGE, "1", True])
def test_a_number_that_no_version_can_have_is_unknown(registry: Registry, packages: Packages, number: Any) -> None:
    add(registry, packages(1))
    with pytest.raises(UnknownError, match="version"):
        registry.set_alias("demo", "champion", number, ANN)
    assert registry.versions("demo", before=HUGE)[0].version == 1


def test_times_before_the_year_1000_sort_as_times_do(registry: Registry, packages: Packages) -> None:
    registry.promote("demo", add(registry, packages(1)), ANN)
    assert registry.as_of("demo", datetime(999, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize("reason", ["", "  "])
def test_what_has_to_be_answered_for_needs_a_reason(registry: Registry, packages: Packages, reason: str) -> None:
    silent = Author("ann", reason)
    registry.register(packages(1), silent)
    registry.register(packages(2), silent)
    registry.approve("demo", 2, ANN)
    state = DesiredState(split=(Share(version=2, role="stable", weight_bp=10_000),))
    for ask in (
        lambda: registry.approve("demo", 1, silent),
        lambda: registry.approve_inconclusive("demo", 2, silent),
        lambda: registry.promote("demo", 2, silent),
        lambda: registry.set_desired("demo", state, silent, 0),
        lambda: registry.retire("demo", 2, silent),
        lambda: registry.delete("demo", 1, silent),
    ):
        with pytest.raises(RegistryArgumentError, match="needs a reason"):
            ask()
    registry.promote("demo", 2, ANN)
    with pytest.raises(RegistryArgumentError, match="needs a reason"):
        registry.rollback("demo", silent)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        (RuleOverride(rule="values_finit", policy="flag"), "no version named here has a rule.*rules are values_finite"),
        (RuleOverride(rule="values_finite", policy="clip"), "can have the policies fallback, flag, reject"),
        (RuleOverride(rule="values_finite", minimum=0.0), "has no bounds"),
    ],
)
def test_an_override_replaces_a_rule_that_is_there(
    registry: Registry, packages: Packages, override: RuleOverride, reason: str
) -> None:
    desired, _ = registry.promote("demo", add(registry, packages(1)), ANN)
    state = desired.state.model_copy(update={"rule_overrides": (override,)})
    with pytest.raises(RegistryArgumentError, match=reason):
        registry.set_desired("demo", state, ANN, desired.revision)


def test_an_override_of_a_rule_that_is_gone_keeps_no_version_out(registry: Registry, packages: Packages) -> None:
    desired, _ = registry.promote("demo", add(registry, packages(1)), ANN)
    override = RuleOverride(rule="values_finite", policy="flag")
    state = desired.state.model_copy(update={"rule_overrides": (override,)})
    registry.set_desired("demo", state, ANN, desired.revision)
    bare = add(registry, packages(2, output_rules=()))
    assert registry.promote("demo", bare, ANN)[0].state.rule_overrides == (override,)
