"""tickserve: a low-latency model server for trading. This package is the front door: client, errors, command line."""

from typing import TYPE_CHECKING

from tickserve import errors
from tickserve.errors import PredictionError, TickserveError

if TYPE_CHECKING:
    from tickserve import aio
    from tickserve.client import Client, ControlClient, Request, Stream, Tls
    from tickserve.prediction import Finding, ModelInfo, Prediction

    __version__: str
else:

    def __getattr__(name: str) -> object:
        # The command line and the server's children import this package for one module: numpy and grpc can wait.
        if name == "aio":
            # Importing the submodule makes it an attribute, so this is reached once.
            from importlib import import_module

            return import_module("tickserve.aio")
        if name in {"Client", "ControlClient", "Request", "Stream", "Tls"}:
            from tickserve import client as home
        elif name in {"Finding", "ModelInfo", "Prediction"}:
            from tickserve import prediction as home
        elif name == "__version__":
            from importlib.metadata import version

            return version("tickserve")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(home, name)


__all__ = [
    "Client",
    "ControlClient",
    "Finding",
    "ModelInfo",
    "Prediction",
    "PredictionError",
    "Request",
    "Stream",
    "TickserveError",
    "Tls",
    "__version__",
    "aio",
    "errors",
]
