"""Structured logs on standard error: one event a line, as JSON or for a terminal. Never on the hot path."""

import contextlib
import sys
from typing import Literal

import structlog


def configure_log(form: Literal["json", "console"]) -> None:
    """Sets the form of every log line of this process."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=16)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )


class _Lines:
    """Writes lines to standard error; a full disk or a reader that is gone loses the line and nothing else."""

    def msg(self, message: str) -> None:
        """Writes one line."""
        with contextlib.suppress(OSError, ValueError):
            print(message, file=sys.stderr, flush=True)

    log = debug = info = warning = error = critical = exception = msg
