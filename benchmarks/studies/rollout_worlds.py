"""Simulated rollouts: keys of unequal traffic and proneness, bursts of one and of all, a canary that may be bad."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops.rollout import SideCounts, WindowCounts
from mlops.tap.layout import BUCKETS

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """How keys ask and fail, whatever version answers.

    `requests` is the mean of all keys in one window; a key's part falls as one over its rank. `spread` is the standard
    deviation of the log of a key's proneness.
    """

    keys: int = 500
    windows: int = 120
    requests: float = 2_000.0
    error_rate: float = 5e-4
    violation_rate: float = 5e-3
    slow_rate: float = 0.01
    spread: float = 1.0
    key_bursts: float = 0.002
    common_bursts: float = 0.03
    broken_keys: int = 2


@dataclass(frozen=True)
class Canary:
    """What the canary does beyond stable: adds to the chance of each, or multiplies it."""

    errors: float = 0.0
    violations: float = 0.0
    slow: float = 0.0
    ratio: float = 1.0
    from_window: int = 0


EQUAL = Canary()


def shares_bp(first: float, windows: int) -> list[int]:
    """Half of the time at a share, then at three times that, at most 50%; in 1/10,000."""
    second = min(0.5, 3 * first)
    return [round(10_000 * (first if 2 * window < windows else second)) for window in range(windows)]


def play(draw: np.random.Generator, world: World, canary: Canary, shares: list[int]) -> Iterator[WindowCounts]:
    """The windows of one rollout."""
    return (window for window, _ in play_shadowed(draw, world, canary, shares))


def play_shadowed(
    draw: np.random.Generator, world: World, canary: Canary, shares: list[int]
) -> Iterator[tuple[WindowCounts, SideCounts]]:
    """The windows of one rollout, each with what stable's shadow makes of the canary's requests."""
    place, bucket = draw.random(world.keys), draw.integers(BUCKETS, size=world.keys)
    traffic = 1 / np.arange(1, world.keys + 1)
    asked = draw.poisson(world.requests * (traffic / traffic.sum())[:, None], (world.keys, world.windows))
    is_canary = place[:, None] * 10_000 < np.array(shares)[None, :]
    is_on = is_canary & (np.arange(world.windows) >= canary.from_window)
    # A few keys are broken on any version: every request of theirs is against a rule.
    broken = np.zeros((world.keys, 1))
    broken[draw.choice(world.keys, world.broken_keys, replace=False)] = 1.0
    errors, error = _bad(draw, world, asked, world.error_rate, is_on, canary.errors, canary.ratio)
    violations, violation = _bad(
        draw, world, asked, world.violation_rate, is_on, canary.violations, canary.ratio, broken
    )
    slow, _ = _bad(draw, world, asked, world.slow_rate, is_on, canary.slow, 1.0)
    answers = asked - errors
    kinds = (asked, answers, errors, np.minimum(violations, answers), slow)
    # One place for each window, side and bucket.
    at = (np.arange(world.windows) * 2 + ~is_canary) * BUCKETS + bucket[:, None]
    size = world.windows * 2 * BUCKETS
    summed = [np.bincount(at.ravel(), weights=each.ravel(), minlength=size).astype(np.int64) for each in kinds]
    sides = np.stack(summed).reshape(len(kinds), world.windows, 2, BUCKETS)
    shadow = _shadow(draw, world, asked * is_canary, error, violation, bucket)
    for window, share_bp in enumerate(shares):
        counts = WindowCounts(share_bp, SideCounts(*sides[:, window, 0]), SideCounts(*sides[:, window, 1]))
        yield counts, SideCounts(*shadow[:, window])


def _shadow(
    draw: np.random.Generator, world: World, asked: Counts, error: Floats, violation: Floats, bucket: Counts
) -> Counts:
    """What stable's chances make of the canary's requests, shape (5, windows, 256)."""
    errors, violations = draw.binomial(asked, error), draw.binomial(asked, violation)
    answers = asked - errors
    kinds = (asked, answers, errors, np.minimum(violations, answers), np.zeros_like(asked))
    at, size = np.arange(world.windows) * BUCKETS + bucket[:, None], world.windows * BUCKETS
    summed = [np.bincount(at.ravel(), weights=each.ravel(), minlength=size).astype(np.int64) for each in kinds]
    return np.stack(summed).reshape(len(kinds), world.windows, BUCKETS)


def _bad(
    draw: np.random.Generator,
    world: World,
    asked: Counts,
    rate: float,
    is_on: NDArray[np.bool_],
    added: float,
    ratio: float,
    broken: Floats | float = 0.0,
) -> tuple[Counts, Floats]:
    """Bad requests by key and window, and the chance that each has with stable."""
    proneness = np.exp(world.spread * draw.normal(size=(world.keys, 1)) - world.spread**2 / 2)
    # A burst of one key makes half of its requests bad for some windows, one of all keys every fifth.
    own = runs(draw, (world.keys, world.windows), world.key_bursts)
    common = runs(draw, (1, world.windows), world.common_bursts)
    chance = np.maximum(np.maximum(rate * proneness, 0.5 * own), np.maximum(0.2 * common, broken))
    chance = np.minimum(1.0, chance)
    return draw.binomial(asked, np.where(is_on, np.minimum(1.0, chance * ratio + added), chance)), chance


def runs(draw: np.random.Generator, shape: tuple[int, int], begins: float) -> NDArray[np.bool_]:
    """Runs of three windows that begin with a chance."""
    starts = draw.random(shape) < begins
    found = starts.copy()
    for later in (1, 2):
        found[:, later:] |= starts[:, :-later]
    return found
