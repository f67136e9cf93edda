"""Whose position scale it is."""

import pytest

from mlops.alerts.scale import Decision, Ownership, decide, written


def test_the_smallest_claim_counts_and_nothing_is_raised() -> None:
    assert decide(1.0, None, [0.5, 0.25]) == Decision(0.25, Ownership(1.0, 0.25, 1.0))
    assert decide(0.3, None, [0.5]) == Decision(None, None)
    assert decide(0.8, None, []) == Decision(None, None)


def test_what_was_there_before_comes_back_when_the_last_claim_goes() -> None:
    held = Ownership(0.8, 0.25, 0.8, is_written=True)
    assert decide(0.25, held, [0.5]) == Decision(0.5, Ownership(0.8, 0.5, 0.25))
    assert decide(0.25, held, []) == Decision(0.8, Ownership(0.8, 0.8, 0.25))
    assert decide(0.25, held, [0.9]) == Decision(0.8, Ownership(0.8, 0.8, 0.25))
    assert written(Ownership(0.8, 0.8, 0.25), []) is None


def test_somebody_elses_scale_is_left_alone() -> None:
    held = Ownership(1.0, 0.5, 1.0, is_written=True)
    for theirs in (1.0, 0.0, 0.7):
        assert decide(theirs, held, []).is_overtaken
        assert decide(theirs, held, [0.5]).write is None


@pytest.mark.parametrize("claims", [[], [0.5]])
def test_a_write_that_may_have_happened_is_ours_either_way(claims: list[float]) -> None:
    tried = Ownership(1.0, 0.5, 0.75)
    assert not decide(0.75, tried, claims).is_overtaken
    assert not decide(0.5, tried, claims).is_overtaken
    assert decide(0.6, tried, claims).is_overtaken


def test_a_scale_that_went_through_a_server_is_the_same() -> None:
    import numpy as np

    held = Ownership(1.0, 0.7, 1.0, is_written=True)
    assert not decide(float(np.float32(0.7)), held, [0.7]).is_overtaken
