"""Drift results depend on the records and their order alone: not on batches, restarts, or who counted what."""

import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mlops.drift import DriftMonitor, DriftSpec, WindowResult, figures, restore, save
from mlops.drift.columns import sides_of
from mlops.drift.counts import WindowCounts
from tests.support.drift import DAY_NS, START_NS, baseline_of, cut, manifest_of, records

RNG = np.random.default_rng(5)
MANIFEST = manifest_of(("a", "b"))
ROWS = RNG.normal(size=(400, 2)).astype(np.float32)
BASELINE = baseline_of(MANIFEST, ROWS, ROWS[:200, :1])
SPECS = (
    DriftSpec(rows=40, column_thresholds={}),
    DriftSpec(kind="time", length_s=20 * 86_400, lateness_s=2 * 86_400.0),
    DriftSpec(kind="time", length_s=20 * 86_400, lateness_s=0.0, sub_blocks=24),
)
VALUES = st.sampled_from([0.0, 0.1, -3.0, 5.0, math.nan, math.inf, -math.inf]) | st.floats(-2, 2, width=32)


@st.composite
def streams(draw: st.DrawFn) -> tuple[DriftSpec, object]:
    """A specification, and records whose times jump about a little, with some to be left out."""
    size = draw(st.integers(1, 120))
    days = np.cumsum(draw(npst.arrays(np.int64, size, elements=st.integers(0, 2))))
    jitter = draw(npst.arrays(np.int64, size, elements=st.integers(-4, 4)))
    times = START_NS + np.maximum(days + jitter, 0) * DAY_NS
    inputs = draw(npst.arrays(np.float32, (size, 2), elements=VALUES.map(np.float32)))
    why = draw(npst.arrays(np.uint8, size, elements=st.sampled_from([1, 1, 1, 2, 3, 4, 5])))
    generations = np.cumsum(draw(npst.arrays(np.uint64, size, elements=st.integers(0, 1)))).astype(np.uint64)
    made = records(MANIFEST, inputs, times, outputs=inputs[:, :1], why=why, plan_generation=generations)
    return draw(st.sampled_from(SPECS)), made


def run(spec: DriftSpec, batches: list) -> list[WindowResult]:
    monitor = DriftMonitor(MANIFEST, BASELINE, spec)
    return [result for batch in batches for result in monitor.add(batch)] + monitor.close()


@settings(max_examples=40)
@given(streams(), st.data())
def test_results_do_not_depend_on_how_the_log_is_cut(stream: tuple, data: st.DataObject) -> None:
    spec, made = stream
    at = data.draw(st.lists(st.integers(1, len(made.position)), max_size=6, unique=True))

    assert run(spec, cut(made, at)) == run(spec, [made])


@settings(max_examples=30)
@given(streams(), st.data())
def test_a_restored_monitor_goes_on_bit_for_bit(stream: tuple, data: st.DataObject) -> None:
    spec, made = stream
    at = data.draw(st.integers(1, len(made.position)))
    first, second = cut(made, [at])
    if len(second.position) == 0:
        return
    before = DriftMonitor(MANIFEST, BASELINE, spec)
    results = before.add(first)
    state = save(before)
    after = DriftMonitor(MANIFEST, BASELINE, spec)
    restore(after, state)

    assert save(after) == state
    # What was counted before the restart and comes again is not counted twice.
    results += after.add(made) if data.draw(st.booleans()) else after.add(second)
    assert results + after.close() == run(spec, [made])


@settings(max_examples=30)
@given(streams())
def test_every_record_is_counted_once_or_said_to_be_left_out(stream: tuple) -> None:
    spec, made = stream
    results = run(spec, [made])
    monitor = DriftMonitor(MANIFEST, BASELINE, spec)
    closed = monitor.add(made)
    open_records = sum(window.records for window in monitor.progress.open)
    late = sum(result.late for result in closed) + monitor.progress.late
    eligible = int(np.isin(made.why, (1, 4)).sum())

    assert sum(result.records for result in closed) + open_records + late == eligible
    for result in results:
        assert result == WindowResult.from_dict(json.loads(json.dumps(result.as_dict())))
        for figure in result.figures:
            assert figure.value is None or figure.value >= 0
            assert figure.p is None or 0 <= figure.p <= 1
            assert figure.n <= result.rows or figure.side == "output"


@settings(max_examples=30)
@given(
    npst.arrays(np.float32, (30, 2), elements=VALUES.map(np.float32)),
    npst.arrays(np.int64, 30, elements=st.integers(0, 19)),
    st.permutations(range(30)),
    st.integers(0, 30),
)
def test_counts_of_servers_add_up_to_those_of_all(
    values: np.ndarray, sub_block: np.ndarray, order: list[int], part: int
) -> None:
    sides = sides_of(BASELINE)[:1]

    def counted(chosen: list[int]) -> WindowCounts:
        window = WindowCounts.empty(0, 1, sides, 20)
        if chosen:
            places = np.array(chosen)
            window.sides[0].count(sides[0], {"features": values[places]}, sub_block[places])
            window.note(places, places * 10, sub_block[places], len(places), np.stack([places * 2, places * 2 + 1]))
        return window

    whole, ours, theirs = counted(list(range(30))), counted(order[:part]), counted(order[part:])
    before = [counts.cells.sum() for counts in ours.sides[0].columns]
    ours.add(theirs)
    for mine, all_of in zip(ours.sides[0].columns, whole.sides[0].columns, strict=True):
        assert mine.cells.tolist() == all_of.cells.tolist()
        assert mine.sums() == all_of.sums()
    assert all(counts.cells.sum() >= was for counts, was in zip(ours.sides[0].columns, before, strict=True))
    assert (ours.first.tolist(), ours.last.tolist()) == (whole.first.tolist(), whole.last.tolist())
    assert (ours.records, ours.rows) == (whole.records, whole.rows)
    assert (ours.first_position, ours.last_position) == (whole.first_position, whole.last_position)
    assert ours.dropped == whole.dropped


COUNTS = npst.arrays(np.int64, st.shared(st.integers(1, 30), key="cells"), elements=st.integers(0, 10**6))


@given(COUNTS, COUNTS)
def test_figures_are_never_negative_and_zero_for_equal_counts(reference: np.ndarray, window: np.ndarray) -> None:
    for figure in (figures.psi, figures.js, figures.chi_square, figures.ks_binned):
        value = figure(reference, window)
        assert value is None or value >= 0
        same = figure(reference, reference)
        assert same is None or abs(same) < 1e-12
    assert figures.js(reference, window) == figures.js(window, reference)
