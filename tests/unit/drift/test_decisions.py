"""Null levels, decisions, onsets and thresholds."""

import numpy as np
import pytest
from scipy import stats

from mlops.drift import DriftSpec, Thresholds, calibrate
from mlops.drift.columns import Column, Columns, sides_of
from mlops.drift.counts import SideCounts
from mlops.drift.covariance import correlation_rows, deviations, inflation, pairs, shrunk
from mlops.drift.decide import WindowFacts, decide, rejected, window_level
from mlops.drift.null import Assessment, Level, assess
from mlops.drift.onset import change_point
from mlops.drift.tail import Tail
from tests.support.drift import autoregressive, baseline_of, manifest_of
from tickserve.errors import DataError

MANIFEST = manifest_of(("x",))


def column_of(values: np.ndarray, **changes: object) -> Column:
    made = baseline_of(MANIFEST, values.astype(np.float32)[:, None], **changes)  # type: ignore[arg-type]
    return sides_of(made)[0].columns[0]


def assessed(column: Column, values: np.ndarray, sub_blocks: int = 20, expected: float | None = None) -> Assessment:
    sides = sides_of(baseline_of(MANIFEST, np.zeros((50, 1), np.float32)))
    one = Columns("input", sides[0].reference, (column,))
    side = SideCounts.empty(one, sub_blocks)
    places = np.arange(len(values)) * sub_blocks // max(len(values), 1)
    side.count(one, {column.tensor: values.astype(np.float32)[:, None]}, places)
    return assess(column, side.columns[0], expected)


def normal(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size)


def test_batch_means_of_independent_rows_are_the_multinomial_covariance() -> None:
    rng = np.random.default_rng(1)
    shares = np.array([0.5, 0.3, 0.2])
    blocks = rng.multinomial(100, shares, size=4000)
    found = deviations(blocks).T @ deviations(blocks) * blocks.sum()
    assert found == pytest.approx(np.diag(shares) - np.outer(shares, shares), abs=0.02)


def test_blocks_of_several_sizes_and_empty_ones_are_weighed_by_their_rows() -> None:
    blocks = np.array([[3, 1], [0, 0], [30, 10], [6, 2]])
    assert deviations(blocks) == pytest.approx(0.0)
    assert len(deviations(blocks)) == 3
    assert pairs(np.arange(10).reshape(5, 2)).tolist() == [[2, 4], [18, 21]]
    assert deviations(blocks[:1]).tolist() == [[0.0, 0.0]]


def test_inflation_and_correlation_time_are_those_of_an_autoregression() -> None:
    [series] = autoregressive(np.random.default_rng(4), (1, 100_000), 0.8)
    # 1/2 + sum of 0.8^k; ranks of a normal series are a little less dependent.
    assert correlation_rows(column_of(series)) == pytest.approx(4.5, rel=0.25)
    independent = column_of(normal(100_000))
    assert correlation_rows(independent) < 1
    assert inflation(independent.blocks, independent.reference / independent.reference.sum()) < 1.3


def test_shrinking_keeps_the_trace_and_finds_independence() -> None:
    rng = np.random.default_rng(1)
    shares = np.full(20, 0.05)
    vectors = deviations(rng.multinomial(100, shares, size=50))
    found = shrunk(vectors, shares)
    scaled = found / np.sqrt(shares)
    assert (scaled**2).sum() == pytest.approx(((vectors / np.sqrt(shares)) ** 2).sum(), rel=1e-9)
    values = np.linalg.eigvalsh(scaled.T @ scaled)[1:]
    assert values.max() / values.min() < 3


def test_the_tail_is_that_of_a_chi_square_where_draws_are_one() -> None:
    drawn = np.random.default_rng(3).chisquare(12, size=200_000) * 0.01
    tail = Tail.of(drawn)
    for level in (0.05, 0.001, 1e-6):
        assert tail.quantile(level) == pytest.approx(0.01 * stats.chi2.isf(level, 12), rel=0.03)
        assert tail.beyond(np.array([tail.quantile(level)]))[0] == pytest.approx(level)
    constant = Tail.of(np.zeros(10))
    assert constant.beyond(np.array([0.0, 0.1])).tolist() == [1.0, 0.0]


def test_the_same_counts_give_the_same_null_bit_for_bit() -> None:
    column, values = column_of(normal(3000)), normal(400, 1)
    assert assessed(column, values) == assessed(column, values)


def test_every_figure_has_its_null_and_figures_for_independence_beside_it() -> None:
    found = assessed(column_of(normal(3000)), normal(400, 1))
    assert found.n == 400
    assert found.effective_n is not None
    assert 250 < found.effective_n <= 400
    for name in ("psi", "js", "chi_square", "ks_binned", "w1"):
        level = found.levels[name]  # type: ignore[index]
        assert 0 < level.mean < level.q95 < level.q99  # type: ignore[operator]
        assert level.p > 0.01  # type: ignore[operator]
    assert found.levels["psi"].iid_mean == pytest.approx(
        (int((column_of(normal(3000)).reference > 0).sum()) - 1) * (1 / 3000 + 1 / 400), rel=0.15
    )


@pytest.mark.parametrize(
    ("reference", "window", "psi_p"),
    [
        (np.full(2000, 2.5), np.full(100, 2.5), "one"),
        (np.full(2000, 2.5), np.full(100, 5.0), "tiny"),
        (normal(2000), np.full(100, np.nan), "tiny"),
        (normal(2000), np.full(100, 0.25), "tiny"),
        (normal(2000), np.full(100, np.inf), "tiny"),
    ],
)
def test_degenerate_windows_have_the_p_that_they_deserve(reference: np.ndarray, window: np.ndarray, psi_p: str) -> None:
    found = assessed(column_of(reference), window)
    p = found.levels["psi"].p
    assert p is not None
    assert p == 1.0 if psi_p == "one" else p < 1e-6
    for level in found.levels.values():
        assert level.p is None or 0 <= level.p <= 1
        assert level.value is None or np.isfinite(level.value)


def test_an_empty_window_has_nothing() -> None:
    found = assessed(column_of(normal(2000)), np.empty(0))
    assert found.n == 0
    assert {level.value for level in found.levels.values()} == {None}
    assert found.effective_n is None


def test_missing_is_tested_for_itself() -> None:
    reference = normal(4000)
    reference[::100] = np.nan
    column = column_of(reference)
    same, more = normal(500, 1), normal(500, 1)
    same[::100], more[::10] = np.nan, np.nan
    assert assessed(column, same).levels["missing"].p > 0.2  # type: ignore[operator]
    found = assessed(column, more).levels["missing"]
    assert found.value == pytest.approx(0.1)
    assert found.p < 1e-4  # type: ignore[operator]
    # One in 250 where the reference had none is no wonder: exactly, 250 in 4,250.
    one = normal(250, 1)
    one[3] = np.nan
    assert assessed(column_of(normal(4000)), one).levels["missing"].p == pytest.approx(250 / 4250, rel=0.01)


def test_benjamini_and_hochberg_are_scipys() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        p = np.concatenate([rng.uniform(size=6), rng.uniform(0, 0.01, size=3)])
        expected = stats.false_discovery_control(p, method="bh") <= 0.05
        assert rejected(p.tolist(), 0.05) == expected.tolist()
    assert rejected([], 0.05) == []


def psi_level(value: float, p: float, q95: float = 0.05, slow: float = 1.0) -> Assessment:
    return Assessment({"psi": Level(value, 0.02, q95, 0.07, p, 0.02)}, 500, 500.0, slow)


def decided(*assessments: Assessment, **changes: object) -> list[tuple[str, str]]:
    facts = {"is_ordered": True, "sub_blocks": 20, "expected_rows": 500.0} | changes
    named = [(f"c{number}", each) for number, each in enumerate(assessments)]
    found = decide("input", named, WindowFacts(**facts), DriftSpec(), 0.05)  # type: ignore[arg-type]
    return [(each.state, each.reason) for each in found]


def test_a_window_with_more_than_a_thousandth_dropped_is_insufficient_whatever_it_says() -> None:
    assert decided(psi_level(0.3, 1e-6), dropped_share=0.001)[0][0] == "critical"
    state, reason = decided(psi_level(0.3, 1e-6), dropped_share=0.0011)[0]
    assert (state, reason) == ("insufficient", "0.11% of the records of its time were dropped, 0.1% may be")


def test_an_alarm_needs_the_threshold_and_the_level() -> None:
    states = [
        state
        for state, _ in decided(psi_level(0.3, 1e-6), psi_level(0.15, 1e-6), psi_level(0.05, 1e-9), psi_level(0.3, 0.2))
    ]
    assert states == ["critical", "warning", "ok", "ok"]


def test_p_is_held_against_all_columns_together() -> None:
    assert decided(psi_level(0.3, 0.03))[0][0] == "critical"
    assert decided(psi_level(0.3, 0.03), *[psi_level(0.01, 0.5)] * 9)[0][0] == "ok"


@pytest.mark.parametrize(
    ("assessment", "changes", "reason"),
    [
        (psi_level(0.3, 1e-6), {"is_ordered": False}, "order of the reference is unknown"),
        (psi_level(0.3, 1e-6), {"sub_blocks": 19}, "19 sub-blocks"),
        (psi_level(0.3, 1e-6), {"is_part_of_day": True}, "no buckets"),
        (psi_level(0.3, 1e-6, slow=25.1), {}, "more than a twentieth"),
        (psi_level(0.3, 1e-6, slow=24.9), {"expected_rows": 400.0}, "more than a twentieth"),
        (psi_level(0.3, 1e-6, q95=0.11), {}, "above the warning threshold"),
        (Assessment({"psi": Level(None)}, 0, None, 1.0), {}, "no rows"),
    ],
)
def test_too_little_is_insufficient_and_says_why(assessment: Assessment, changes: dict, reason: str) -> None:
    [(state, said)] = decided(assessment, **changes)
    assert state == "insufficient"
    assert reason in said


def test_an_insufficient_column_takes_no_part_in_the_test_of_the_others() -> None:
    states = decided(psi_level(0.3, 0.03), *[psi_level(0.3, 0.5, q95=0.5)] * 9)
    assert states[0][0] == "critical"


def test_windows_share_the_budget_by_their_length() -> None:
    spec = DriftSpec(budget_days=100.0)
    assert window_level(spec, 1.0, 1) == pytest.approx(0.01)
    assert window_level(spec, 1.0, 2) == pytest.approx(0.005)
    # However long, never above the greatest level of one window.
    assert window_level(spec, 500.0, 1) == 0.05


def test_a_change_is_found_and_none_is_not_made_up() -> None:
    rng = np.random.default_rng(8)
    shares, other = np.full(10, 0.1), np.append(np.full(5, 0.04), np.full(5, 0.16))
    reference = rng.multinomial(5000, shares)
    blocks = np.concatenate([rng.multinomial(50, shares, size=30), rng.multinomial(50, other, size=10)])
    found = change_point(reference, blocks, 1.0)
    assert found.low <= 30 <= found.high
    assert found.high - found.low < 5
    # More dependence, less certainty.
    wider = change_point(reference, blocks, 8.0)
    assert wider.low <= found.low
    assert wider.high >= found.high
    assert wider.high - wider.low > found.high - found.low
    assert change_point(reference, rng.multinomial(50, other, size=20), 1.0).best == 0


def test_calibrated_thresholds_keep_the_budget_and_tell_delays() -> None:
    rows = np.random.default_rng(6).normal(size=(5000, 3)).astype(np.float32)
    manifest = manifest_of(("a", "b", "c"))
    found = calibrate(baseline_of(manifest, rows), DriftSpec(rows=400, budget_days=3650.0))

    assert found.windows_per_year == pytest.approx(365.25 / 400, rel=0.01)
    # At most 400 in 3,650 days, but no window above 5%.
    assert found.level == pytest.approx(0.05)
    assert 0 < found.false_alarms_per_year < 0.06
    for column in found.columns:
        assert column.null_q95 < column.warning < column.critical
        power = [delay.power for delay in column.delays]
        assert power == sorted(power)
        assert power[-1] == 1.0
        assert column.delays[-1].days == pytest.approx(found.window_days)
        assert (column.runs, column.runs_beyond) == (12, 0)


def test_a_smaller_budget_needs_higher_thresholds_and_floors_stay() -> None:
    rows = np.random.default_rng(6).normal(size=(5000, 2)).astype(np.float32)
    baseline = baseline_of(manifest_of(("a", "b")), rows)
    often, rarely = (
        calibrate(baseline, DriftSpec(rows=250, budget_days=each), shifts=()).thresholds()["a"]
        for each in (365.0, 365_000.0)
    )
    assert rarely.warning > often.warning
    floor = DriftSpec(rows=250, thresholds=Thresholds(2.0, 3.0))
    assert calibrate(baseline, floor, shifts=()).thresholds()["a"] == Thresholds(2.0, 3.0)


def test_a_baseline_without_order_has_no_thresholds() -> None:
    rows = np.random.default_rng(6).normal(size=(500, 1)).astype(np.float32)
    with pytest.raises(DataError, match="order is unknown"):
        calibrate(baseline_of(MANIFEST, rows, is_ordered=False), DriftSpec())


def test_a_baseline_without_a_session_has_no_thresholds() -> None:
    rows = np.random.default_rng(6).normal(size=(500, 1)).astype(np.float32)
    # 500 seconds on New Year's Eve, after the close.
    baseline = baseline_of(MANIFEST, rows, step_ns=10**9)
    with pytest.raises(DataError, match="no such window"):
        calibrate(baseline, DriftSpec(kind="session", calendar="XNYS"))
