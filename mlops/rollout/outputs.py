"""How far a canary's outputs lie from what they should be, with bounds that take the key bucket as the unit.

Looked at at step ends only: retrained models differ, and only how much they differ decides.
"""

import math
from dataclasses import dataclass

import numpy as np

from mlops.rollout.counts import Counts
from mlops.statistics.shares import psi_of, smoothed

#: Under so many key buckets nothing is said.
MIN_BUCKETS = 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """A figure with its one-sided bounds; None where there is too little to say."""

    value: float
    lower: float
    upper: float
    buckets: int


def sign_flips(pairs: Counts, flips: Counts, lower_alpha: float, upper_alpha: float) -> Bounds | None:
    """The share of paired answers whose signal has the other sign than stable's on the same inputs.

    Parameters
    ----------
    pairs, flips : array of int, shape (256,)
        By key bucket: pairs seen, and those of another sign.
    lower_alpha, upper_alpha : float
        Of each bound.
    """
    live = pairs > 0
    buckets, total = int(live.sum()), int(pairs.sum())
    if buckets < MIN_BUCKETS:
        return None
    share = float(flips.sum()) / total
    # The ratio estimator's variance with buckets as clusters (Cochran, Sampling Techniques, 6.13). Where nearly all of
    # them agree it is next to 0, and the rule of three over buckets is what can be said.
    spread = flips[live] - share * pairs[live]
    error = math.sqrt(buckets / (buckets - 1) * float((spread**2).sum())) / total
    lower = min(share - _reach(lower_alpha, buckets) * error, 1 - least_share(lower_alpha, buckets))
    upper = max(share + _reach(upper_alpha, buckets) * error, least_share(upper_alpha, buckets))
    return Bounds(share, max(0.0, lower), min(1.0, upper), buckets)


def least_share(alpha: float, buckets: float) -> float:
    """The smallest upper bound that so many key buckets can give, of which none has a flip: the rule of three."""
    return -math.log(alpha) / buckets


def psi_bounds(canary: Counts, baseline: Counts, lower_alpha: float, upper_alpha: float) -> Bounds | None:
    """The canary's PSI against its own baseline, corrected for its bias by the jackknife over buckets and over blocks.

    Parameters
    ----------
    canary : array of int, shape (256, bins)
        Counts of one output by key bucket and bin.
    baseline : array of int, shape (blocks, bins)
        The package's counts by time-ordered block.
    lower_alpha, upper_alpha : float
        Of each bound.
    """
    canary, baseline = canary[canary.sum(axis=1) > 0], baseline[baseline.sum(axis=1) > 0]
    if len(canary) < MIN_BUCKETS or len(baseline) < MIN_BUCKETS:
        return None
    window, reference = canary.sum(axis=0), baseline.sum(axis=0)
    value = _psi(reference, window)
    without_bucket = np.array([_psi(reference, window - each) for each in canary])
    without_block = np.array([_psi(reference - each, window) for each in baseline])
    bias = sum((len(each) - 1) * (float(each.mean()) - value) for each in (without_bucket, without_block))
    variance = sum(
        (len(each) - 1) / len(each) * float(((each - each.mean()) ** 2).sum())
        for each in (without_bucket, without_block)
    )
    corrected = max(0.0, value - bias)
    error, n = math.sqrt(variance), min(len(canary), len(baseline))
    lower = max(0.0, corrected - _reach(lower_alpha, n) * error)
    return Bounds(corrected, lower, corrected + _reach(upper_alpha, n) * error, len(canary))


def _psi(reference: Counts, window: Counts) -> float:
    shares = smoothed(reference, window)
    # A side of so many buckets has rows, without one of them too.
    return 0.0 if shares is None else float(psi_of(*shares))


def _reach(alpha: float, n: int) -> float:
    """Student's t with n - 1 degrees of freedom, upper quantile."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 1 - alpha))
