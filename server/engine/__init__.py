"""Engines execute a plan; two of them pass one conformance suite."""

from server.engine.base import Counters, Engine, Prepared, StageCounts

__all__ = ["Counters", "Engine", "Prepared", "StageCounts"]
