"""Verdicts of rollouts: what fails, what passes, and what is not known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.rollout import Analysis, RolloutSpec, SideCounts, Verdict, WindowCounts, parse_spec
from mlops.rollout.analysis import StepOutputs
from mlops.rollout.counts import Exposure
from mlops.rollout.outputs import psi_bounds, sign_flips
from mlops.tap.layout import BUCKETS, COLUMNS, OVER_EDGE
from tests.unit.rollout.windows import side, window

SPEC = parse_spec(
    {"keys": 500, "analysis": {"alpha": 0.05, "errors": {"tolerance": 0.2}, "violations": {"tolerance": 0.2}}}
)
OUTPUTS = parse_spec(
    {
        "keys": 500,
        "analysis": {
            "errors": None,
            "violations": None,
            "latency": None,
            "psi": {"tolerance": 0.2},
            "sign_flips": {"tolerance": 0.15},
        },
    }
)


def verdicts(analysis: Analysis) -> dict[str, str]:
    return {each.metric: str(each.verdict) for each in analysis.evidence().verdicts}


def played(spec: RolloutSpec, *windows: WindowCounts) -> Analysis:
    analysis = Analysis(spec)
    for each in windows:
        analysis.update(each)
    return analysis


def test_nothing_seen_passes_nothing() -> None:
    assert set(verdicts(Analysis(SPEC)).values()) == {"inconclusive"}
    assert Analysis(SPEC).evidence().overall is Verdict.INCONCLUSIVE
    empty = WindowCounts(1_000, SideCounts.empty(), SideCounts.empty())
    assert played(SPEC, *[empty] * 500).evidence().overall is Verdict.INCONCLUSIVE
    # Stable alone says nothing of the canary.
    assert (
        played(SPEC, *[replace(window(), canary=SideCounts.empty())] * 500).evidence().overall is Verdict.INCONCLUSIVE
    )


def test_a_flawless_canary_passes_by_its_own_tolerance_in_time() -> None:
    few, many = played(SPEC, *[window()] * 10), played(SPEC, *[window()] * 130)
    assert few.evidence().overall is Verdict.INCONCLUSIVE
    assert many.evidence().overall is Verdict.PASS
    assert many.evidence().answers == 130 * 10 * BUCKETS


def test_under_twenty_buckets_nothing_is_said() -> None:
    for narrow in ({"canary": side(buckets=19)}, {"stable": side(buckets=19)}):
        analysis = played(SPEC, *[window(**narrow)] * 500)
        assert analysis.evidence().overall is Verdict.INCONCLUSIVE
        assert "19" in analysis.evidence().verdicts[0].why
    all_bad = side(buckets=19, failures=dict.fromkeys(range(19), 5))
    assert played(SPEC, *[window(canary=all_bad)] * 50).evidence().overall is Verdict.INCONCLUSIVE


def test_a_canary_whose_keys_fail_where_stables_do_not_fails() -> None:
    bad = window(canary=side(failures=dict.fromkeys(range(6), 1)))
    analysis = played(SPEC, window(), bad)
    assert verdicts(analysis)["errors"] == "fail"
    assert verdicts(analysis)["violations"] == "inconclusive"
    assert analysis.evidence().overall is Verdict.FAIL
    # A fail stays one, whatever comes.
    for _ in range(300):
        analysis.update(window())
    assert verdicts(analysis)["errors"] == "fail"


def test_one_broken_key_is_no_evidence_however_long_it_lasts() -> None:
    broken = window(canary=side(violations={7: 10}))
    assert verdicts(played(SPEC, *[broken] * 2_000))["violations"] != "fail"


def test_what_is_bad_on_both_sides_alike_does_not_fail() -> None:
    every = dict.fromkeys(range(BUCKETS), 1)
    burst = window(canary=side(failures=every), stable=side(failures=every))
    assert verdicts(played(SPEC, *[burst] * 100))["errors"] != "fail"


def test_what_begins_late_is_seen_though_every_key_was_bad_before() -> None:
    every, some = dict.fromkeys(range(BUCKETS), 1), dict.fromkeys(range(40), 1)
    early = [window(canary=side(failures=every), stable=side(failures=every))] * 5
    late = [window()] * 60 + [window(canary=side(failures=some))] * 30
    analysis = played(SPEC, *early, *late)
    assert verdicts(analysis)["errors"] == "fail"


@pytest.mark.parametrize(("slow", "verdict"), [({}, "pass"), (dict.fromkeys(range(BUCKETS), 9), "fail")])
def test_latency_goes_by_answers_over_the_edge(slow: dict[int, int], verdict: str) -> None:
    usual = {0: 10}
    one = window(canary=side(slow=slow or usual), stable=side(slow=usual))
    assert verdicts(played(SPEC, *[one] * 130))["latency"] == verdict


def test_latency_waits_for_two_hundred_answers_of_the_canary() -> None:
    thin = window(canary=side(requests=1, buckets=50, slow=dict.fromkeys(range(50), 1)))
    analysis = played(SPEC, *[thin] * 3)
    figures = next(each.figures for each in analysis.evidence().verdicts if each.metric == "latency")
    assert figures["log_wealth_worse"] == 0
    analysis.update(thin)
    figures = next(each.figures for each in analysis.evidence().verdicts if each.metric == "latency")
    assert figures["log_wealth_worse"] > 0


def test_a_new_share_counts_its_own_answers_and_keeps_the_evidence() -> None:
    analysis = played(SPEC, *[window(1_000)] * 130)
    analysis.update(window(5_000))
    evidence = analysis.evidence()
    assert (evidence.share_bp, evidence.step_windows, evidence.windows) == (5_000, 1, 131)
    assert evidence.answers == 10 * BUCKETS
    assert evidence.overall is Verdict.PASS


def test_bad_answers_beyond_stables_rate_are_counted() -> None:
    ours = side(failures={0: 5}, violations={1: 3})
    analysis = played(SPEC, window(canary=ours, stable=side(failures={0: 4})))
    evidence = analysis.evidence()
    assert (evidence.bad_answers, evidence.excess_bad_answers) == (8, 4.0)


def test_an_answer_that_a_rule_withholds_is_one_bad_answer() -> None:
    withheld = side(failures={0: 5, 1: 2}, violations={0: 5, 2: 3})
    assert withheld.bad == 10
    evidence = played(SPEC, window(canary=withheld, stable=side(failures={9: 4}, violations={9: 4}))).evidence()
    assert (evidence.bad_answers, evidence.excess_bad_answers) == (10, 6.0)


def exposed(shadow: SideCounts, stable: SideCounts, windows: int = 10) -> Analysis:
    """A canary that fails once in every key bucket of each window."""
    analysis = Analysis(SPEC)
    each = window(canary=side(failures=dict.fromkeys(range(BUCKETS), 1)), stable=stable)
    for _ in range(windows):
        analysis.update(each, Exposure(each.canary, each.stable, shadow))
    return analysis


def test_a_shadow_that_fails_where_stable_does_not_explains_no_bad_answer() -> None:
    all_bad = side(failures=dict.fromkeys(range(BUCKETS), 10))
    evidence = exposed(all_bad, side()).evidence()
    assert not evidence.is_shadow_trusted
    assert evidence.excess_bad_answers == evidence.bad_answers == 10 * BUCKETS
    # It stays so, also over a restart.
    again = Analysis.restored(SPEC, json.loads(json.dumps(exposed(all_bad, side()).state())))
    again.expose(Exposure(side(failures={0: 7}), side(), all_bad))
    assert again.evidence().excess_bad_answers == 10 * BUCKETS + 7


def test_a_shadow_that_fails_as_stable_does_explains_what_it_can() -> None:
    all_bad = side(failures=dict.fromkeys(range(BUCKETS), 10))
    evidence = exposed(all_bad, all_bad).evidence()
    assert (evidence.is_shadow_trusted, evidence.excess_bad_answers) == (True, 0)
    # A key that is always bad is in the canary's share, and in no other.
    one = side(violations={7: 10})
    analysis = Analysis(SPEC)
    for _ in range(500):
        analysis.update(window(canary=one), Exposure(one, side(), one))
    assert (analysis.evidence().is_shadow_trusted, analysis.evidence().excess_bad_answers) == (True, 0)


def test_a_canary_that_was_better_for_long_has_no_credit_of_bad_answers() -> None:
    analysis = played(SPEC, *[window(stable=side(failures={0: 5}))] * 100)
    assert analysis.evidence().excess_bad_answers == 0
    analysis.update(window(canary=side(failures={0: 7})))
    assert analysis.evidence().excess_bad_answers == 7


def test_pairs_excuse_what_the_input_did() -> None:
    spec = parse_spec({"keys": 500, "strategy": "blue_green", "steps": [{"share": 100.0}]})
    both = dict.fromkeys(range(40), 1)
    alike = window(10_000, canary=side(failures=both), stable=side(failures=both))
    assert verdicts(played(spec, *[alike] * 50))["errors"] == "pass"
    worse = window(10_000, canary=side(failures=dict.fromkeys(range(15), 1)))
    assert verdicts(played(spec, worse))["errors"] == "fail"


def outputs(shift: float, buckets: int = 60) -> StepOutputs:
    draw = np.random.default_rng(3)
    baseline = draw.multinomial(200, np.full(10, 0.1), size=60)
    shares = np.full(10, 0.1)
    shares[0] += shift
    canary = np.zeros((BUCKETS, 10), np.int64)
    canary[:buckets] = draw.multinomial(100, shares / shares.sum(), size=buckets)
    pairs = np.zeros(BUCKETS, np.int64)
    pairs[:buckets] = 100
    return StepOutputs(canary, baseline, pairs, (pairs * shift / 2).astype(int))


def test_outputs_are_decided_at_step_ends_by_their_bounds() -> None:
    analysis = played(OUTPUTS, window())
    assert verdicts(analysis) == {"psi": "inconclusive", "sign_flips": "inconclusive"}
    analysis.end_step(outputs(0.0))
    assert verdicts(analysis) == {"psi": "pass", "sign_flips": "pass"}
    # Its part of alpha is spent: what would fail is no second look.
    analysis.end_step(outputs(0.8))
    assert verdicts(analysis) == {"psi": "pass", "sign_flips": "pass"}
    # The next step is not passed by what an earlier one showed.
    analysis.update(window(5_000))
    assert verdicts(analysis) == {"psi": "inconclusive", "sign_flips": "inconclusive"}
    analysis.end_step(outputs(0.8))
    assert verdicts(analysis) == {"psi": "fail", "sign_flips": "fail"}


def test_outputs_of_few_buckets_or_none_say_nothing() -> None:
    analysis = played(OUTPUTS, window())
    analysis.end_step(outputs(0.8, buckets=19))
    assert analysis.evidence().overall is Verdict.INCONCLUSIVE
    analysis.end_step(StepOutputs())
    assert analysis.evidence().overall is Verdict.INCONCLUSIVE


def test_psi_is_corrected_for_its_bias_and_bounded_by_buckets() -> None:
    """Buckets of one key each, whose outputs persist: rows alone would make of them a sure difference."""
    draw = np.random.default_rng(11)
    above = 0
    for _ in range(200):
        baseline = draw.multinomial(500, np.full(10, 0.1), size=60)
        canary = np.zeros((BUCKETS, 10), np.int64)
        # All rows of a key are in one bin.
        canary[np.arange(200), draw.integers(10, size=200)] = 50
        found = psi_bounds(canary, baseline, lower_alpha=0.05, upper_alpha=0.05)
        assert found is not None
        above += found.lower > 0
    # The equal distribution is its own border, at which a bound that cannot be below 0 errs less.
    assert above / 200 <= 0.1


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_bounds_of_sign_flips_hold_as_often_as_they_say(share: float) -> None:
    draw = np.random.default_rng(5)
    above, below = 0, 0
    for _ in range(400):
        pairs = np.zeros(BUCKETS, np.int64)
        pairs[:60] = draw.integers(1, 100, size=60)
        rates = draw.beta(2 * share, 2 * (1 - share), size=60) if share else np.zeros(60)
        flips = np.zeros(BUCKETS, np.int64)
        flips[:60] = draw.binomial(pairs[:60], rates)
        found = sign_flips(pairs, flips, lower_alpha=0.05, upper_alpha=0.05)
        assert found is not None
        above += found.lower > share
        below += found.upper < share
    # The lower bound is the one that takes a canary back. Shares of keys that flip always or never are skewed to the
    # right, which costs the upper one.
    assert above / 400 <= 0.05
    assert below / 400 <= 0.20


def test_one_flip_shows_no_less_than_none() -> None:
    pairs, flips = np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.int64)
    pairs[:45] = 100_000
    none = sign_flips(pairs, flips, lower_alpha=0.01, upper_alpha=0.01)
    flips[0] = 1
    one = sign_flips(pairs, flips, lower_alpha=0.01, upper_alpha=0.01)
    every = sign_flips(pairs, pairs, lower_alpha=0.01, upper_alpha=0.01)
    all_but_one = sign_flips(pairs, pairs - flips, lower_alpha=0.01, upper_alpha=0.01)
    assert none is not None
    assert one is not None
    assert one.upper >= none.upper
    assert every is not None
    assert all_but_one is not None
    assert all_but_one.lower <= every.lower


def test_what_was_judged_and_not_decided_says_so() -> None:
    analysis = played(OUTPUTS, window())
    flips = np.zeros(BUCKETS, np.int64)
    flips[:60:2] = 30
    analysis.end_step(replace(outputs(0.0), flips=flips))
    verdict = next(each for each in analysis.evidence().verdicts if each.metric == "sign_flips")
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert "does not decide about 0.15" in verdict.why
    assert "judged once a step" in verdict.why


def test_counts_of_the_page_are_taken_by_their_columns() -> None:
    page = np.zeros((BUCKETS, COLUMNS), np.uint64)
    page[9] = (10, 4, 3, 7, 2, 0, 1, 0)
    found = SideCounts.of_page(page, OVER_EDGE)
    assert [int(getattr(found, name)[9]) for name in ("requests", "answers", "failures", "violations", "slow")] == [
        10,
        6,
        3,
        2,
        1,
    ]
    page[9] = (1, 2, 0, 0, 0, 0, 0, 0)
    assert SideCounts.of_page(page, OVER_EDGE).answers[9] == 0


BAD = st.dictionaries(st.integers(0, BUCKETS - 1), st.integers(1, 9), max_size=30)
SIDES = st.builds(side, st.integers(9, 30), st.integers(0, BUCKETS), failures=BAD, violations=BAD, slow=BAD)
WINDOWS = st.builds(window, st.sampled_from([500, 1_000, 5_000, 7_500]), SIDES, SIDES)


@settings(max_examples=40)
@given(st.lists(WINDOWS, max_size=12), st.integers(0, 12))
def test_evidence_is_the_same_bit_for_bit_after_a_restart(windows: list[WindowCounts], cut: int) -> None:
    whole = played(SPEC, *windows)
    first = played(SPEC, *windows[:cut])
    rest = Analysis.restored(SPEC, json.loads(json.dumps(first.state())))
    for each in windows[cut:]:
        rest.update(each)
    assert json.dumps(rest.evidence().as_dict()) == json.dumps(whole.evidence().as_dict())
    assert rest.state() == whole.state()


@settings(max_examples=40)
@given(st.lists(WINDOWS, max_size=12))
def test_wealth_is_always_a_number_and_a_fail_stays(windows: list[WindowCounts]) -> None:
    analysis, failed = Analysis(SPEC), set[str]()
    for each in windows:
        analysis.update(each)
        for verdict in analysis.evidence().verdicts:
            assert all(math.isfinite(figure) for figure in verdict.figures.values())
            if verdict.verdict is Verdict.FAIL:
                failed.add(verdict.metric)
            assert verdict.metric not in failed or verdict.verdict is Verdict.FAIL
