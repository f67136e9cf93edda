"""Every text that a client can read, with its status and reason: one table for all engines.

A template holds plain named fields and is filled with facts. A fact that is text goes in as it is, each control
character as `?`; a float as the shortest decimal that reads back as it, as Python writes it; a list as `[1, 3]`.
"""

from dataclasses import dataclass
from typing import Final

from tickserve.errors import BY_REASON, Code, Reason, StatusError, TickserveError

_MAX_TEXT_BYTES = 1000
_CONTROL_CHARACTERS: Final = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "?")


@dataclass(frozen=True, slots=True)
class Text:
    """One text. `reason` is of the closed list, or None; `executed` says that the model ran.

    A text with code OK, and one of reflection, stands within an answer; every other one is that of a status.
    """

    code: Code
    reason: Reason | None
    template: str
    executed: bool = False

    def fill(self, **facts: object) -> str:
        """The text with these facts."""
        return bounded(self.template.format(**{name: _plain(fact) for name, fact in facts.items()}))

    def error(self, *, at: str = "", **facts: object) -> TickserveError:
        """The exception to raise, a PredictionError where there is a reason; `at` is the field or tensor at fault."""
        if self.reason is None:
            return StatusError(self.fill(**facts), code=self.code)
        return BY_REASON[self.reason](self.fill(**facts), field=bounded(at, 200), executed=self.executed)


def table() -> dict[str, dict[str, str | bool | None]]:
    """All texts as plain data by name, for JSON: code, reason (or None), template and executed."""
    return {
        name: {
            "code": text.code.name,
            "reason": None if text.reason is None else text.reason.value,
            "template": text.template,
            "executed": text.executed,
        }
        for name, text in globals().items()
        if isinstance(text, Text)
    }


def bounded(text: str, size_bytes: int = _MAX_TEXT_BYTES) -> str:
    """The text, cut to at most `size_bytes` of UTF-8: a status that is too long for gRPC is lost with its reason."""
    data = text[: size_bytes + 1].encode(errors="replace")
    if len(data) <= size_bytes:
        return text
    return data[: size_bytes - 3].decode(errors="ignore") + "..."


def _plain(fact: object) -> object:
    # Cut first: a client decides how long its names are.
    return fact[:_MAX_TEXT_BYTES].translate(_CONTROL_CHARACTERS) if isinstance(fact, str) else fact


def _refusal(reason: Reason, template: str, *, executed: bool = False) -> Text:
    return Text(BY_REASON[reason].code, reason, template, executed)


MALFORMED: Final = _refusal(Reason.INVALID_INPUT, "the message is not a valid {message}: its bytes do not decode")
NO_REQUEST: Final = _refusal(Reason.INVALID_INPUT, "the message holds no request")
UNKNOWN_MODEL: Final = _refusal(Reason.NOT_FOUND, "unknown model '{model}'; models here: {known}")
NO_MODELS: Final = _refusal(Reason.NOT_FOUND, "unknown model '{model}'; models here: none")
UNKNOWN_VERSION: Final = _refusal(
    Reason.NOT_FOUND, "version '{version}' of model '{model}' is not loaded; loaded: {known}"
)
LOADING: Final = _refusal(Reason.LOADING, "model '{model}' is still loading")
NOT_LOADED: Final = _refusal(Reason.LOADING, "model '{model}' could not be loaded: {why}")
NO_REPOSITORY: Final = _refusal(Reason.INVALID_INPUT, "unknown repository '{name}'; there is one, and it has no name")
HALTED: Final = _refusal(Reason.HALTED, "model '{model}' was halted by {actor}: {why}")
DRAINING: Final = _refusal(Reason.DRAINING, "the server is draining; use another endpoint")
PIN_REFUSED: Final = _refusal(
    Reason.PIN_REFUSED, "version '{version}' of model '{model}' does not take requests; leave the version empty"
)
OVERLOADED_IN_FLIGHT: Final = _refusal(Reason.OVERLOADED, "{count} requests are in flight, the bound is {bound}")
CLIENT_IN_FLIGHT: Final = _refusal(
    Reason.RATE_LIMITED, "{count} requests of this client are in flight, the bound is {bound}"
)
OVERLOADED_WAIT: Final = _refusal(
    Reason.OVERLOADED, "requests wait {wait_us} us, the bound of model '{model}' is {bound_us} us"
)
DEADLINE: Final = _refusal(Reason.DEADLINE, "the deadline passed before the model ran")
DEADLINE_RAN: Final = _refusal(Reason.DEADLINE, "the deadline passed while the model ran", executed=True)
INTERNAL: Final = _refusal(Reason.INTERNAL, "internal error; the server's log has the details", executed=True)
FAULT: Final = _refusal(Reason.INTERNAL, "internal error; the server's log has the details")
ANSWER_TOO_LONG: Final = _refusal(
    Reason.INTERNAL,
    "the answer has {size} bytes, at most {bound} are sent; ask for fewer rows or outputs",
    executed=True,
)
DESCRIPTION_TOO_LONG: Final = _refusal(Reason.INTERNAL, "the answer has {size} bytes, at most {bound} are sent")

TOO_LONG: Final = _refusal(Reason.INVALID_INPUT, "{name} has {size} bytes, at most {bound} are accepted")
TOO_MANY_PARAMETERS: Final = _refusal(Reason.INVALID_INPUT, "{got} parameters are given, at most {bound} are accepted")
SHARED_MEMORY: Final = _refusal(Reason.INVALID_INPUT, "parameter '{name}' asks for shared memory, which is not offered")
SEQUENCES: Final = _refusal(
    Reason.INVALID_INPUT, "parameter '{name}' asks for stateful sequences, which is not offered"
)
CLASSIFICATION: Final = _refusal(
    Reason.INVALID_INPUT, "parameter '{name}' asks for classification results, which is not offered"
)
PARAMETER_UNKNOWN: Final = _refusal(Reason.INVALID_INPUT, "unknown parameter '{name}'; ours are {known}")
NOT_MICROSECONDS: Final = _refusal(Reason.INVALID_INPUT, "parameter '{name}' must be a number of microseconds")
NOT_NANOSECONDS: Final = _refusal(Reason.INVALID_INPUT, "parameter '{name}' must be an integer of nanoseconds")
NOT_A_STRING: Final = _refusal(Reason.INVALID_INPUT, "parameter '{name}' must be a string")
NOT_HEXADECIMAL: Final = _refusal(Reason.INVALID_INPUT, "parameter '{name}' must be 64 hexadecimal digits")
INPUT_MISSING: Final = _refusal(Reason.INVALID_INPUT, "input '{tensor}' is missing; expected {expected}")
INPUT_UNKNOWN: Final = _refusal(Reason.INVALID_INPUT, "unknown input '{tensor}'; expected {expected}")
INPUT_TWICE: Final = _refusal(Reason.INVALID_INPUT, "input '{tensor}' appears twice")
OUTPUT_UNKNOWN: Final = _refusal(Reason.INVALID_INPUT, "unknown output '{tensor}'; the model gives {expected}")
OUTPUT_TWICE: Final = _refusal(Reason.INVALID_INPUT, "output '{tensor}' is requested twice")
DATATYPE: Final = _refusal(Reason.INVALID_INPUT, "input '{tensor}' has datatype '{got}', expected {expected}")
RANK: Final = _refusal(Reason.INVALID_INPUT, "input '{tensor}' has shape {got}, expected rank {rank}: {expected}")
DIMENSION: Final = _refusal(Reason.INVALID_INPUT, "input '{tensor}' has shape {got}, expected {expected}")
EMPTY: Final = _refusal(Reason.INVALID_INPUT, "input '{tensor}' has shape {got}: no rows; at least one is needed")
ROWS_DIFFER: Final = _refusal(
    Reason.INVALID_INPUT, "input '{tensor}' has {got} rows, the inputs before it have {expected}"
)
TOO_MANY_ROWS: Final = _refusal(
    Reason.INVALID_INPUT, "the request has {got} rows, model '{model}' takes at most {bound}"
)
RAW_AND_TYPED: Final = _refusal(
    Reason.INVALID_INPUT, "input '{tensor}' has typed contents although raw_input_contents is used; send one of them"
)
RAW_COUNT: Final = _refusal(
    Reason.INVALID_INPUT, "raw_input_contents has {got} entries for {expected} inputs; expected one an input"
)
RAW_LENGTH: Final = _refusal(
    Reason.INVALID_INPUT, "input '{tensor}' has {got} raw bytes, expected {expected} for {datatype} {shape}"
)
RAW_BYTES: Final = _refusal(
    Reason.INVALID_INPUT,
    "input '{tensor}': raw BYTES end inside element {element} of {expected}; each is a 4-byte length and its bytes",
)
NOT_BOOL: Final = _refusal(Reason.INVALID_INPUT, "input '{tensor}' of datatype BOOL has a byte other than 0 and 1")
NOT_TEXT: Final = _refusal(Reason.INVALID_INPUT, "input '{tensor}' has an element that is not UTF-8 text")
TYPED_LENGTH: Final = _refusal(
    Reason.INVALID_INPUT, "input '{tensor}' has {got} elements in {field}, expected {expected} for {datatype} {shape}"
)
TYPED_FIELD: Final = _refusal(
    Reason.INVALID_INPUT, "input '{tensor}' of datatype {datatype} has elements in {got}, expected {field}"
)
TYPED_RANGE: Final = _refusal(Reason.INVALID_INPUT, "input '{tensor}' has an element that {datatype} cannot hold")
ONLY_RAW: Final = _refusal(
    Reason.INVALID_INPUT, "input '{tensor}' of datatype {datatype} is taken as raw contents only"
)
NOT_FINITE: Final = _refusal(
    Reason.INVALID_INPUT,
    "input '{tensor}', row {row}, column {column} is {value}; only finite values are accepted",
)
FEATURE_NOT_FINITE: Final = _refusal(
    Reason.INVALID_INPUT,
    "input '{tensor}', row {row}, column {column} ({feature}) is {value}; only finite values are accepted",
)
OUT_OF_BOUNDS: Final = _refusal(
    Reason.INVALID_INPUT, "feature '{feature}', row {row} is {value}, outside its bounds {minimum} to {maximum}"
)

NOT_ONE_FLOAT_INPUT: Final = _refusal(
    Reason.INVALID_INPUT,
    "model '{model}' is not one FP32 tensor of features in and numbers out; use inference.GRPCInferenceService",
)
FEATURES_AND_NAMED: Final = _refusal(Reason.INVALID_INPUT, "features and named are both set; send one of them")
FEATURE_COUNT: Final = _refusal(
    Reason.INVALID_INPUT,
    "features has {got} values, expected {expected} for {rows} rows, {steps} steps and {width} features",
)
STEPS: Final = _refusal(Reason.INVALID_INPUT, "steps is {got}, model '{model}' takes {expected}")
NAMED_ROWS: Final = _refusal(
    Reason.INVALID_INPUT, "named features are one row and one step; rows is {rows}, steps is {steps}"
)
NAMES_NOT_KNOWN: Final = _refusal(
    Reason.INVALID_INPUT, "model '{model}' declares no feature names; send features in its order"
)
FEATURE_UNKNOWN: Final = _refusal(Reason.INVALID_INPUT, "unknown feature '{feature}'; expected {expected}")
FEATURE_TWICE: Final = _refusal(Reason.INVALID_INPUT, "feature '{feature}' appears twice")
FEATURE_MISSING: Final = _refusal(Reason.INVALID_INPUT, "feature '{feature}' is missing and has no default")
FEATURES_CHANGED: Final = _refusal(
    Reason.FEATURES_CHANGED,
    "feature_digest is not that of version {version} of model '{model}'; read GetModel again and reorder the features",
)
DIGEST_LENGTH: Final = _refusal(Reason.INVALID_INPUT, "feature_digest has {got} bytes, expected 32")
ENTITIES: Final = _refusal(
    Reason.INVALID_INPUT, "entities has {got} entries, expected one for each of {rows} rows, or none"
)

EVENT_TIME_ABSENT: Final = _refusal(Reason.STALE_INPUT, "model '{model}' needs event_time_unix_ns")
EVENT_TIME_OLD: Final = _refusal(Reason.STALE_INPUT, "event time is {age_s} s old, at most {bound_s} s are accepted")
EVENT_TIME_FUTURE: Final = _refusal(
    Reason.STALE_INPUT, "event time is {ahead_s} s in the future, at most {bound_s} s are accepted"
)

OUTPUT_RULE: Final = _refusal(
    Reason.OUTPUT_RULE,
    "output rule '{rule}' of version {version} of model '{model}' is broken; the value is withheld",
    executed=True,
)

ADMIN_ONLY: Final = Text(
    Code.PERMISSION_DENIED, None, "this call changes state and is served on the admin listener only"
)
UNKNOWN_SERVICE: Final = Text(Code.NOT_FOUND, None, "unknown service '{service}'")
INDEX_HALTED: Final = Text(Code.OK, None, "halted by {actor}: {why}")
INDEX_KEPT_WARM: Final = Text(Code.OK, None, "loaded, but no client may ask for it")
REFLECTION_NOTHING: Final = Text(Code.INVALID_ARGUMENT, None, "the request asks for nothing")
REFLECTION_UNKNOWN: Final = Text(Code.NOT_FOUND, None, "'{what}' is not known here")
CHANGE_UNSIGNED: Final = Text(
    Code.INVALID_ARGUMENT, None, "{name} is empty; every change says who asked for it and why"
)
