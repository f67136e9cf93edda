"""The registry: what exists, what may serve, who said so, and proof.

`open_registry` opens the one of TICKSERVE_HOME; `Client` is for notebooks.
"""

from mlops.registry.client import Client, LoadedModel
from mlops.registry.gates import GatePolicy, GateReport
from mlops.registry.journal import Author, default_actor
from mlops.registry.opening import open_registry
from mlops.registry.promotion import GateError
from mlops.registry.register import Registration
from mlops.registry.registry import Registry
from mlops.registry.servers import ServerEvent
from mlops.registry.values import (
    AllowedPin,
    Approval,
    Change,
    Desired,
    DesiredState,
    GateEvaluation,
    HaltEntry,
    MetricRow,
    Model,
    ModelFacts,
    RuleOverride,
    Run,
    RunFacts,
    Served,
    Shadow,
    Share,
    SplitSegment,
    Status,
    Version,
)

__all__ = [
    "AllowedPin",
    "Approval",
    "Author",
    "Change",
    "Client",
    "Desired",
    "DesiredState",
    "GateError",
    "GateEvaluation",
    "GatePolicy",
    "GateReport",
    "HaltEntry",
    "LoadedModel",
    "MetricRow",
    "Model",
    "ModelFacts",
    "Registration",
    "Registry",
    "RuleOverride",
    "Run",
    "RunFacts",
    "Served",
    "ServerEvent",
    "Shadow",
    "Share",
    "SplitSegment",
    "Status",
    "Version",
    "default_actor",
    "open_registry",
]
