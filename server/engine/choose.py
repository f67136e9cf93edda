"""Which engine serves: the one asked for, or the native one where it can be had."""

from typing import Any

import structlog

from server.config import Settings
from server.engine.base import Engine
from server.engine.native import NativeEngine
from server.engine.python import PythonEngine
from tickserve.errors import ConfigurationError
from tickserve.listening.tls import Certificates

_log = structlog.get_logger()


def choose_engine(settings: Settings, certificates: Certificates | None) -> Engine:
    """The engine that the settings and this machine allow; says in one line which and why.

    Raises ConfigurationError where the native one is asked for by name and cannot be had.
    """
    common = _common(settings, certificates)
    engine: Engine
    if settings.engine == "python":
        engine, why = PythonEngine(settings.listen, **common), "as asked"
    elif settings.engine == "native":
        engine, why = _native(settings, common), "as asked"
    else:
        try:
            engine, why = _native(settings, common), "it is installed and speaks this server's plan format"
        except ConfigurationError as error:
            engine, why = PythonEngine(settings.listen, **common), error.message.removeprefix("engine: ")
    _log.info("engine", engine=engine.name, why=why)
    return engine


def _native(settings: Settings, common: dict[str, Any]) -> NativeEngine:
    return NativeEngine(settings.listen, workers=settings.workers, cpus=settings.cpus, **common)


def _common(settings: Settings, certificates: Certificates | None) -> dict[str, Any]:
    return {
        "pool_threads": settings.pool_threads,
        "max_in_flight": settings.max_in_flight,
        "max_in_flight_per_client": settings.max_in_flight_per_client or settings.max_in_flight,
        "max_message_bytes": settings.max_message_bytes,
        "shadows": settings.shadow_bounds(),
        "connections": settings.connection_bounds(),
        "socket_mode": int(settings.socket_mode, 8),
        "certificates": certificates,
    }
