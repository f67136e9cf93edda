"""What one sidecar says of one window of one server, and how far it is."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from mlops import histogram
from mlops.rollout.counts import Counts, SideCounts
from mlops.tap.layout import BUCKETS

#: The share of a window in which it changed, or that lies over a gap.
MIXED_SHARE = -1
#: A reporter that has written nothing for this long is taken for gone.
SILENT_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class CountedWindow:
    """One version in one role at one life of one server, from `start_ns` (Unix time) for `window_ns`.

    Parameters
    ----------
    role : int
        1 stable, 2 canary, 3 shadow; 6 answers that a shadow gave too.
    edge_ns : int
        The frozen edge that `slow` was counted by; 0 none. Of roles 3 and 6 it is one of processor time.
    share_bp : int
        The version's share of the keys, of 10,000: the same from before the window to its end. `MIXED_SHARE` otherwise.
    """

    reporter: str
    boot: str
    version: int
    role: int
    edge_ns: int
    start_ns: int
    window_ns: int
    share_bp: int
    counts: SideCounts

    @property
    def end_ns(self) -> int:
        """When it was over."""
        return self.start_ns + self.window_ns


@dataclass(frozen=True, slots=True, eq=False)
class CountedOutputs:
    """What the prediction log holds of the same: of answers that the split or a shadow sent to the version.

    Parameters
    ----------
    bins : int64 (256, cells) or None
        The first output column of the package's baseline by key bucket, in the cells of the baseline's counts, missing
        last. None where the package could not be had, or has no baseline of outputs.
    unbinned : int
        Answers that `bins` lacks.
    total_ns, run_ns : int64 (mlops.histogram.BUCKETS,)
        Histograms of all stages together, and of the model's run. Roles 1 to 3.
    pairs, flips : int64 (256,)
        Role 6: rows that the shadow answered too, by key bucket; those whose signal had the other sign there.
    positions, missed : (int, int)
        First and last place in the sidecar's log, and what that log had lost by then, of any version.
    """

    reporter: str
    boot: str
    version: int
    role: int
    start_ns: int
    window_ns: int
    answers: int
    bins: Counts | None
    unbinned: int
    total_ns: Counts
    run_ns: Counts
    pairs: Counts
    flips: Counts
    positions: tuple[int, int]
    missed: tuple[int, int]

    @property
    def end_ns(self) -> int:
        """When it was over."""
        return self.start_ns + self.window_ns

    def arrays(self) -> dict[str, Counts]:
        """What the row's body holds."""
        found = {name: getattr(self, name) for name in _ARRAYS}
        for name in ("answers", "unbinned", "positions", "missed"):
            found[name] = np.array(getattr(self, name), np.int64)
        return found if self.bins is None else found | {"bins": self.bins}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Counts], key: Mapping[str, Any]) -> "CountedOutputs":
        """What `arrays` gave. Raises ValueError where they are none such."""
        shapes = {name: arrays[name].shape if name in arrays else None for name in (*_ARRAYS, *_SMALL)}
        if shapes != {**_ARRAYS, **_SMALL}:
            raise ValueError(f"arrays of shapes {shapes} are no outputs")
        bins = arrays.get("bins")
        if bins is not None and (bins.ndim != 2 or bins.shape[0] != BUCKETS):
            raise ValueError(f"bins have shape {bins.shape}")
        first, last = arrays["positions"].tolist()
        before, after = arrays["missed"].tolist()
        return cls(
            **key,
            answers=int(arrays["answers"]),
            bins=bins,
            unbinned=int(arrays["unbinned"]),
            total_ns=arrays["total_ns"],
            run_ns=arrays["run_ns"],
            pairs=arrays["pairs"],
            flips=arrays["flips"],
            positions=(first, last),
            missed=(before, after),
        )


_ARRAYS = {
    "total_ns": (histogram.BUCKETS,),
    "run_ns": (histogram.BUCKETS,),
    "pairs": (BUCKETS,),
    "flips": (BUCKETS,),
}
_SMALL = {"answers": (), "unbinned": (), "positions": (2,), "missed": (2,)}


@dataclass(frozen=True, slots=True)
class Reporter:
    """How far a sidecar is with one model at one life of a server.

    Parameters
    ----------
    server : str
        The server's name, as in its reports; empty where it did not say.
    complete_to_ns, outputs_to_ns : int
        Every window that ends by then is written: of counts, of outputs.
    window_ns : int
        The length of the windows that are written now.
    dropped : int
        Records of the tap that never reached this sidecar's log, since that began.
    at : datetime
        When it wrote last, by the database's clock.
    has_ended : bool
        Whether that life of the server is over, and all of it counted.
    """

    reporter: str
    server: str
    boot: str
    complete_to_ns: int
    outputs_to_ns: int
    window_ns: int
    dropped: int
    at: datetime
    has_ended: bool

    def is_silent(self, now: datetime) -> bool:
        """Whether it has written nothing for too long."""
        return now - self.at > SILENT_AFTER


def side_arrays(counts: SideCounts) -> dict[str, Counts]:
    """What the body of a row of counts holds."""
    return {each.name: getattr(counts, each.name) for each in fields(SideCounts)}


def side_of(arrays: dict[str, Counts]) -> SideCounts:
    """What `side_arrays` gave. Raises ValueError where they are none such."""
    wanted = {each.name: (BUCKETS,) for each in fields(SideCounts)}
    if {name: each.shape for name, each in arrays.items()} != wanted:
        raise ValueError(f"arrays {sorted(arrays)} are no counts")
    return SideCounts(**arrays)
