"""How a refusal leaves over gRPC: status, text and the trailers that say why."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import grpc

from tickserve.errors import TickserveError

Context = grpc.aio.ServicerContext[Any, Any]
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


async def abort(context: Context, error: TickserveError) -> Exception:
    """Ends the call with the error's status. Raises always; `raise await abort(...)` says so to the reader."""
    trailers = [("tickserve-executed", "1" if error.executed else "0")]
    if error.reason is not None:
        trailers.append(("tickserve-reason", error.reason.value))
    if error.field:
        trailers.append(("tickserve-field", quote(error.field)))
    await context.abort(_STATUS[error.code], error.message, tuple(trailers))
    return error
