"""How a refusal leaves over gRPC: status, text and the trailers that say why."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import grpc

from server.engine.status import grpc_status
from tickserve.errors import TickserveError

Context = grpc.aio.ServicerContext[Any, Any]


async def abort(context: Context, error: TickserveError) -> Exception:
    """Ends the call with the error's status. Raises always; `raise await abort(...)` says so to the reader."""
    trailers = [("tickserve-executed", "1" if error.executed else "0")]
    if error.reason is not None:
        trailers.append(("tickserve-reason", error.reason.value))
    if error.field:
        trailers.append(("tickserve-field", quote(error.field)))
    await context.abort(grpc_status(error), error.message, tuple(trailers))
    return error
