"""State and history on disk: whole, held by one process, and said to be damaged where they are."""

from pathlib import Path

import pytest

from mlops.alerts.history import AlertRow, History, read_history
from mlops.alerts.state import StateFile
from tickserve.errors import ConfigurationError


def row(identity: str) -> AlertRow:
    return AlertRow(identity, "demo", "ic", "warning", "raised", "notify", "done", "", "1", "w", 0.1, "e", "t", "t")


def test_two_sidecars_do_not_act_for_one_model(tmp_path: Path) -> None:
    held = StateFile(tmp_path, "demo")
    with pytest.raises(ConfigurationError, match="another sidecar acts"):
        StateFile(tmp_path, "demo")
    held.close()
    StateFile(tmp_path, "demo").close()


@pytest.mark.parametrize("damage", ["", "{", '{"model": "demo"}', '{"model": "other", "identity": "x"}', "[]"])
def test_damaged_state_is_not_taken_for_none(tmp_path: Path, damage: str) -> None:
    (tmp_path / "state.json").write_text(damage)
    with pytest.raises(ConfigurationError, match="is damaged"):
        StateFile(tmp_path, "demo")
    (tmp_path / "state.json").unlink()
    StateFile(tmp_path, "demo").close()


def test_states_are_told_apart(tmp_path: Path) -> None:
    first, second = StateFile(tmp_path / "a", "demo"), StateFile(tmp_path / "b", "demo")
    assert first.state.identity != second.state.identity


def test_line_that_was_cut_short_is_ended_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path)
    assert history.append(row("1"))
    assert not history.append(row("1"))
    with open(path, "a") as file:
        file.write('{"id": "2", "mod')
    again = History(path)
    assert not again.append(row("1"))
    assert again.append(row("2"))
    assert [each.id for each in read_history(path)] == ["1", "2"]
