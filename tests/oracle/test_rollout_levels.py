"""Rollouts of equal versions are not taken back, worse ones are: the short form of the studies of levels."""

from benchmarks.studies import blue_green_levels
from benchmarks.studies.rollout_levels import CANARIES, EQUAL, OTHERS, SHARES, bounded, equal, failing, simulate

ROLLOUTS = 48


def test_equal_versions_are_seldom_taken_back_where_iid_tests_often_are() -> None:
    outcomes = equal(range(ROLLOUTS))
    # At a level of 1% four of 48 come once in a thousand times.
    assert sum(bool(each.failed) for each in outcomes) <= 3
    z_test = OTHERS.index("z-test at every look")
    assert sum(each.others[z_test] for each in outcomes) > ROLLOUTS / 4


def test_bound_on_bad_answers_takes_no_equal_version_back_and_a_broken_shadow_does_not_lift_it() -> None:
    found = [bounded(SHARES[number % len(SHARES)], EQUAL, number) for number in range(ROLLOUTS)]
    # Of 480 none had more than the default of 1,000, and 99 of 100 at most 85.
    assert max(each.unexplained for each in found) < 1_000
    assert sum(not each.is_shadow_trusted for each in found) <= 3
    for seed in range(4):
        canary = CANARIES["5 points more violations"]
        worse, lifted = (bounded(0.1, canary, 1_000_000 + seed, shadow) for shadow in (lambda it: it, failing))
        assert not lifted.is_shadow_trusted
        assert lifted.unexplained > worse.unexplained / 2 > 500


def test_worse_canaries_are_taken_back() -> None:
    for name in ("fails on 1% of requests", "5 points more violations", "three times slower"):
        outcomes = [simulate(0.1, CANARIES[name], 1_000_000 + seed) for seed in range(4)]
        assert all(each.failed for each in outcomes), name


def test_blue_green_watches_of_equal_versions_seldom_go_back_where_counting_every_window_often_does() -> None:
    outcomes = blue_green_levels.equal(range(ROLLOUTS))
    assert sum(bool(each.failed) for each in outcomes) <= 3
    assert sum(each.every_cell for each in outcomes) > ROLLOUTS / 8


def test_blue_green_watches_of_worse_versions_go_back() -> None:
    for name, outcomes in blue_green_levels.worse(range(2)).items():
        assert all(each.failed for each in outcomes), name
