"""Whether the data that a version sees, and what it answers, have moved away from its package's baseline."""

from mlops.drift.check import check, check_columns
from mlops.drift.monitor import DriftMonitor
from mlops.drift.result import DECISION, STATISTICS, Decision, Figure, Onset, Swap, WindowResult
from mlops.drift.spec import DriftSpec, Thresholds, default_spec

__all__ = [
    "DECISION",
    "STATISTICS",
    "Decision",
    "DriftMonitor",
    "DriftSpec",
    "Figure",
    "Onset",
    "Swap",
    "Thresholds",
    "WindowResult",
    "check",
    "check_columns",
    "default_spec",
]
