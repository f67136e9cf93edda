"""Student's t distribution, without a library of statistics at run time."""

from statistics import NormalDist


def quantile(p: float, degrees: int) -> float:
    """The quantile at `p` (Abramowitz and Stegun 26.7.5, two terms): within 0.3% of it from 19 degrees on."""
    z, nu = NormalDist().inv_cdf(p), degrees
    return z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
