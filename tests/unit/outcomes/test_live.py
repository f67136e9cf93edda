"""Live figures as metrics: which figure a name means."""

from typing import Literal

from mlops.outcomes import OutcomeFigure
from mlops.outcomes.live import live_metrics


def figure(horizon: str, state: Literal["ok", "insufficient"], value: float = 0.1) -> OutcomeFigure:
    return OutcomeFigure("m", "1", horizon, "ic", value, 0.0, 0.2, 0.05, 60, 0, 86_400 * 10**9, state)


def test_figures_of_the_first_horizon_have_the_bare_name() -> None:
    found, step = live_metrics([figure("1d", "ok", 0.1), figure("5d", "ok", 0.2)])
    assert {name: metric.value for name, metric in found.items()} == {"ic": 0.1, "ic:5d": 0.2}
    assert step == 1


def test_another_horizon_does_not_take_the_bare_name_while_the_first_is_insufficient() -> None:
    found, _ = live_metrics([figure("1d", "insufficient"), figure("5d", "ok", 0.2)])
    assert list(found) == ["ic:5d"]


def test_nothing_that_may_be_relied_on_is_no_metric() -> None:
    assert live_metrics([figure("1d", "insufficient")]) == ({}, 0)
    assert live_metrics([]) == ({}, 0)
