"""Every refusal of a prediction: its reason, and its text with named facts. One table for all engines."""

from dataclasses import dataclass
from typing import Final

from tickserve.errors import BY_REASON, PredictionError, Reason


@dataclass(frozen=True, slots=True)
class Text:
    """One refusal: `template` is filled with the facts that `error` is given."""

    reason: Reason
    template: str
    executed: bool = False

    def error(self, *, at: str = "", **facts: object) -> PredictionError:
        """The exception to raise; `at` names the field or tensor at fault."""
        return BY_REASON[self.reason](
            bounded(self.template.format(**facts)), field=bounded(at, 200), executed=self.executed
        )


def bounded(text: str, size_bytes: int = 1000) -> str:
    """The text, cut to at most `size_bytes` of UTF-8: a status that is too long for gRPC is lost with its reason."""
    data = text.encode(errors="replace")
    if len(data) <= size_bytes:
        return text
    return data[: size_bytes - 3].decode(errors="ignore") + "..."


MALFORMED: Final = Text(Reason.INVALID_INPUT, "the message is not a valid {message}: its bytes do not decode")
NO_REQUEST: Final = Text(Reason.INVALID_INPUT, "the message holds no request")
UNKNOWN_MODEL: Final = Text(Reason.NOT_FOUND, "unknown model {model!r}; models here: {known}")
UNKNOWN_VERSION: Final = Text(Reason.NOT_FOUND, "version {version!r} of model {model!r} is not loaded; loaded: {known}")
LOADING: Final = Text(Reason.LOADING, "model {model!r} is still loading")
NOT_LOADED: Final = Text(Reason.LOADING, "model {model!r} could not be loaded: {why}")
NO_REPOSITORY: Final = Text(Reason.INVALID_INPUT, "unknown repository {name!r}; there is one, and it has no name")
HALTED: Final = Text(Reason.HALTED, "model {model!r} was halted by {actor}: {why}")
DRAINING: Final = Text(Reason.DRAINING, "the server is draining; use another endpoint")
PIN_REFUSED: Final = Text(
    Reason.PIN_REFUSED, "version {version!r} of model {model!r} does not take requests; leave the version empty"
)
OVERLOADED_IN_FLIGHT: Final = Text(Reason.OVERLOADED, "{count} requests are in flight, the bound is {bound}")
CLIENT_IN_FLIGHT: Final = Text(
    Reason.RATE_LIMITED, "{count} requests of this client are in flight, the bound is {bound}"
)
OVERLOADED_WAIT: Final = Text(
    Reason.OVERLOADED, "requests wait {wait_us} us, the bound of model {model!r} is {bound_us} us"
)
DEADLINE: Final = Text(Reason.DEADLINE, "the deadline passed before the model ran")
DEADLINE_RAN: Final = Text(Reason.DEADLINE, "the deadline passed while the model ran", executed=True)
INTERNAL: Final = Text(Reason.INTERNAL, "internal error; the server's log has the details", executed=True)

TOO_LONG: Final = Text(Reason.INVALID_INPUT, "{name} has {size} bytes, at most {bound} are accepted")
PARAMETER_REFUSED: Final = Text(Reason.INVALID_INPUT, "parameter {name!r} asks for {what}, which is not offered")
PARAMETER_UNKNOWN: Final = Text(Reason.INVALID_INPUT, "unknown parameter {name!r}; ours are {known}")
PARAMETER_TYPE: Final = Text(Reason.INVALID_INPUT, "parameter {name!r} must be {expected}")
INPUT_MISSING: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} is missing; expected {expected}")
INPUT_UNKNOWN: Final = Text(Reason.INVALID_INPUT, "unknown input {tensor!r}; expected {expected}")
INPUT_TWICE: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} appears twice")
OUTPUT_UNKNOWN: Final = Text(Reason.INVALID_INPUT, "unknown output {tensor!r}; the model gives {expected}")
OUTPUT_TWICE: Final = Text(Reason.INVALID_INPUT, "output {tensor!r} is requested twice")
DATATYPE: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} has datatype {got!r}, expected {expected}")
RANK: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} has shape {got}, expected rank {rank}: {expected}")
DIMENSION: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} has shape {got}, expected {expected}")
EMPTY: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} has shape {got}: no rows; at least one is needed")
ROWS_DIFFER: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} has {got} rows, the inputs before it have {expected}")
TOO_MANY_ROWS: Final = Text(Reason.INVALID_INPUT, "the request has {got} rows, model {model!r} takes at most {bound}")
RAW_AND_TYPED: Final = Text(
    Reason.INVALID_INPUT, "input {tensor!r} has typed contents although raw_input_contents is used; send one of them"
)
RAW_COUNT: Final = Text(
    Reason.INVALID_INPUT, "raw_input_contents has {got} entries for {expected} inputs; expected one an input"
)
RAW_LENGTH: Final = Text(
    Reason.INVALID_INPUT, "input {tensor!r} has {got} raw bytes, expected {expected} for {datatype} {shape}"
)
RAW_BYTES: Final = Text(
    Reason.INVALID_INPUT,
    "input {tensor!r}: raw BYTES end inside element {element} of {expected}; each is a 4-byte length and its bytes",
)
NOT_BOOL: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} of datatype BOOL has a byte other than 0 and 1")
NOT_TEXT: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} has an element that is not UTF-8 text")
TYPED_LENGTH: Final = Text(
    Reason.INVALID_INPUT, "input {tensor!r} has {got} elements in {field}, expected {expected} for {datatype} {shape}"
)
TYPED_FIELD: Final = Text(
    Reason.INVALID_INPUT, "input {tensor!r} of datatype {datatype} has elements in {got}, expected {field}"
)
TYPED_RANGE: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} has an element that {datatype} cannot hold")
ONLY_RAW: Final = Text(Reason.INVALID_INPUT, "input {tensor!r} of datatype {datatype} is taken as raw contents only")
NOT_FINITE: Final = Text(
    Reason.INVALID_INPUT,
    "input {tensor!r}, row {row}, column {column}{named} is {value}; only finite values are accepted",
)
OUT_OF_BOUNDS: Final = Text(
    Reason.INVALID_INPUT, "feature {feature!r}, row {row} is {value}, outside its bounds {minimum} to {maximum}"
)

NOT_ONE_FLOAT_INPUT: Final = Text(
    Reason.INVALID_INPUT,
    "model {model!r} is not one FP32 tensor of features in and numbers out; use inference.GRPCInferenceService",
)
FEATURES_AND_NAMED: Final = Text(Reason.INVALID_INPUT, "features and named are both set; send one of them")
FEATURE_COUNT: Final = Text(
    Reason.INVALID_INPUT,
    "features has {got} values, expected {expected} for {rows} rows, {steps} steps and {width} features",
)
STEPS: Final = Text(Reason.INVALID_INPUT, "steps is {got}, model {model!r} takes {expected}")
NAMED_ROWS: Final = Text(
    Reason.INVALID_INPUT, "named features are one row and one step; rows is {rows}, steps is {steps}"
)
NAMES_NOT_KNOWN: Final = Text(
    Reason.INVALID_INPUT, "model {model!r} declares no feature names; send features in its order"
)
FEATURE_UNKNOWN: Final = Text(Reason.INVALID_INPUT, "unknown feature {feature!r}; expected {expected}")
FEATURE_TWICE: Final = Text(Reason.INVALID_INPUT, "feature {feature!r} appears twice")
FEATURE_MISSING: Final = Text(Reason.INVALID_INPUT, "feature {feature!r} is missing and has no default")
FEATURES_CHANGED: Final = Text(
    Reason.FEATURES_CHANGED,
    "feature_digest is not that of version {version} of model {model!r}; read GetModel again and reorder the features",
)
DIGEST_LENGTH: Final = Text(Reason.INVALID_INPUT, "feature_digest has {got} bytes, expected 32")
ENTITIES: Final = Text(
    Reason.INVALID_INPUT, "entities has {got} entries, expected one for each of {rows} rows, or none"
)

EVENT_TIME_ABSENT: Final = Text(Reason.STALE_INPUT, "model {model!r} needs event_time_unix_ns")
EVENT_TIME_OLD: Final = Text(Reason.STALE_INPUT, "event time is {age_s:.3f} s old, at most {bound_s} s are accepted")
EVENT_TIME_FUTURE: Final = Text(
    Reason.STALE_INPUT, "event time is {ahead_s:.3f} s in the future, at most {bound_s} s are accepted"
)

OUTPUT_RULE: Final = Text(
    Reason.OUTPUT_RULE,
    "output rule {rule!r} of version {version} of model {model!r} is broken; the value is withheld",
    executed=True,
)
