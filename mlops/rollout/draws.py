"""How likely it is that so many of the new bad cells are the canary's: successive draws without replacement.

Whatever makes a key bad under two equal versions, its place (key bucket, and the canary's side or stable's) is drawn by
the hash. So bad keys fall on cells one after another, on a canary's cell with weight s and on a stable one with weight
1 - s where s is the canary's share of the keys; of those that hit a cell not bad before, the next one is the canary's
with probability r n_c / (r n_c + n_s) with n_c = s x (its cells not bad yet) and n_s likewise, under rate ratio r. Over
several draws that is Wallenius' noncentral hypergeometric law (K. T. Wallenius, Biased sampling, Stanford 1963).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Draws after which the law is brought back to a sum of one, long before it could underflow.
_RESCALE = 16


def log_draws(at_risk: tuple[int, int], drawn: tuple[int, int], odds: Floats) -> Floats:
    """Log probability that of `sum(drawn)` draws `drawn[0]` come from the first kind.

    Parameters
    ----------
    at_risk : (int, int)
        Cells of the first and the second kind before the draws.
    drawn : (int, int)
        Cells drawn of each; at most `at_risk`.
    odds : array of float, shape (n,)
        Weight of a cell of the first kind over that of the second; positive.

    Returns
    -------
    array of float, shape (n,)
    """
    first, second = drawn
    if first > at_risk[0] or second > at_risk[1] or min(first, second) < 0:
        raise ValueError(f"{drawn} cannot be drawn of {at_risk}")
    if not first or not second:
        # Draws of one kind have one order.
        sizes = at_risk[0] - np.arange(first), at_risk[1] - np.arange(second)
        ours, theirs = odds[:, None] * (sizes[0] if first else at_risk[0]), sizes[1] if second else at_risk[1]
        return np.asarray(np.log((ours if first else theirs) / (ours + theirs)).sum(axis=1) * bool(first + second))
    # Over the draws so far: the chance of each number of the first kind, of paths that can end at `drawn` only.
    done, numbers = np.arange(first + second)[:, None], np.arange(first + 1)
    others = done - numbers
    is_path = (others >= 0) & (others <= second)
    left = odds[:, None, None] * (at_risk[0] - numbers)
    right = np.where(is_path, at_risk[1] - others, 1)
    takes_first = np.where(is_path & (numbers < first), left / (left + right), 0.0)
    takes_second = np.where(is_path & (others < second), right / (left + right), 0.0)
    law = np.zeros((len(odds), first + 1))
    law[:, 0] = 1.0
    scale = np.zeros(len(odds))
    for draw in range(first + second):
        following = law * takes_second[:, draw]
        following[:, 1:] += law[:, :-1] * takes_first[:, draw, :-1]
        law = following
        if draw % _RESCALE == _RESCALE - 1:
            total = law.sum(axis=1)
            scale += np.log(total)
            law = law / total[:, None]
    return np.asarray(scale + np.log(law[:, first]))
