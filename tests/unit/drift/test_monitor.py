"""Windows: what is counted where, when they close, what is late."""

import numpy as np
import pytest

from mlops.drift import DriftMonitor, DriftSpec, Swap, Thresholds, restore, save
from mlops.drift.defaults import default_spec
from mlops.package import bin_sums
from mlops.tap import Why
from tests.support.drift import DAY_NS, START_NS, baseline_of, cut, daily, manifest_of, records
from tickserve.errors import ConfigurationError, DataError

RNG = np.random.default_rng(2)
MANIFEST = manifest_of(("a", "b"))
ROWS = RNG.normal(size=(1000, 2)).astype(np.float32)
BASELINE = baseline_of(MANIFEST, ROWS, ROWS[:300, :1])
HOUR_NS = 3600 * 10**9


def days(count: int, first: int = 0) -> np.ndarray:
    return START_NS + np.arange(first, first + count, dtype=np.int64) * DAY_NS


def monitor(spec: DriftSpec) -> DriftMonitor:
    return DriftMonitor(MANIFEST, BASELINE, spec)


def test_count_windows_tumble_and_close_with_the_record_that_fills_them() -> None:
    watched = monitor(DriftSpec(rows=40))
    results = watched.add(records(MANIFEST, ROWS[:100], days(100), outputs=ROWS[:100, :1]))

    assert [(each.first_position, each.last_position, each.closed_position) for each in results] == [
        (0, 39, 39),
        (40, 79, 79),
    ]
    assert [each.rows for each in results] == [40, 40]
    assert results[0].start_ns == days(1)[0]
    assert results[0].version == "7"
    [last] = watched.close()
    assert (last.rows, last.closed_position) == (20, -1)


def test_figures_are_of_the_rows_in_the_window() -> None:
    watched = monitor(DriftSpec(rows=40))
    watched.add(records(MANIFEST, ROWS[:30], days(30), outputs=ROWS[:30, :1]))
    [window] = watched.progress.open
    column, counts = watched.sides[0].columns[1], window.sides[0].columns[1]
    assert counts.cells.sum() == 30
    assert counts.sums() == bin_sums(ROWS[:30, 1], column.edges, column.exponent)
    # Two rows a sub-block, in order.
    assert counts.cells.sum(axis=1).tolist() == [2] * 15 + [0] * 5


def test_records_of_one_time_stay_in_one_sub_block_wherever_a_batch_ends() -> None:
    times = np.repeat(days(20), 4)
    made = records(MANIFEST, ROWS[:80], times)
    for at in ([], [1], [2, 3, 7], [38]):
        watched = monitor(DriftSpec(rows=100))
        for part in cut(made, at):
            watched.add(part)
        [window] = watched.progress.open
        occupied = window.sides[0].columns[0].cells.sum(axis=1)
        assert set(occupied.tolist()) <= {0, 4, 8}


def test_a_cross_section_that_fills_the_window_at_once_is_insufficient() -> None:
    [result] = monitor(DriftSpec(rows=100)).add(records(MANIFEST, ROWS[:100], np.full(100, START_NS)))
    assert result.state == "insufficient"
    assert "1 sub-blocks" in result.decisions[0].reason


def test_time_windows_follow_event_time_and_wait_for_the_late() -> None:
    spec = DriftSpec(kind="time", length_s=10 * 86_400, lateness_s=2 * 86_400.0)
    aligned = START_NS // (10 * DAY_NS) * 10 * DAY_NS
    order = np.array([0, 1, 9, 10, 8, 11, 7, 12, 6, 13, 22])
    times = aligned + order * DAY_NS
    results = monitor(spec).add(records(MANIFEST, ROWS[: len(order)], times))

    first, second = results
    assert (first.start_ns, first.end_ns) == (aligned, aligned + 10 * DAY_NS)
    # 8 and 7 came while it was waited for; 6 after day 12 had closed it.
    assert (first.rows, first.late, first.closed_position) == (5, 0, 7)
    assert (second.rows, second.late, second.closed_position) == (4, 1, 10)


def test_a_clock_that_runs_ahead_closes_nothing() -> None:
    spec = DriftSpec(kind="time", length_s=86_400, lateness_s=0.0)
    times = START_NS + np.arange(30, dtype=np.int64) * 60 * 10**9
    said = times.copy()
    said[3] += 400 * DAY_NS
    results = monitor(spec).add(records(MANIFEST, ROWS[:30], said, time_ns=times + 1))
    assert results == []


def test_without_an_event_time_the_time_of_the_answer_counts() -> None:
    watched = monitor(DriftSpec(kind="time", length_s=86_400))
    watched.add(records(MANIFEST, ROWS[:5], np.zeros(5), time_ns=np.full(5, START_NS + 5)))
    [window] = watched.progress.open
    assert (window.start_ns, window.first_ns) == (START_NS, START_NS + 5)


def test_sessions_hold_the_close_but_nothing_outside() -> None:
    # Monday 2020-01-06, New York: 14:30 to 21:00 UTC.
    monday = np.datetime64("2020-01-06").astype("datetime64[ns]").astype(np.int64)
    hours = np.array([13.0, 14.5, 15.0, 20.99, 21.0, 21.01, 24 + 15.0])
    times = monday + (hours * HOUR_NS).astype(np.int64)
    spec = DriftSpec(kind="session", calendar="XNYS", sub_blocks=24, lateness_s=0.0)
    [result] = monitor(spec).add(records(MANIFEST, ROWS[:7], times))

    # The record that closes it is counted with the next.
    assert (result.rows, result.outside) == (4, 1)
    assert (result.first_ns, result.last_ns) == (times[1], times[4])
    assert result.closed_position == 5


def test_an_unknown_calendar_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no exchange calendar 'XYZZ'"):
        monitor(DriftSpec(kind="session", calendar="XYZZ"))


def test_only_traffic_that_the_market_chose_is_counted() -> None:
    why = np.array([Why.SPLIT, Why.PIN, Why.FALLBACK, Why.SHADOW, Why.SMOKE], np.uint8)
    watched = monitor(DriftSpec(rows=100))
    watched.add(records(MANIFEST, ROWS[:5], days(5), why=why))
    [window] = watched.progress.open
    assert (window.records, window.rows) == (2, 2)


def test_records_that_came_before_are_not_counted_again() -> None:
    watched = monitor(DriftSpec(rows=100))
    made = records(MANIFEST, ROWS[:10], days(10))
    watched.add(made)
    assert watched.add(made) == []
    assert watched.progress.open[0].rows == 10


def test_rows_without_outputs_count_on_their_side_alone() -> None:
    watched = monitor(DriftSpec(rows=100))
    made = records(MANIFEST, ROWS[:10], days(10), outputs=ROWS[:4, :1], output_records=np.array([1, 3, 5, 9]))
    watched.add(made)
    [window] = watched.progress.open
    assert window.sides[0].columns[0].cells.sum() == 10
    assert window.sides[1].columns[0].cells.sum() == 4


def test_another_package_or_other_tensors_are_refused() -> None:
    with pytest.raises(DataError, match="a batch of package"):
        monitor(DriftSpec()).add(records(manifest_of(("a", "b"), name="other"), ROWS[:3], days(3)))
    other_name = records(MANIFEST, ROWS[:3], days(3))
    object.__setattr__(other_name, "inputs", {"x": ROWS[:3]})
    with pytest.raises(DataError, match="'features' of the baseline is not in the data"):
        monitor(DriftSpec()).add(other_name)
    with pytest.raises(DataError, match="1 wide"):
        monitor(DriftSpec()).add(records(MANIFEST, ROWS[:3, :1], days(3)))


def test_sequences_are_counted_by_their_newest_step() -> None:
    watched = monitor(DriftSpec(rows=100))
    steps = np.concatenate([np.full((10, 4), 99.0, np.float32), ROWS[:10]], axis=1)
    watched.add(records(MANIFEST, steps, days(10), shapes={"features": (-1, 3, 2)}))
    plain = monitor(DriftSpec(rows=100))
    plain.add(records(MANIFEST, ROWS[:10], days(10)))
    for mine, theirs in zip(
        watched.progress.open[0].sides[0].columns, plain.progress.open[0].sides[0].columns, strict=True
    ):
        assert mine.cells.tolist() == theirs.cells.tolist()


def test_the_onset_is_found_beside_the_swap_that_made_it() -> None:
    moved = ROWS[:800].copy()
    moved[600:, 0] += 3
    generations = np.where(np.arange(800) < 600, 4, 5).astype(np.uint64)
    spec = DriftSpec(rows=400, thresholds=Thresholds(0.3, 0.6))
    results = monitor(spec).add(records(MANIFEST, moved, days(800), plan_generation=generations))

    assert [each.decisions[0].state for each in results] == ["ok", "critical"]
    [onset] = results[1].onsets
    true = int(days(800)[600])
    assert onset.column == "a"
    assert onset.low_ns is not None
    assert onset.low_ns <= true <= onset.high_ns
    assert abs(onset.time_ns - true) <= 20 * DAY_NS
    assert onset.swap == Swap(5, true, 600)
    assert onset.is_swap_inside


def test_the_first_generation_that_is_seen_is_no_swap() -> None:
    watched = monitor(DriftSpec(rows=400))
    watched.add(records(MANIFEST, ROWS[:5], days(5), plan_generation=np.full(5, 9, np.uint64)))
    assert watched.progress.swaps == []


def test_a_window_counts_what_was_dropped_in_it_wherever_batches_are_cut() -> None:
    # One is dropped before the 150th record, and ten between the windows that end and begin there.
    missed = np.repeat([5, 6, 16], [150, 50, 200]).astype(np.int64)
    made = records(MANIFEST, ROWS[:400], days(400), missed=missed)
    whole = monitor(DriftSpec(rows=100)).add(made)
    assert [each.dropped for each in whole] == [0, 1, 10, 0]
    assert [each.state == "insufficient" for each in whole][1:3] == [True, True]
    assert "of the records of its time were dropped" in whole[1].decisions[0].reason
    watched, results = monitor(DriftSpec(rows=100)), []
    for part in cut(made, (149, 150, 151, 200)):
        results += watched.add(part)
        state = save(watched)
        watched = monitor(DriftSpec(rows=100))
        restore(watched, state)
    assert results == whole


def test_a_state_of_something_else_is_refused_and_changes_nothing() -> None:
    watched = monitor(DriftSpec(rows=100))
    watched.add(records(MANIFEST, ROWS[:10], days(10)))
    state = save(watched)
    other = monitor(DriftSpec(rows=101))
    for bad in (b"", b"PK", state[: len(state) // 2], state[:-1]):
        with pytest.raises(DataError, match="damaged"):
            restore(other, bad)
    with pytest.raises(DataError, match="another specification"):
        restore(other, state)
    with pytest.raises(DataError, match="another format or package"):
        restore(DriftMonitor(manifest_of(("a", "b"), name="other"), BASELINE, DriftSpec(rows=100)), state)
    assert other.progress.last_position == -1


@pytest.mark.parametrize(
    ("entries", "field"),
    [
        ({"kind": "month"}, "kind"),
        ({"rows": 3}, "rows"),
        ({"sub_blocks": 19}, "sub_blocks"),
        ({"length_s": 0}, "length_s"),
        ({"lateness_s": float("nan")}, "lateness_s"),
        ({"budget_days": 0}, "budget_days"),
        ({"max_level": 1.0}, "max_level"),
        ({"kind": "session"}, "calendar"),
        ({"window": "x"}, "window"),
        ({"thresholds": {"warning": 0.3, "critical": 0.2}}, "thresholds"),
    ],
)
def test_a_specification_that_makes_no_sense_is_refused(entries: dict, field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        DriftSpec.from_dict(entries)


def test_defaults_are_a_session_for_intraday_and_250_rows_for_daily_models() -> None:
    one_day = default_spec(manifest_of(("a", "b"), outcomes=daily()), BASELINE)
    assert (one_day.kind, one_day.rows) == ("count", 250)
    intraday = daily(periods_per_year=98_280.0)
    session = default_spec(manifest_of(("a", "b"), outcomes=intraday, tags={"calendar": "XNYS"}), BASELINE)
    assert (session.kind, session.calendar) == ("session", "XNYS")
    always_open = default_spec(manifest_of(("a", "b"), outcomes=intraday), BASELINE)
    assert (always_open.kind, always_open.length_s) == ("time", 86_400)
    by_rows = default_spec(MANIFEST, baseline_of(MANIFEST, ROWS, step_ns=HOUR_NS))
    assert by_rows.kind == "time"
    names = default_spec(manifest_of(("a", "b"), outcomes=daily(kind="cross_sectional")), BASELINE)
    assert (names.kind, names.length_s) == ("time", 84 * 86_400)


def test_part_of_a_day_of_an_intraday_model_has_no_baseline_to_compare_with() -> None:
    manifest = manifest_of(("a", "b"), outcomes=daily(periods_per_year=98_280.0))
    baseline = baseline_of(manifest, ROWS, step_ns=60 * 10**9)
    times = START_NS + np.arange(100, dtype=np.int64) * 60 * 10**9
    spec = DriftSpec(kind="time", length_s=3600, lateness_s=0.0)
    [result] = DriftMonitor(manifest, baseline, spec).add(records(manifest, ROWS[:100], times))
    assert result.decisions[0].state == "insufficient"
    assert "no buckets for parts of a session" in result.decisions[0].reason
