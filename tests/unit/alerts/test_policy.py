"""One row's state machine: runs, hysteresis, windows that do not count, and versions."""

from collections.abc import Sequence

from mlops.alerts.matrix import Level, Row
from mlops.alerts.policy import RowState, step
from mlops.alerts.reading import Reading

ROW = Row(
    name="ic",
    source="outcome",
    figure="ic",
    basis="upper",
    direction="below",
    length=60,
    warning=Level(enter=0.02, leave=0.03, windows=2, clear_windows=2, actions=("notify",)),
    critical=Level(enter=0.0, leave=0.02, windows=2, clear_windows=1, actions=("halt",)),
)


def reading(start: int, value: float | None, *, end: int | None = None, version: str = "1") -> Reading:
    return Reading("demo", version, f"{start}", start, start + 1 if end is None else end, value)


def run(values: Sequence[float | None], state: RowState | None = None, row: Row = ROW) -> tuple[RowState, list[str]]:
    """One window a value; what changed as `window level change`."""
    state, said = state or RowState(), []
    first = state.end or 0
    for place, value in enumerate(values, first):
        state, transitions = step(row, state, reading(place, value))
        said += [f"{each.reading.window} {each.level} {each.change}" for each in transitions]
    return state, said


def test_a_level_needs_its_windows_in_a_row() -> None:
    assert run([0.01, 0.04, 0.01, 0.04])[1] == []
    assert run([0.01, 0.01])[1] == ["1 warning raised"]
    assert run([-0.1, -0.1])[1] == ["1 warning raised", "1 critical raised"]


def test_between_the_thresholds_nothing_is_raised_or_cleared() -> None:
    state, _ = run([0.01, 0.01])
    assert run([0.025] * 10, state)[1] == []
    assert run([0.03, 0.025, 0.03, 0.025], state)[1] == []
    assert run([0.03, 0.03], state)[1] == ["3 warning cleared"]


def test_exactly_at_the_threshold_is_not_beyond_it() -> None:
    assert run([0.02] * 5)[1] == []


def test_levels_are_cleared_each_by_itself() -> None:
    state, _ = run([-0.1, -0.1])
    assert state.level == 2
    state, said = run([0.025], state)
    assert said == ["2 critical cleared"]
    assert state.level == 1


def test_a_window_that_can_say_nothing_is_as_if_it_had_not_been() -> None:
    assert run([0.01, None, float("nan"), 0.01])[1] == ["3 warning raised"]
    state, _ = run([0.01, 0.01])
    assert run([None] * 50, state)[0] == state


def test_windows_count_once_in_order_and_without_overlap() -> None:
    state, _ = step(ROW, RowState(), reading(10, 0.01, end=20))
    for again in (
        reading(10, 0.01, end=20),
        reading(0, 0.01, end=10),
        reading(15, 0.01, end=25),
        reading(19, 0.01, end=30),
        reading(20, 0.01, end=20),
    ):
        assert step(ROW, state, again) == (state, ())
    _, transitions = step(ROW, state, reading(20, 0.01, end=30))
    assert [each.change for each in transitions] == ["raised"]


def test_insufficient_window_can_come_again_with_enough() -> None:
    state, _ = step(ROW, RowState(), reading(0, None))
    assert step(ROW, state, reading(0, 0.01))[0].warning.beyond == 1


def test_evidence_about_the_version_before_does_not_count_against_the_next() -> None:
    state, _ = step(ROW, RowState(), reading(0, 0.01, version="1"))
    state, transitions = step(ROW, state, reading(1, 0.01, version="2"))
    assert transitions == ()
    state, transitions = step(ROW, state, reading(2, 0.01, version="2"))
    assert [each.change for each in transitions] == ["raised"]
    state, transitions = step(ROW, state, reading(3, 0.05, version="3"))
    assert (transitions, state.level) == ((), 1)


def test_each_time_it_is_raised_is_an_episode_of_its_own() -> None:
    state, said = run([0.01, 0.01, 0.05, 0.05, 0.01, 0.01])
    assert said == ["1 warning raised", "3 warning cleared", "5 warning raised"]
    assert state.warning.episode == 2


def test_decided_states_raise_at_them_and_are_left_below_them() -> None:
    row = Row(
        name="in",
        source="drift_input",
        figure="psi",
        basis="state",
        warning=Level(actions=("notify",)),
        critical=Level(actions=("request_retraining",), clear_windows=2),
    )
    _, said = run([0.0, 1.0, 2.0, 1.0, 1.0, 0.0], row=row)
    assert said == ["1 warning raised", "2 critical raised", "4 critical cleared", "5 warning cleared"]
