"""Desired models to warmed ones: where versions come from, and how the installed plan is brought to them."""

from server.models.desired import DesiredFile
from server.models.directory import DirectorySource
from server.models.reconciler import FailedChange, ModelRecord, Reconciler, Snapshot
from server.models.settling import Settling

__all__ = ["DesiredFile", "DirectorySource", "FailedChange", "ModelRecord", "Reconciler", "Settling", "Snapshot"]
