"""Evidence from bad cells: a cell is one key bucket of one side, bad where at least one of its requests was.

Whether more of them are the canary's than its share explains is a question about keys, not requests: keys are sticky,
differ in traffic and in how often they fail, and fail in bursts. So a cell counts once, however often it is bad.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.rollout.draws import log_draws
from mlops.rollout.wealth import log_mean
from mlops.routing import WHOLE_BP
from mlops.tap.layout import BUCKETS

Flags = NDArray[np.bool_]
#: Alternatives over the ratio of the hypothesis, equally weighted.
RATIOS = np.array([1.5, 2.0, 3.0, 5.0, 10.0, 30.0])
#: Windows between two starts.
RESTART_WINDOWS = 30
#: Starts that go on; older ones keep what they have, as stopped processes may.
_MOST_RUNNING = 16


class CanaryNotWorse:
    """Evidence against "the canary's keys go bad at most `ratio` times as often as stable's".

    Each start counts every cell at its first bad window after it, by the law of `draws`; under equal versions that is
    exact for keys of any traffic, any proneness and any bursts, because only the hash decides who gets them. A new
    start every `restart_windows` windows, and at each change of shares, keeps it able to see what begins late. Start j
    has the part 1 / (j (j + 1)) of the one alpha, and the best of them counts: a key that is bad all the time helps or
    hurts every start alike, so their wealths may not be added up.

    Parameters
    ----------
    ratio : float
        The largest ratio that is not worse.
    restart_windows : int
        Windows between two starts.
    """

    def __init__(self, *, ratio: float = 1.0, restart_windows: int = RESTART_WINDOWS) -> None:
        self._ratio = ratio
        self._share_bp = -1
        self._starts = _Starts(restart_windows)

    def update(self, canary: Flags, stable: Flags, share_bp: int) -> None:
        """Takes a window.

        Parameters
        ----------
        canary, stable : array of bool, shape (256,)
            Whether anything was bad in each key bucket.
        share_bp : int
            The canary's share of the keys, in 1/10,000.
        """
        if share_bp != self._share_bp:
            self._starts.move()
            self._share_bp = share_bp
        running = self._starts.next_window()
        if not 0 < share_bp < WHOLE_BP:
            # One side has every key: there is nothing to be compared.
            return
        odds = share_bp / (WHOLE_BP - share_bp) * self._ratio
        for start in running:
            if 2 * share_bp <= WHOLE_BP:
                start.draw(canary, stable, odds)
            else:
                start.choose(canary, stable, odds)

    @property
    def log_wealth(self) -> float:
        """Log of the evidence; 0 or less is none."""
        return self._starts.log_wealth

    def state(self) -> dict[str, Any]:
        """As JSON has it; floats keep every bit there."""
        return {"share_bp": self._share_bp} | self._starts.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state()` of the same parameters."""
        self._share_bp = state["share_bp"]
        self._starts.restore(state)


class _Starts:
    """Starts, every so many windows. Invariant: start j has the part 1 / (j (j + 1)) of alpha, stopped or not."""

    def __init__(self, restart_windows: int) -> None:
        self._restart = restart_windows
        self._windows = 0
        self._running: list[_Start] = []
        self._stopped: list[float] = []

    def next_window(self) -> list["_Start"]:
        """Those that take the next window."""
        if not self._running or self._windows >= self._restart:
            self._begin()
        self._windows += 1
        return self._running

    def move(self) -> None:
        """Keys change sides: another start, and those before forget buckets that were bad."""
        for start in self._running:
            start.forget_moved()
        self._begin()

    @property
    def log_wealth(self) -> float:
        """Of the best one, less its part of alpha: one broken key helps all of them alike, so they are not added up."""
        logs = [*self._stopped, *(start.log_wealth for start in self._running)]
        return max((log - math.log(number * (number + 1)) for number, log in enumerate(logs, 1)), default=0.0)

    def state(self) -> dict[str, Any]:
        return {
            "windows": self._windows,
            "running": [start.state() for start in self._running],
            "stopped": list(self._stopped),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._windows = state["windows"]
        self._running = [_Start.restored(each) for each in state["running"]]
        self._stopped = list(state["stopped"])

    def _begin(self) -> None:
        self._running.append(_Start())
        while len(self._running) > _MOST_RUNNING:
            self._stopped.append(self._running.pop(0).log_wealth)
        self._windows = 0


class _Start:
    """Bad cells since one moment. Invariant: what is at risk was not bad since, and holds no key that was."""

    def __init__(self) -> None:
        self._canary = np.ones(BUCKETS, bool)
        self._stable = np.ones(BUCKETS, bool)
        self._logs = np.zeros(len(RATIOS))
        #: Log of the evidence since then.
        self.log_wealth = 0.0

    def draw(self, canary: Flags, stable: Flags, odds: float) -> None:
        """Takes a window of a canary with at most half of the keys.

        Keys that are bad in one window may be in one cell. That is likelier in the cells of the side with more keys, so
        with a smaller canary it only makes fewer of the cells the canary's.
        """
        ours, theirs = canary & self._canary, stable & self._stable
        drawn = int(ours.sum()), int(theirs.sum())
        if sum(drawn):
            at_risk = int(self._canary.sum()), int(self._stable.sum())
            logs = log_draws(at_risk, drawn, odds * np.append(RATIOS, 1.0))
            self._add(logs[:-1] - logs[-1])
            self._remove(ours, theirs)

    def choose(self, canary: Flags, stable: Flags, odds: float) -> None:
        """Takes a window of a canary with more than half of the keys: each bucket counts once, at its first bad window.

        All that was bad in it then is the canary's alone with at most the chance of one key, however many they were.
        """
        clean = self._canary & self._stable
        ours, theirs = int((clean & canary & ~stable).sum()), int((clean & stable).sum())
        chance, null = odds * RATIOS / (1 + odds * RATIOS), odds / (1 + odds)
        if ours or theirs:
            self._add(ours * np.log(chance / null) + theirs * np.log((1 - chance) / (1 - null)))
        self._remove(canary, stable)

    def pair(self, canary: Flags, stable: Flags, odds: float) -> None:
        """Takes a window of the same requests on both sides: a bucket counts once, where first one side alone is bad.

        What was bad on both is the input's doing, and says nothing.
        """
        clean = self._canary & self._stable
        ours, theirs = clean & canary & ~stable, clean & stable & ~canary
        chance, null = odds * RATIOS / (1 + odds * RATIOS), odds / (1 + odds)
        if ours.any() or theirs.any():
            self._add(int(ours.sum()) * np.log(chance / null) + int(theirs.sum()) * np.log((1 - chance) / (1 - null)))
        self._remove(ours, theirs)

    def _add(self, logs: NDArray[np.float64]) -> None:
        self._logs = self._logs + logs
        self.log_wealth = log_mean(self._logs)

    def _remove(self, canary: Flags, stable: Flags) -> None:
        self._canary = self._canary & ~canary
        self._stable = self._stable & ~stable

    def forget_moved(self) -> None:
        """Keys that change sides may have been bad on the other one: only buckets without any are left at risk."""
        self._canary = self._stable = self._canary & self._stable

    def state(self) -> dict[str, Any]:
        return {
            "canary": np.flatnonzero(self._canary).tolist(),
            "stable": np.flatnonzero(self._stable).tolist(),
            "logs": self._logs.tolist(),
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "_Start":
        found = cls()
        for name in ("canary", "stable"):
            flags = np.zeros(BUCKETS, bool)
            flags[state[name]] = True
            setattr(found, f"_{name}", flags)
        found._logs = np.array(state["logs"], np.float64)
        found.log_wealth = log_mean(found._logs)
        return found


class PairedNotWorse:
    """Evidence against "of cells bad on one side alone, the canary has more", where both sides saw the same requests.

    A cell that is bad on both sides is the input's doing. Of the others each is the canary's with probability
    r / (1 + r) under rate ratio r, and counts once after each start: which of two equal versions fails on what a key
    asks is chance, but where that key asks the same again it fails again.
    """

    def __init__(self, *, ratio: float = 1.0, restart_windows: int = RESTART_WINDOWS) -> None:
        self._ratio = ratio
        self._starts = _Starts(restart_windows)

    def update(self, canary: Flags, stable: Flags) -> None:
        """Takes a window: whether anything was bad in each key bucket, shape (256,), on the same requests."""
        for start in self._starts.next_window():
            start.pair(canary, stable, self._ratio)

    @property
    def log_wealth(self) -> float:
        """Log of the evidence; 0 or less is none."""
        return self._starts.log_wealth

    def state(self) -> dict[str, Any]:
        """As JSON has it; floats keep every bit there."""
        return self._starts.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state()` of the same parameters."""
        self._starts.restore(state)


class RatioAtLeast:
    """Evidence against "the canary's cells are bad at least `margin` times as often as stable's".

    Every bad cell of every window is the canary's with probability m n_c / (m n_c + n_s). The exposures n are the keys'
    share, the requests, or the requests of each cell up to a cap, whichever gives the canary the least: bad cells come
    one a key, one a request, or anything between.

    Parameters
    ----------
    margin : float
        The ratio m from which the canary is too bad.
    """

    #: Of a cell's requests.
    _CAPS = np.append(2.0 ** np.arange(0, 12, 2), np.inf)

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self._logs = np.zeros(len(RATIOS))

    def update(
        self,
        canary: tuple[Flags, NDArray[np.int64]],
        stable: tuple[Flags, NDArray[np.int64]],
        share_bp: int,
    ) -> None:
        """Takes a window: of each side whether anything was bad and the requests, by key bucket, shape (256,)."""
        bad = int(canary[0].sum()), int(stable[0].sum())
        if 4 * bad[1] > int((stable[1] > 0).sum()):
            # Where so many cells are bad anyway, twice as bad a version has not twice as many of them.
            return
        if not sum(bad) or not 0 < share_bp < WHOLE_BP or not canary[1].any() or not stable[1].any():
            return
        caps = self._CAPS[:, None]
        exposures = (np.minimum(canary[1], caps).sum(axis=1) / np.minimum(stable[1], caps).sum(axis=1)).min()
        odds = min(float(exposures), share_bp / (WHOLE_BP - share_bp)) * self._margin
        chance = odds / RATIOS / (1 + odds / RATIOS)
        null = odds / (1 + odds)
        self._logs = self._logs + bad[0] * np.log(chance / null) + bad[1] * np.log((1 - chance) / (1 - null))

    @property
    def log_wealth(self) -> float:
        """Log of the evidence; 0 is none."""
        return log_mean(self._logs)

    def state(self) -> dict[str, Any]:
        """As JSON has it; floats keep every bit there."""
        return {"logs": self._logs.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state()` of the same parameters."""
        self._logs = np.array(state["logs"], np.float64)
