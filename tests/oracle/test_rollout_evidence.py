"""The evidence of rollouts against enumeration: under the hypothesis its expectation is never above one."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mlops.rollout.betting import MeanAtMost, windows_to_reach
from mlops.rollout.cells import RATIOS, CanaryNotWorse, PairedNotWorse, RatioAtLeast
from mlops.rollout.draws import log_draws
from mlops.tap.layout import BUCKETS

#: Sums of some hundred products of doubles.
ROUNDING = 1e-9


@pytest.mark.parametrize("odds", [0.05, 1.0, 7.0])
@pytest.mark.parametrize("at_risk", [(1, 1), (3, 4), (5, 2)])
def test_draws_are_those_of_every_order_added_up(at_risk: tuple[int, int], odds: float) -> None:
    for first, second in itertools.product(range(at_risk[0] + 1), range(at_risk[1] + 1)):
        total = 0.0
        for order in set(itertools.permutations([0] * first + [1] * second)):
            left, chance = list(at_risk), 1.0
            for kind in order:
                weights = left[0] * odds, left[1]
                chance *= weights[kind] / sum(weights)
                left[kind] -= 1
            total += chance
        assert math.exp(log_draws(at_risk, (first, second), np.array([odds]))[0]) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("odds", [0.1, 1.0, 3.0])
def test_draws_follow_wallenius_law_as_scipy_has_it(odds: float) -> None:
    law = stats.nchypergeom_wallenius(60, 25, 30, odds)
    for first in range(26):
        if 30 - first <= 35:
            found = math.exp(log_draws((25, 35), (first, 30 - first), np.array([odds]))[0])
            assert found == pytest.approx(law.pmf(first), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("at_risk", "drawn"), [((2, 2), (3, 0)), ((2, 2), (0, 3)), ((2, 2), (-1, 1))])
def test_draws_that_cannot_be_are_refused(at_risk: tuple[int, int], drawn: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        log_draws(at_risk, drawn, np.ones(1))


def confined(buckets: int, **settings: Any) -> CanaryNotWorse:
    """The detector where keys can be in a few buckets only."""
    found = CanaryNotWorse(**settings)
    at_risk = {"canary": list(range(buckets)), "stable": list(range(buckets)), "logs": [0.0] * len(RATIOS)}
    found.restore({"share_bp": 3_000, "windows": 0, "running": [at_risk], "stopped": []})
    return found


def flags(buckets: set[int]) -> np.ndarray[Any, Any]:
    found = np.zeros(BUCKETS, bool)
    found[list(buckets)] = True
    return found


#: Which keys are bad in each window, whoever answers them: one always, one once, two at a time, one late.
WORLDS = [
    [[{0}], [{0, 1}], [{0, 2}]],
    [[{0, 1, 2}], [{1}], [{0, 1, 2}]],
    [[set()], [{2}], [{0, 1}]],
]


def placements(keys: int, buckets: int, shares: list[float]) -> Iterator[tuple[float, list[tuple[int, list[bool]]]]]:
    """Every way in which the hash can place keys, with its chance: a bucket, and the side under each share in turn."""
    edges = [0.0, *sorted(set(shares)), 1.0]
    parts = [(low, high - low) for low, high in itertools.pairwise(edges) if high > low]
    one = [
        (size / buckets, bucket, [low < share - 1e-12 for share in shares])
        for low, size in parts
        for bucket in range(buckets)
    ]
    for chosen in itertools.product(one, repeat=keys):
        yield math.prod(each[0] for each in chosen), [(bucket, sides) for _, bucket, sides in chosen]


SHARES = [
    [0.3, 0.3, 0.3],
    [0.3, 0.3, 0.6],
    [0.3, 0.6, 0.6],
    [0.3, 0.1, 0.1],
    [0.3, 0.8, 0.9],
    [0.3, 0.6, 0.2],
    [0.1, 0.4, 0.5],
]


def sides(places: list[tuple[int, list[bool]]], bad: set[int], window: int) -> tuple[set[int], set[int]]:
    """The buckets of the canary and of stable that a window's bad keys are in."""
    ours = {places[key][0] for key in bad if places[key][1][window]}
    return ours, {places[key][0] for key in bad if not places[key][1][window]}


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("world", WORLDS)
def test_equal_versions_give_no_start_an_expected_gain_whatever_happens_to_keys(
    world: list[list[set[int]]], shares: list[float]
) -> None:
    """Sharp null: what goes bad is fixed, only the hash is random. After any history the next window is a fair bet."""
    outcomes: dict[tuple[Any, ...], list[tuple[float, float, float]]] = defaultdict(list)
    for chance, places in placements(3, 2, shares):
        detector = confined(2)
        first = detector._starts._running[0]
        history: tuple[Any, ...] = ()
        for window, (bad,) in enumerate(world):
            before = math.exp(first.log_wealth)
            ours, theirs = sides(places, bad, window)
            detector.update(flags(ours), flags(theirs), round(shares[window] * 10_000))
            outcomes[history].append((chance, before, math.exp(first.log_wealth)))
            history = (*history, (frozenset(ours), frozenset(theirs)))
    for found in outcomes.values():
        mass = sum(chance for chance, _, _ in found)
        assert sum(chance * after for chance, _, after in found) / mass <= found[0][1] * (1 + ROUNDING)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("restart_windows", [1, 2])
@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("world", WORLDS)
def test_equal_versions_are_called_worse_with_at_most_alpha_however_often_one_looks(
    world: list[list[set[int]]], shares: list[float], restart_windows: int, alpha: float
) -> None:
    called = 0.0
    for chance, places in placements(3, 2, shares):
        detector = confined(2, restart_windows=restart_windows)
        highest = -math.inf
        for window, (bad,) in enumerate(world):
            ours, theirs = sides(places, bad, window)
            detector.update(flags(ours), flags(theirs), round(shares[window] * 10_000))
            highest = max(highest, detector.log_wealth)
        called += chance * (highest >= -math.log(alpha))
    assert called <= alpha


def test_starts_share_one_alpha_and_the_best_of_them_counts() -> None:
    """What is bad all the time is one piece of evidence, however many starts see it."""
    ours, nothing = flags({1, 2, 3}), flags(set())
    alone = CanaryNotWorse(restart_windows=1_000)
    alone.update(ours, nothing, 1_000)
    of_one_start = alone.log_wealth + math.log(2)
    detector = CanaryNotWorse(restart_windows=1)
    for number in range(1, 30):
        detector.update(ours, nothing, 1_000)
        assert detector.log_wealth == pytest.approx(of_one_start - math.log(2)), number
    late = CanaryNotWorse(restart_windows=1)
    for _ in range(4):
        late.update(nothing, nothing, 1_000)
    late.update(ours, nothing, 1_000)
    # The first start saw it too, and has the largest part.
    assert late.log_wealth == pytest.approx(of_one_start - math.log(2))
    only_third = CanaryNotWorse(restart_windows=1)
    only_third.update(ours, ours, 1_000)
    only_third.update(ours, ours, 1_000)
    only_third.update(ours, nothing, 1_000)
    assert only_third.log_wealth == pytest.approx(of_one_start - math.log(3 * 4))


def test_a_ratio_within_the_hypothesis_gives_no_expected_gain() -> None:
    for ratio, truth in ((2.0, 2.0), (2.0, 1.0), (2.0, 0.3)):
        odds = 0.25
        for drawn in (1, 2, 5):
            expected = 0.0
            for first in range(drawn + 1):
                kinds = (first, drawn - first)
                chance = math.exp(log_draws((6, 8), kinds, np.array([odds * truth]))[0])
                logs = log_draws((6, 8), kinds, odds * ratio * np.append(RATIOS, 1.0))
                expected += chance * float(np.exp(logs[:-1] - logs[-1]).mean())
            assert expected <= 1 + ROUNDING
            assert truth < ratio or expected == pytest.approx(1)


@pytest.mark.parametrize("truth", [2.0, 3.0, 10.0])
def test_a_ratio_beyond_the_margin_gives_no_expected_gain(truth: float) -> None:
    """Every bad cell on its own is the canary's with the chance that its requests and the ratio give."""
    requests = np.full(BUCKETS, 4)
    chance = truth * 0.25 / (1 + truth * 0.25)
    expected = 0.0
    for outcome in itertools.product((False, True), repeat=4):
        detector = RatioAtLeast(2.0)
        mass = 1.0
        for is_ours in outcome:
            mass *= chance if is_ours else 1 - chance
            sides = (flags({0}), flags(set())) if is_ours else (flags(set()), flags({0}))
            detector.update((sides[0], requests), (sides[1], 4 * requests), 2_000)
        expected += mass * math.exp(detector.log_wealth)
    assert expected <= 1 + ROUNDING
    assert truth > 2 or expected == pytest.approx(1)


#: In which windows each of three buckets is bad, on one side alone: once, again and again, all together.
PAIRED_WORLDS = [
    [{0}, {1}, {2}],
    [{0}, {0, 1}, {0, 1, 2}],
    [{0, 1, 2}, {0, 1, 2}, {0, 1, 2}],
]


@pytest.mark.parametrize("world", PAIRED_WORLDS)
def test_pairs_give_no_expected_gain_where_chance_says_on_which_side_a_key_is_bad(world: list[set[int]]) -> None:
    """Sharp null: what is bad on one side alone is fixed, and stays so; on which side is a coin of each key."""
    expected = 0.0
    for coins in itertools.product((False, True), repeat=3):
        detector = PairedNotWorse(restart_windows=1_000)
        for bad in world:
            ours = {bucket for bucket in bad if coins[bucket]}
            # What is bad on both sides is the input's doing.
            detector.update(flags(ours | {9}), flags((bad - ours) | {9}))
        # The first start has half of alpha.
        expected += 0.5**3 * 2 * math.exp(detector.log_wealth)
    assert expected == pytest.approx(1)


@pytest.mark.parametrize("restart_windows", [1, 2, 1_000])
@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5])
def test_pairs_call_equal_versions_worse_with_at_most_alpha_however_often_the_same_keys_are_bad(
    alpha: float, restart_windows: int
) -> None:
    called = 0.0
    for coins in itertools.product((False, True), repeat=10):
        detector = PairedNotWorse(restart_windows=restart_windows)
        ours = flags({bucket for bucket, is_ours in enumerate(coins) if is_ours})
        theirs = flags({bucket for bucket, is_ours in enumerate(coins) if not is_ours})
        highest = -math.inf
        for _ in range(20):
            detector.update(ours, theirs)
            highest = max(highest, detector.log_wealth)
        called += 0.5**10 * (highest >= -math.log(alpha))
    assert called <= alpha


@pytest.mark.parametrize(("bound", "values"), [(0.1, (-1.0, 1.0)), (-0.05, (-1.0, 0.0)), (0.3, (0.0, 1.0))])
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_bets_on_a_mean_within_its_bound_give_no_expected_gain(
    bound: float, values: tuple[float, float], part: float
) -> None:
    low, high = values
    # The mean is the bound, or less.
    chance = part * (bound - low) / (high - low)
    expected = 0.0
    for outcome in itertools.product((False, True), repeat=6):
        bet = MeanAtMost(bound, lowest=low)
        mass = 1.0
        for is_high in outcome:
            mass *= chance if is_high else 1 - chance
            bet.update(high if is_high else low)
        expected += mass * math.exp(bet.log_wealth)
    assert expected <= 1 + ROUNDING
    assert part < 1 or expected == pytest.approx(1)


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.01, 0.02), (0.05, 0.3), (0.001, 0.1)])
def test_windows_that_are_needed_are_those_that_it_takes(alpha: float, tolerance: float) -> None:
    bet, windows = MeanAtMost(-tolerance, lowest=-1.0), 0
    while bet.log_wealth < -math.log(alpha):
        bet.update(0.0)
        windows += 1
    assert windows_to_reach(alpha, -tolerance, -1.0, 0.0) == windows
    assert windows_to_reach(alpha, -tolerance, -1.0, -tolerance) == 0


@pytest.mark.parametrize("value", [-1.5, math.nan, math.inf])
def test_values_that_no_bet_can_bear_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="is not from"):
        MeanAtMost(0.0, lowest=-1.0).update(value)
    with pytest.raises(ValueError, match="no hypothesis"):
        MeanAtMost(-1.0, lowest=-1.0)
