"""Whether the data that a version sees, and what it answers, have moved away from its package's baseline."""

from mlops.drift.calibrate import Calibration, ColumnCalibration, Delay, calibrate
from mlops.drift.check import check, check_columns
from mlops.drift.defaults import default_spec
from mlops.drift.monitor import DriftMonitor
from mlops.drift.result import DECISION, STATISTICS, Decision, Figure, Onset, Swap, WindowResult
from mlops.drift.spec import DriftSpec, Thresholds, parse_window
from mlops.drift.state import restore, save

__all__ = [
    "DECISION",
    "STATISTICS",
    "Calibration",
    "ColumnCalibration",
    "Decision",
    "Delay",
    "DriftMonitor",
    "DriftSpec",
    "Figure",
    "Onset",
    "Swap",
    "Thresholds",
    "WindowResult",
    "calibrate",
    "check",
    "check_columns",
    "default_spec",
    "parse_window",
    "restore",
    "save",
]
