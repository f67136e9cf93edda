"""Up to where windows are taken, whatever clocks say."""

from mlops.rollout.windows import horizon, resumed

SECOND = 10**9
NOW = 1_800_000_000 * SECOND


def test_windows_are_taken_up_to_where_every_server_is_complete() -> None:
    assert horizon(NOW, NOW - 3 * SECOND, SECOND) == NOW - 3 * SECOND
    assert horizon(NOW, NOW - 25 * SECOND // 10, SECOND) == NOW - 3 * SECOND, "whole ones"


def test_a_server_that_is_missing_is_waited_for_for_three_windows_and_at_least_ten_seconds() -> None:
    assert horizon(NOW, 0, SECOND) == NOW - 10 * SECOND
    assert horizon(NOW, 0, 60 * SECOND) == NOW - 180 * SECOND


def test_what_a_clock_that_is_ahead_says_of_the_future_is_not_over() -> None:
    assert horizon(NOW, NOW + 3_600 * SECOND, SECOND) == NOW


def test_after_a_clock_was_set_right_it_goes_on_from_now_and_counts_nothing_twice() -> None:
    assert resumed(NOW + 2 * SECOND, NOW - 9 * SECOND, NOW, SECOND) == NOW + 2 * SECOND
    assert resumed(NOW + 3_600 * SECOND, NOW - 9 * SECOND, NOW, SECOND) == NOW
    assert resumed(NOW + 3_600 * SECOND, NOW + 40 * SECOND, NOW, SECOND) == NOW + 40 * SECOND
