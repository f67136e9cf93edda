"""What rows take from windows, figures and rates."""

from dataclasses import replace
from typing import Any

import pytest

from mlops.alerts.matrix import Level, Row
from mlops.alerts.rates import Rate
from mlops.alerts.sources import drift_reading, outcome_reading, rate_reading
from mlops.drift import WindowResult
from mlops.drift.result import Figure
from mlops.outcomes import OutcomeFigure

TELL = Level(actions=("notify",))
IC = Row(
    name="ic",
    source="outcome",
    figure="ic",
    basis="upper",
    direction="below",
    length=60,
    warning=Level(enter=0.02, leave=0.03, actions=("notify",)),
)
INPUT = Row(name="in", source="drift_input", figure="psi", basis="state", warning=TELL, critical=TELL)
FOUND = OutcomeFigure("demo", "1", "1d", "ic_60", 0.01, -0.01, 0.03, 0.01, 60, 1000, 2000, "ok")


def figure(
    column: str, state: Any, value: float | None = 0.2, *, side: Any = "input", statistic: Any = "psi"
) -> Figure:
    return Figure(side, column, statistic, value, 0.01, 0.02, 0.03, 0.001, 0.01, 500, 400.0, state)


def window(*figures: Figure, kind: str = "session", **changes: Any) -> WindowResult:
    made = WindowResult("demo", "1", "00", kind, 100, 200, 110, 190, 7, 19, 20, 13, 13, 0, 0, "ok", figures, (), ())
    return replace(made, **changes)


def test_drift_row_takes_the_worst_column_of_its_side() -> None:
    found = window(
        figure("a", "ok", 0.01),
        figure("b", "critical", 0.4),
        figure("c", "warning", 0.9),
        figure("y", "ok", 0.0, side="output"),
        figure("a", "critical", 0.5, statistic="js"),
    )
    reading = drift_reading(INPUT, found)
    assert reading is not None
    assert reading.value == 2.0
    assert reading.evidence.startswith("psi of input b 0.4, null 99% 0.03, p 0.001, 500 rows, critical; 2 of 3")
    assert drift_reading(INPUT.model_copy(update={"source": "drift_output"}), found).value == 0.0  # type: ignore[union-attr]
    assert drift_reading(INPUT.model_copy(update={"columns": ("a",)}), found).value == 0.0  # type: ignore[union-attr]
    told = INPUT.model_copy(update={"basis": "value"})
    assert drift_reading(told, found).value == 0.9  # type: ignore[union-attr]
    assert drift_reading(IC, found) is None


def test_columns_that_are_insufficient_say_nothing() -> None:
    assert drift_reading(INPUT, window(figure("a", "insufficient", 9.0), figure("b", "ok"))).value == 0.0  # type: ignore[union-attr]
    assert drift_reading(INPUT, window(figure("a", "insufficient", 9.0))).value is None  # type: ignore[union-attr]
    assert drift_reading(INPUT, window(figure("a", "ok", None))).value is None  # type: ignore[union-attr]
    assert drift_reading(INPUT, window()).value is None  # type: ignore[union-attr]


def test_windows_by_count_are_told_apart_by_position() -> None:
    by_time, by_count = (
        drift_reading(INPUT, window(figure("a", "ok"))),
        drift_reading(INPUT, window(figure("a", "ok"), kind="count")),
    )
    assert by_time is not None
    assert by_count is not None
    assert (by_time.start, by_time.end) == (100, 200)
    assert (by_count.start, by_count.end) == (7, 20)


@pytest.mark.parametrize(("basis", "value"), [("value", 0.01), ("lower", -0.01), ("upper", 0.03)])
def test_outcome_row_takes_its_side_of_the_interval(basis: str, value: float) -> None:
    reading = outcome_reading(IC.model_copy(update={"basis": basis}), FOUND)
    assert reading is not None
    assert (reading.value, reading.start, reading.end, reading.horizon) == (value, 1000, 2001, "1d")
    assert reading.evidence == "ic_60 0.01 (-0.01 to 0.03), n 60, 1d"


def test_outcome_that_is_another_ones_is_not_taken() -> None:
    assert outcome_reading(IC, replace(FOUND, figure="ic_20")) is None
    assert outcome_reading(IC, replace(FOUND, figure="ic")) is None
    assert outcome_reading(IC.model_copy(update={"horizon": "5d"}), FOUND) is None
    assert outcome_reading(INPUT, FOUND) is None
    auc = IC.model_copy(update={"figure": "auc", "length": None})
    assert outcome_reading(auc, replace(FOUND, figure="auc")) is not None


@pytest.mark.parametrize("changes", [{"n": 53}, {"state": "insufficient"}, {"upper": None}, {"upper": float("nan")}])
def test_outcome_that_is_not_to_be_acted_on_has_no_value(changes: dict[str, Any]) -> None:
    assert outcome_reading(IC, replace(FOUND, **changes)).value is None  # type: ignore[union-attr]
    assert outcome_reading(IC, replace(FOUND, n=54)).value == 0.03  # type: ignore[union-attr]


def test_rate_row_takes_its_bound() -> None:
    row = Row(
        name="e",
        source="server",
        figure="error_rate",
        basis="lower",
        warning=Level(enter=0.01, leave=0.01, actions=("notify",)),
    )
    rate = Rate("error_rate", 0.02, 0.01, 0.03, 900, 40)
    reading = rate_reading(row, rate, model="demo", version="1", start_ns=1, end_ns=2)
    assert reading is not None
    assert (reading.value, reading.evidence) == (0.01, "error_rate 0.02 (0.01 to 0.03), n 900, 40 key buckets")
    assert rate_reading(row, replace(rate, figure="slow_rate"), model="m", version="1", start_ns=1, end_ns=2) is None
