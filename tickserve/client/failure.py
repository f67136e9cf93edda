"""From a call that failed to the exception that a caller can act on."""

from urllib.parse import unquote

from tickserve.client.transport import CallError
from tickserve.errors import (
    BY_REASON,
    Code,
    ControlError,
    DeadlineError,
    StatusError,
    TickserveError,
    UnreachableError,
)

REASON_KEY = "tickserve-reason"
EXECUTED_KEY = "tickserve-executed"
FIELD_KEY = "tickserve-field"

_BY_NAME = {str(reason): error for reason, error in BY_REASON.items()}


def is_unexecuted(failed: CallError) -> bool:
    """Whether the model certainly did not run: the server says so, or cannot have seen the request."""
    return failed.never_left or failed.trailers.get(EXECUTED_KEY) == "0"


def prediction_error(failed: CallError, *, address: str) -> TickserveError:
    """The exception for a failed call of the Prediction service.

    `executed` is False only where the server says so or the request never left: whoever has to know whether a retry
    may count twice needs the doubt, too.
    """
    error = _without_executed(failed, address)
    error.executed = not is_unexecuted(failed)
    return error


def control_error(failed: CallError, *, address: str) -> TickserveError:
    """The exception for a failed call of the Control service."""
    is_refused = REASON_KEY in failed.trailers or FIELD_KEY in failed.trailers
    if not is_refused and failed.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
        return UnreachableError(
            f"no server answered at the admin listener {address} ({failed.message}); "
            "is it running, and with this TICKSERVE_HOME?"
        )
    return ControlError(failed.message, code=failed.code, field=_field(failed))


def _without_executed(failed: CallError, address: str) -> TickserveError:
    refused = _BY_NAME.get(failed.trailers.get(REASON_KEY, ""))
    if refused is not None:
        return refused(failed.message, field=_field(failed))
    match failed.code:
        case Code.UNAVAILABLE if failed.never_left:
            return UnreachableError(
                f"no server answered at {address} ({failed.message}); is it running there? `tickserve serve` starts one"
            )
        case Code.UNAVAILABLE:
            return UnreachableError(f"the connection to {address} broke before an answer came ({failed.message})")
        case Code.DEADLINE_EXCEEDED:
            return DeadlineError(f"no answer came from {address} before the deadline ({failed.message})")
        case code:
            return StatusError(f"{address} answered {code.name}: {failed.message}", code=code)


def _field(failed: CallError) -> str:
    return unquote(failed.trailers.get(FIELD_KEY, ""))
