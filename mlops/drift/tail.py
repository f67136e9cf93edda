"""The tail of a statistic beyond what draws reach: a chi-square with their moments."""

import math
from dataclasses import dataclass

import numpy as np

from mlops.drift.figures import Floats


@dataclass(frozen=True, slots=True)
class Tail:
    """A chi-square of `freedom`, times `scale`, plus `shift`, with the mean, variance and skewness of draws.

    P. B. Patnaik's two moments, where the draws are less skewed than those imply, and E. S. Pearson's three, "Note on
    an approximation to the distribution of non-central chi-square", Biometrika 46, 1959: sums of chi-squares of
    unequal weights have longer tails than their first two moments say.
    """

    scale: float
    freedom: float
    shift: float

    @staticmethod
    def of(drawn: Floats) -> "Tail":
        """Fitted to draws; scale 0 where they do not vary."""
        mean, deviation = float(drawn.mean()), float(drawn.std())
        if not deviation > 0 or not mean > 0:
            return Tail(0.0, 1.0, mean)
        skewness = max(float(((drawn - mean) ** 3).mean()) / deviation**3, 2 * deviation / mean)
        freedom = 8 / skewness**2
        scale = deviation / math.sqrt(2 * freedom)
        return Tail(scale, freedom, mean - scale * freedom)

    def beyond(self, values: Floats) -> Floats:
        """How probable each of these values, or more, is."""
        if not self.scale:
            return np.where(values > self.shift, 0.0, 1.0)
        from scipy.special import chdtrc

        # At and below 0 it is 1; the function itself is defined for more.
        return np.asarray(chdtrc(self.freedom, np.maximum((values - self.shift) / self.scale, 0.0)))

    def quantile(self, tail: float) -> float:
        """What is exceeded with probability `tail`."""
        from scipy.special import chdtri

        return float(self.shift + self.scale * chdtri(self.freedom, tail))
