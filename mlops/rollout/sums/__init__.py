"""Counts of every server's sidecar by window, in the registry's database: what is written, read and added up."""

from mlops.rollout.sums.adding import Side, drop_share, outputs_of, sum_outputs, sum_side, sum_window
from mlops.rollout.sums.read import read_late, read_outputs, read_reporters, read_windows
from mlops.rollout.sums.values import MIXED_SHARE, CountedOutputs, CountedWindow, Reporter

__all__ = [
    "MIXED_SHARE",
    "CountedOutputs",
    "CountedWindow",
    "Reporter",
    "Side",
    "drop_share",
    "outputs_of",
    "read_late",
    "read_outputs",
    "read_reporters",
    "read_windows",
    "sum_outputs",
    "sum_side",
    "sum_window",
]
