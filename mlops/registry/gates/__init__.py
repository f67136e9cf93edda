"""Gates: whether a version may become live, each with the figures it was decided on. Nothing passes by default."""

from mlops.registry.gates.evaluate import evaluate
from mlops.registry.gates.facts import VersionFacts
from mlops.registry.gates.policy import (
    GatePolicy,
    LatencyLevels,
    Minimum,
    NonInferiority,
    defaults_of,
    make_policy,
    read_policy,
)
from mlops.registry.gates.report import GateReport, GateResult, Verdict

__all__ = [
    "GatePolicy",
    "GateReport",
    "GateResult",
    "LatencyLevels",
    "Minimum",
    "NonInferiority",
    "Verdict",
    "VersionFacts",
    "defaults_of",
    "evaluate",
    "make_policy",
    "read_policy",
]
