"""What a server says, as frozen values: a prediction, the findings on it, and the description of a model."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from tickserve.errors import TickserveError

FloatArray = npt.NDArray[np.float32]


class Role(StrEnum):
    """Why a version answered; the names of `tickserve.v1.Role` without their prefix, in lower case."""

    UNSPECIFIED = "unspecified"
    STABLE = "stable"
    CANARY = "canary"
    SHADOW = "shadow"
    PREVIOUS = "previous"
    FALLBACK = "fallback"


class FindingKind(StrEnum):
    """What was found on an answer; the names of `tickserve.v1.FindingKind` without their prefix, in lower case."""

    UNSPECIFIED = "unspecified"
    CLIPPED = "clipped"
    FLAGGED = "flagged"
    FALLBACK = "fallback"
    STALE = "stale"
    DEFAULTED = "defaulted"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a caller should know about an answer that was given all the same.

    `row` and `column` count from 0; the column is one of the features for an input rule, of the output's row for an
    output rule. `rule` is the rule's name, such as `bounds:rsi_14d`.
    """

    kind: FindingKind
    row: int
    column: int
    rule: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prediction:
    """One answer, with the exact model that gave it.

    Attributes
    ----------
    values : float32 array of shape (rows, outputs)
        Every number the model gave, columns as in `value_names`.
    signal, confidence : float32 array of shape (rows,), or None
        Where the package defines them. The signal is in the package's own range, before `position_scale`.
    version, digest : str
        The version that answered, and the SHA-256 of its package in hex.
    plan_generation : int
        The server's plan that the request was served under; rises with every change of what is served.
    position_scale : float
        Factor from 0 to 1 for positions taken on this model; the caller applies it.
    findings : tuple of Finding
        Empty when all is in order; at most the first 100.
    findings_left_out : int
        How many more there are.
    default_because : TickserveError or None
        Why no model answered, where the caller gave a default (see `Request.default`): `signal` is that default,
        `position_scale` 0, and everything else of the answer empty.
    server_duration_ns : int
        From the call into the service until the answer stood, checked but not encoded yet.
    value_names : tuple of str
        Names of the columns of `values`; empty where the version that answered is not the one that the client has
        described (see `Client.get_model`).
    """

    values: FloatArray
    rows: int
    signal: FloatArray | None
    confidence: FloatArray | None
    model: str
    version: str
    digest: str
    role: Role
    plan_generation: int
    position_scale: float
    findings: tuple[Finding, ...]
    request_id: str
    server_duration_ns: int
    value_names: tuple[str, ...] = ()
    findings_left_out: int = 0
    default_because: TickserveError | None = None

    @property
    def is_default(self) -> bool:
        """True where no model answered, and the signal is the caller's own default."""
        return self.default_because is not None

    @property
    def named_values(self) -> dict[str, FloatArray]:
        """The columns of `values` by name, each of shape (rows,); empty where the names are not known."""
        return {name: self.values[:, column] for column, name in enumerate(self.value_names)}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model; `shape` has -1 where any size is taken, `datatype` is such as `FP32`."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one request; 0 means none."""

    max_rows: int
    default_deadline_us: int
    max_wait_us: int
    latency_budget_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One version of a model: what it takes, what it gives, and its bounds.

    Attributes
    ----------
    digest : str
        SHA-256 of the package, in hex.
    feature_names : tuple of str
        In the order that the model takes; empty where the package names none.
    feature_digest : str
        SHA-256 over `feature_names`, each followed by a zero byte, in hex; empty where there are none.
    value_names : tuple of str
        Columns of `Prediction.values`.
    requires_event_time : bool
        True where a request must say when its features were true.
    max_age_ns, max_future_ns : int or None
        Bounds on that time, before and after arrival; None means no bound, and a `max_future_ns` of 0 no future time.
    """

    model: str
    version: str
    digest: str
    role: Role
    plan_generation: int
    feature_names: tuple[str, ...]
    feature_digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    value_names: tuple[str, ...]
    limits: Limits
    has_signal: bool
    has_confidence: bool
    requires_event_time: bool
    max_age_ns: int | None
    max_future_ns: int | None
