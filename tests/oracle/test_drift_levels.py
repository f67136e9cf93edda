"""The level of drift decisions, by simulation: a short form of the study in docs/studies/drift-levels.md."""

import math

import pytest

from benchmarks.studies.drift_levels import level, onsets, power

RUNS = 60
#: 5% and three standard errors of the share.
MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize(
    ("process", "rows"), [("AR(1) 0", 250), ("AR(1) 0.5", 500), ("AR(1) 0.9", 500), ("stochastic volatility", 500)]
)
def test_no_more_windows_than_stated_are_significant_without_drift(process: str, rows: int) -> None:
    found = level(process, rows, RUNS, 7)
    assert found.psi[0] <= MOST
    assert found.psi[2] <= 1 / RUNS
    assert all(share <= MOST + 0.05 for share in found.others)
    assert found.insufficient <= 0.1


def test_counts_alone_would_alarm_most_of_the_time_in_dependent_rows() -> None:
    assert level("AR(1) 0.9", 500, RUNS, 7).marginal > 0.5


def test_a_correlation_time_that_a_window_cannot_hold_is_insufficient() -> None:
    assert level("AR(1) 0.98", 500, 20, 7).insufficient == 1.0


def test_a_shift_of_half_a_deviation_is_seen() -> None:
    assert power("AR(1) 0", 250, "shift (sd)", 0.5, 40) > 0.8


def test_the_interval_of_an_onset_holds_it() -> None:
    found = onsets("AR(1) 0.9", 1.0, 40)
    assert found.held > 0.75
    assert found.off < 2
