"""What rows cost: those on the state of drift share the budget that drift monitoring keeps."""

import pytest

from mlops.alerts.calibrate import Healthy, calibrate_rows
from mlops.alerts.matrix import Matrix, default_matrix


def only(source: str) -> Matrix:
    matrix = default_matrix()
    return matrix.model_copy(update={"row": tuple(row for row in matrix.row if row.source.startswith(source))})


def test_rows_on_both_sides_of_drift_share_one_budget() -> None:
    costs = calibrate_rows(only("drift"), Healthy(drift_budget_days=90))
    warnings = [cost.false_alarms_per_year for cost in costs if cost.level == "warning"]
    assert len(warnings) == 2
    assert sum(warnings) == pytest.approx(365 / 90)


def test_bounds_over_keys_hardly_ever_alarm_on_a_healthy_server_and_see_a_fault() -> None:
    costs = calibrate_rows(only("server"), Healthy())
    assert len(costs) == 6
    assert all(cost.false_alarms_per_year < 0.1 for cost in costs)
    assert all(delay.days is not None and delay.days < 0.2 for cost in costs for delay in cost.delays)
