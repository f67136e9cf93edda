"""Desired models to warmed ones: where versions come from, and how the installed plan is brought to them."""

from server.models.breaker import BreakerLimits
from server.models.cache import PackageCache
from server.models.directory import DirectorySource
from server.models.events import Event, EventLog
from server.models.guard import Guard
from server.models.loading import Loader, ThreadLoader
from server.models.local import LocalState, Mark, Overrides
from server.models.memory import Memory
from server.models.operations import Operations
from server.models.policy import VersionPolicy, parse_policy
from server.models.reconciler import Reconciler
from server.models.records import FailedChange, ModelRecord, Snapshot
from server.models.rows import DesiredRows
from server.models.served import ServedFile
from server.models.settling import Settling
from server.models.source import Source
from server.models.trials import Trials
from server.models.values import Desired, ModelDesired, RuleChange, ShadowShare, Share, Target, VersionRef

__all__ = [
    "BreakerLimits",
    "Desired",
    "DesiredRows",
    "DirectorySource",
    "Event",
    "EventLog",
    "FailedChange",
    "Guard",
    "Loader",
    "LocalState",
    "Mark",
    "Memory",
    "ModelDesired",
    "ModelRecord",
    "Operations",
    "Overrides",
    "PackageCache",
    "Reconciler",
    "RuleChange",
    "ServedFile",
    "Settling",
    "ShadowShare",
    "Share",
    "Snapshot",
    "Source",
    "Target",
    "ThreadLoader",
    "Trials",
    "VersionPolicy",
    "VersionRef",
    "parse_policy",
]
