"""The one exception tree: what a server refuses with, and what a client raises.

Every exception has a gRPC status code; a refusal of a prediction also has a reason from the closed list of
`tickserve.v1.Reason`, and says whether the model ran.
"""

from enum import IntEnum, StrEnum
from typing import ClassVar


class Code(IntEnum):
    """gRPC status codes, by their numbers on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Reason(StrEnum):
    """Why a prediction was refused; the names of `tickserve.v1.Reason` without their prefix."""

    OVERLOADED = "OVERLOADED"
    RATE_LIMITED = "RATE_LIMITED"
    DRAINING = "DRAINING"
    LOADING = "LOADING"
    HALTED = "HALTED"
    STALE_INPUT = "STALE_INPUT"
    OUTPUT_RULE = "OUTPUT_RULE"
    FEATURES_CHANGED = "FEATURES_CHANGED"
    PIN_REFUSED = "PIN_REFUSED"
    INVALID_INPUT = "INVALID_INPUT"
    NOT_FOUND = "NOT_FOUND"
    DEADLINE = "DEADLINE"
    INTERNAL = "INTERNAL"


class TickserveError(Exception):
    """Anything that tickserve refuses or fails at.

    Parameters
    ----------
    message : str
        What was wrong, what was expected, what to do.
    field : str
        The request field, tensor, setting or file at fault; may be empty.
    request_id : str
        The request refused, where there is one.
    executed : bool
        True where the model ran, so that a retry may count twice.
    """

    code: Code = Code.UNKNOWN
    reason: ClassVar[Reason | None] = None

    def __init__(self, message: str, *, field: str = "", request_id: str = "", executed: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.request_id = request_id
        self.executed = executed


class PredictionError(TickserveError):
    """A prediction was refused; `reason` says why."""


class OverloadedError(PredictionError):
    """A bound on requests in flight or on waiting time was exceeded."""

    code = Code.RESOURCE_EXHAUSTED
    reason = Reason.OVERLOADED


class RateLimitedError(PredictionError):
    """This client is over its own bound."""

    code = Code.RESOURCE_EXHAUSTED
    reason = Reason.RATE_LIMITED


class DrainingError(PredictionError):
    """The server is going away."""

    code = Code.UNAVAILABLE
    reason = Reason.DRAINING


class LoadingError(PredictionError):
    """The model is known but not warmed yet."""

    code = Code.UNAVAILABLE
    reason = Reason.LOADING


class HaltedError(PredictionError):
    """The model was stopped on purpose."""

    code = Code.FAILED_PRECONDITION
    reason = Reason.HALTED


class StaleInputError(PredictionError):
    """The event time is absent, too old or in the future."""

    code = Code.FAILED_PRECONDITION
    reason = Reason.STALE_INPUT


class OutputRuleError(PredictionError):
    """The model's output broke a rule and is withheld."""

    code = Code.INTERNAL
    reason = Reason.OUTPUT_RULE


class FeaturesChangedError(PredictionError):
    """The caller's feature order is not that of the version that would answer."""

    code = Code.FAILED_PRECONDITION
    reason = Reason.FEATURES_CHANGED


class PinRefusedError(PredictionError):
    """The pinned version exists but may not be pinned now."""

    code = Code.FAILED_PRECONDITION
    reason = Reason.PIN_REFUSED


class InvalidInputError(PredictionError):
    """The request itself is wrong; `field` names the place."""

    code = Code.INVALID_ARGUMENT
    reason = Reason.INVALID_INPUT


class NotFoundError(PredictionError):
    """No such model, or no such version of it here."""

    code = Code.NOT_FOUND
    reason = Reason.NOT_FOUND


class DeadlineError(PredictionError):
    """The deadline passed."""

    code = Code.DEADLINE_EXCEEDED
    reason = Reason.DEADLINE


class InternalError(PredictionError):
    """A fault of the server."""

    code = Code.INTERNAL
    reason = Reason.INTERNAL


class UnreachableError(TickserveError):
    """No server answered at the address, or what is needed cannot be used now."""

    code = Code.UNAVAILABLE


class StatusError(TickserveError):
    """The call failed with a status that carries no reason of ours."""

    def __init__(self, message: str, *, code: Code) -> None:
        super().__init__(message)
        self.code = code


class ConfigurationError(TickserveError):
    """A setting is wrong; `field` names it."""

    code = Code.INVALID_ARGUMENT


class ControlError(TickserveError):
    """A control call was refused, with the status of its cause."""

    def __init__(self, message: str, *, code: Code, field: str = "") -> None:
        super().__init__(message, field=field)
        self.code = code


class PackageError(TickserveError):
    """A model package cannot be read, trusted or loaded; `field` names the file or manifest entry."""

    code = Code.FAILED_PRECONDITION


class DamagedPackageError(PackageError):
    """A file of a package is not the one that its manifest names."""

    code = Code.DATA_LOSS


class RegistryError(TickserveError):
    """The registry refuses: an illegal transition, a value that it does not take, or something that is in use."""

    code = Code.FAILED_PRECONDITION


class RegistryArgumentError(RegistryError):
    """A name, number or text that the registry does not take; `field` names it."""

    code = Code.INVALID_ARGUMENT


class UnknownError(RegistryError):
    """The registry holds no such model, version, alias or artifact."""

    code = Code.NOT_FOUND


class ExistsError(RegistryError):
    """The name is taken by something else."""

    code = Code.ALREADY_EXISTS


class ConflictError(RegistryError):
    """The desired state moved since it was read; read it again and decide again."""

    code = Code.ABORTED


class DamagedTapError(TickserveError):
    """A file of the tap is none, or not whole; `field` names it."""

    code = Code.DATA_LOSS


class DamagedLogError(TickserveError):
    """A file of the prediction log is none, or not whole; `field` names it."""

    code = Code.DATA_LOSS


class DataError(TickserveError):
    """Reference or training data is unusable; `field` names the column."""

    code = Code.INVALID_ARGUMENT


#: The exception for each reason on the wire.
BY_REASON: dict[Reason, type[PredictionError]] = {
    error.reason: error for error in PredictionError.__subclasses__() if error.reason is not None
}
