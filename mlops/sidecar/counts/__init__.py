"""The counts of this machine's servers by window, written where those of all machines are added up."""

from mlops.sidecar.counts.consumer import CountsConsumer

__all__ = ["CountsConsumer"]
