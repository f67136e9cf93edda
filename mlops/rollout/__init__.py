"""Rollouts that decide by evidence: what is to be done, what the counts say, and what follows; all of it pure."""

from mlops.rollout.analysis import Analysis, Evidence
from mlops.rollout.counts import SideCounts, WindowCounts
from mlops.rollout.guard import LiveFigure
from mlops.rollout.machine import (
    Audit,
    Command,
    Decision,
    DesiredChange,
    Order,
    Phase,
    RolloutState,
    begin,
    decide,
)
from mlops.rollout.metrics import MetricVerdict, Verdict
from mlops.rollout.spec import (
    AnalysisSpec,
    CellRule,
    LatencyRule,
    OutcomeRule,
    OutputRule,
    RolloutSpec,
    Step,
    parse_spec,
    read_spec,
)

__all__ = [
    "Analysis",
    "AnalysisSpec",
    "Audit",
    "CellRule",
    "Command",
    "Decision",
    "DesiredChange",
    "Evidence",
    "LatencyRule",
    "LiveFigure",
    "MetricVerdict",
    "Order",
    "OutcomeRule",
    "OutputRule",
    "Phase",
    "RolloutSpec",
    "RolloutState",
    "SideCounts",
    "Step",
    "Verdict",
    "WindowCounts",
    "begin",
    "decide",
    "parse_spec",
    "read_spec",
]
