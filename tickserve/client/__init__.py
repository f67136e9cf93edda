"""Clients of a tickserve server: predictions from the data listener, control from the admin listener."""

from tickserve.client.control import ControlClient
from tickserve.client.counters import Counter, Counters, StageHistogram
from tickserve.client.features import Features, Table
from tickserve.client.options import Request, RequestOptions
from tickserve.client.status import (
    Change,
    DesiredState,
    Event,
    FailedChange,
    Halt,
    ModelState,
    ModelStatus,
    Override,
    RolledBack,
    ServerState,
    ServerStatus,
    Shadow,
    Share,
    VersionStatus,
)
from tickserve.client.stream import Stream
from tickserve.client.sync import Client
from tickserve.client.transport import Tls

__all__ = [
    "Change",
    "Client",
    "ControlClient",
    "Counter",
    "Counters",
    "DesiredState",
    "Event",
    "FailedChange",
    "Features",
    "Halt",
    "ModelState",
    "ModelStatus",
    "Override",
    "Request",
    "RequestOptions",
    "RolledBack",
    "ServerState",
    "ServerStatus",
    "Shadow",
    "Share",
    "StageHistogram",
    "Stream",
    "Table",
    "Tls",
    "VersionStatus",
]
