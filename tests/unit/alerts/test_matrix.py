"""The matrix as data: what is shipped is sound, and what contradicts itself is refused with the row's name."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlops.alerts.matrix import FIGURES, TELLING, Matrix, default_matrix, load_matrix
from tickserve.errors import ConfigurationError

IC: dict[str, Any] = {
    "name": "ic",
    "source": "outcome",
    "figure": "ic",
    "basis": "upper",
    "direction": "below",
    "length": 60,
    "warning": {"enter": 0.02, "leave": 0.03, "actions": ["notify"]},
}


def load(tmp_path: Path, *rows: dict[str, Any], **entries: Any) -> Matrix:
    file = tmp_path / "matrix.json"
    file.write_text(json.dumps({"row": list(rows)} | entries))
    return load_matrix(file)


def test_shipped_rows_act_on_intervals_or_decisions_alone() -> None:
    matrix = default_matrix()
    acting = [(row, level) for row in matrix.row for _, level in row.levels() if set(level.actions) - TELLING]
    assert acting
    for row, _ in acting:
        assert row.basis == {"above": "lower", "below": "upper"}[row.direction] or row.basis == "state"
    assert all(row.source != "drift_input" or "halt" not in str(row) for row in matrix.row)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"figure": "ice"}, "unknown figure 'ice'"),
        ({"source": "weather"}, "source"),
        ({"basis": "state", "length": 60}, "basis state is for the psi of drift"),
        ({"name": "No Spaces"}, "name"),
        ({"warning": None}, "needs a warning or a critical level"),
        ({"length": None}, "length is for ic, rank_ic, sharpe"),
        ({"figure": "auc"}, "length is for ic, rank_ic, sharpe"),
        ({"length": 5}, "length"),
        ({"columns": ["rsi"]}, "columns are for drift"),
        ({"surprise": 1}, "surprise"),
        ({"warning": {"enter": 0.02, "leave": 0.01, "actions": ["notify"]}}, "leave 0.01 lies beyond enter 0.02"),
        ({"warning": {"enter": 0.02, "actions": ["notify"]}}, "enter and leave are missing"),
        ({"warning": {"enter": 0.02, "leave": 0.03, "actions": []}}, "actions"),
        ({"warning": {"enter": 0.02, "leave": 0.03, "actions": ["notify", "notify"]}}, "named twice"),
        ({"warning": {"enter": 0.02, "leave": 0.03, "actions": ["pray"]}}, "actions"),
        ({"warning": {"enter": 0.02, "leave": 0.03, "windows": 0, "actions": ["notify"]}}, "windows"),
        ({"warning": {"enter": "low", "leave": 0.03, "actions": ["notify"]}}, "enter"),
        ({"warning": {"enter": float("nan"), "leave": 0.03, "actions": ["notify"]}}, "enter"),
        ({"warning": {"enter": 0.02, "leave": 0.03, "actions": ["set_position_scale"]}}, "go together"),
        (
            {"warning": {"enter": 0.02, "leave": 0.03, "actions": ["set_position_scale"], "position_scale": 1.5}},
            "position_scale",
        ),
        ({"basis": "value", "warning": {"enter": 0.02, "leave": 0.03, "actions": ["halt"]}}, "point estimate"),
        ({"basis": "lower", "warning": {"enter": 0.02, "leave": 0.03, "actions": ["halt"]}}, "upper bound"),
        ({"basis": "value", "warning": {"enter": 0.02, "leave": 0.03, "actions": ["roll_back"]}}, "point estimate"),
        ({"basis": "lower", "warning": {"enter": 0.02, "leave": 0.03, "actions": ["reduce_share"]}}, "upper bound"),
        ({"critical": {"enter": 0.03, "leave": 0.04, "actions": ["notify"]}}, "warning at 0.02 lies beyond critical"),
        ({"critical": {"enter": 0.02, "leave": 0.04, "actions": ["notify"]}}, "warning can never hold alone"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        load(tmp_path, {key: value for key, value in (IC | changes).items() if value is not None})
    assert refused.value.field == "alerts"
    assert "(row 'ic')" in refused.value.message or "No Spaces" in refused.value.message


def test_a_larger_scale_for_the_worse_level_is_refused(tmp_path: Path) -> None:
    def level(enter: float, scale: float) -> dict[str, Any]:
        return {"enter": enter, "leave": 0.03, "actions": ["set_position_scale"], "position_scale": scale}

    with pytest.raises(ConfigurationError, match="larger than the one of warning"):
        load(tmp_path, IC | {"warning": level(0.02, 0.5), "critical": level(0.01, 0.7)})
    assert load(tmp_path, IC | {"warning": level(0.02, 0.5), "critical": level(0.01, 0.5)}).row[0].critical


def test_drift_acts_on_decisions_and_tells_on_values(tmp_path: Path) -> None:
    drift = {"name": "in", "source": "drift_input", "figure": "psi", "basis": "state"}
    row = load(tmp_path, drift | {"critical": {"actions": ["request_retraining"]}}).row[0]
    assert row.thresholds("critical") == (2.0, 1.0)
    with pytest.raises(ConfigurationError, match="leave enter and leave out"):
        load(tmp_path, drift | {"critical": {"enter": 0.25, "leave": 0.1, "actions": ["notify"]}})
    with pytest.raises(ConfigurationError, match="every version sees the same inputs"):
        load(tmp_path, drift | {"critical": {"actions": ["roll_back"]}})
    with pytest.raises(ConfigurationError, match="basis is state, or value"):
        load(tmp_path, drift | {"basis": "lower", "critical": {"actions": ["notify"]}})


def test_ones_own_file_extends_the_shipped_rows(tmp_path: Path) -> None:
    shipped = {row.name for row in default_matrix().row}
    own = load(tmp_path, IC | {"length": 90}, extends="default", without=["sharpe"])
    assert {row.name for row in own.row} == shipped - {"sharpe"}
    assert next(row for row in own.row if row.name == "ic").length == 90
    assert [row.name for row in load(tmp_path, IC).row] == ["ic"]
    assert len(load(tmp_path, extends="default").row) == len(shipped)
    with pytest.raises(ConfigurationError, match="names no shipped row"):
        load(tmp_path, extends="default", without=["nothing"])
    with pytest.raises(ConfigurationError, match="no row is left"):
        load(tmp_path, extends="default", without=sorted(shipped))
    with pytest.raises(ConfigurationError, match="extends can only be"):
        load(tmp_path, IC, extends="mine")


def test_rows_can_be_for_some_models_only(tmp_path: Path) -> None:
    matrix = load(tmp_path, IC | {"models": ["a"]}, IC | {"name": "all"})
    assert [row.name for row in matrix.rows("a")] == ["ic", "all"]
    assert [row.name for row in matrix.rows("b")] == ["all"]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("m.toml", "row = [", "is no TOML"),
        ("m.json", "{", "is no JSON"),
        ("m.json", "[]", "no table of rows"),
        ("m.toml", "", "row"),
        ("m.toml", "format = 2\nrow = []", "format"),
        ("m.toml", "row = 1979-05-27", "row"),
    ],
)
def test_files_that_are_no_matrix_are_refused(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=complaint):
        load_matrix(tmp_path / name)
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_matrix(tmp_path / "absent.toml")


def test_every_source_has_figures() -> None:
    assert all(FIGURES.values())
