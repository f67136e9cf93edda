"""The manifest of a model package: what the model is, takes, gives and may be trusted with.

Canonical form is RFC 8785 JSON; the package's digest is the SHA-256 of it. Measured resources stay out, because they
would change the digest from machine to machine.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tickserve.errors import PackageError

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
Name = Annotated[str, Field(min_length=1, max_length=256)]
#: 2^53 - 1 is the largest integer that every reader of JSON holds exactly (RFC 8785).
MAX_INTEGER = 2**53 - 1
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_MODEL_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){0,63}")

#: Name of the metric that claims the rank correlation of one feature with the outcome, on the data of the baseline.
FEATURE_IC = "feature_ic.{}"

MODEL_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
BASELINE_FILE = "baseline.json"
MANIFEST_FILE = "manifest.json"
#: Optional witness of the digest, as `sha256sum` writes it, for folders that are not named by it.
DIGEST_FILE = "manifest.sha256"
#: Optional signature over the digest, and so not covered by it.
SIGNATURE_FILE = "signature.json"


class Frozen(BaseModel):
    """A value that was checked once: immutable, strictly typed, without unknown entries, NaN or infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class TensorSpec(Frozen):
    """One tensor: `shape` has -1 where any size is taken."""

    name: Name
    datatype: Datatype
    shape: tuple[Annotated[int, Field(ge=-1, le=MAX_INTEGER)], ...]


class ColumnMapping(Frozen):
    """One figure a row, `scale * x + offset` in float64, where x is a column of an output, or its row's maximum."""

    output: Name
    column: Count | None = None
    scale: float = 1.0
    offset: float = 0.0


class Bounds(Frozen):
    """Closed bounds of one feature, and what happens outside them."""

    minimum: float | None = None
    maximum: float | None = None
    policy: Literal["reject", "clip", "flag"] = "reject"

    @model_validator(mode="after")
    def _ordered(self) -> "Bounds":
        if self.minimum is None and self.maximum is None:
            raise ValueError("bounds need a minimum or a maximum")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class EventTimeRule(Frozen):
    """What the request's event time must be; ages in seconds against the server's clock at arrival."""

    required: bool = False
    max_age_s: Annotated[float, Field(gt=0)] | None = None
    max_future_s: Annotated[float, Field(ge=0)] | None = None
    policy: Literal["reject", "flag"] = "reject"


class InputRules(Frozen):
    """Rules for inputs: `bounds` and `defaults` are by feature name."""

    finite: bool = True
    bounds: dict[str, Bounds] = {}
    defaults: dict[str, float] = {}
    event_time: EventTimeRule = EventTimeRule()


class OutputRule(Frozen):
    """A rule for one output: each value finite, or each value (`range`) or row sum (`row_sum`) within closed bounds."""

    name: Name
    output: Name
    kind: Literal["finite", "range", "row_sum"]
    minimum: float | None = None
    maximum: float | None = None
    policy: Literal["reject", "flag", "fallback"] = "reject"

    @model_validator(mode="after")
    def _complete(self) -> "OutputRule":
        if self.kind != "finite" and self.minimum is None and self.maximum is None:
            raise ValueError(f"rule {self.name!r} of kind {self.kind} needs a minimum or a maximum")
        return self


class Limits(Frozen):
    """Bounds on one request; 0 means none."""

    max_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    default_deadline_us: Count = 0
    max_wait_us: Count = 0
    latency_budget_us: Count = 1000


class Horizon(Frozen):
    """One outcome: a name such as `1d`, and its length in periods."""

    name: Name
    periods: Annotated[int, Field(ge=1, le=MAX_INTEGER)]


class OutcomeSpec(Frozen):
    """What is realised after a prediction, and what trading on it costs (basis points of turnover)."""

    kind: Literal["cross_sectional", "time_series"]
    horizons: tuple[Horizon, ...]
    periods_per_year: Annotated[float, Field(gt=0)]
    cost_bp: Annotated[float, Field(ge=0)]


class DatasetInfo(Frozen):
    """One data set: SHA-256 of its rows, their number, and first and last time (ISO 8601) where rows have one."""

    fingerprint: Sha256
    rows: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    order: Literal["time", "unknown"]
    first: str | None = None
    last: str | None = None


class Metric(Frozen):
    """A figure on one data set; `standard_error` is absent where none is defined."""

    value: float
    standard_error: float | None = None
    n: Count


class Training(Frozen):
    """How the model came to be."""

    framework: str = ""
    estimator: str = ""
    parameters: dict[str, str] = {}
    seed: Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)] | None = None
    code_revision: str = ""


class FileEntry(Frozen):
    """One file of the package."""

    sha256: Sha256
    size_bytes: Count


class Manifest(Frozen):
    """Everything that the digest covers. See docs/formats/package.md."""

    format: Literal[1] = 1
    name: str
    description: str = ""
    author: str = ""
    tags: dict[str, str] = {}
    task: Literal["classification", "regression", "unknown"] = "unknown"
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    feature_names: tuple[Name, ...] = ()
    signal: ColumnMapping | None = None
    confidence: ColumnMapping | None = None
    input_rules: InputRules = InputRules()
    output_rules: tuple[OutputRule, ...] = ()
    limits: Limits = Limits()
    outcomes: OutcomeSpec | None = None
    training: Training = Training()
    datasets: dict[str, DatasetInfo] = {}
    baseline_inputs: str = ""
    baseline_outputs: str = ""
    metrics: dict[str, dict[str, Metric]] = {}
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        check_model_name(self.name)
        _require_unique("input", [tensor.name for tensor in self.inputs])
        _require_unique("output", [tensor.name for tensor in self.outputs])
        _require_unique("feature", self.feature_names)
        _require_unique("output rule", [rule.name for rule in self.output_rules])
        if self.feature_names:
            if len(self.inputs) != 1:
                raise ValueError(f"feature_names need exactly one input, there are {len(self.inputs)}")
            width = self.inputs[0].shape[-1] if self.inputs[0].shape else 0
            if width != len(self.feature_names):
                raise ValueError(
                    f"{len(self.feature_names)} feature_names, but input {self.inputs[0].name!r} is {width} wide"
                )
        for place, names in (("bounds", self.input_rules.bounds), ("defaults", self.input_rules.defaults)):
            unknown = set(names) - set(self.feature_names)
            if unknown:
                raise ValueError(f"input_rules.{place} name unknown features: {', '.join(sorted(unknown))}")
        outputs = {tensor.name: tensor for tensor in self.outputs}
        named = [("output_rules", rule.output) for rule in self.output_rules]
        named += [(place, m.output) for place, m in (("signal", self.signal), ("confidence", self.confidence)) if m]
        for place, output in named:
            if output not in outputs:
                raise ValueError(f"{place} names unknown output {output!r}")
        for place, mapping in (("signal", self.signal), ("confidence", self.confidence)):
            if mapping is not None and mapping.column is not None:
                row_width = math.prod(outputs[mapping.output].shape[1:])
                if 0 <= row_width <= mapping.column:
                    raise ValueError(f"{place} takes column {mapping.column} of an output {row_width} wide")
        for place, dataset in (("baseline_inputs", self.baseline_inputs), ("baseline_outputs", self.baseline_outputs)):
            if dataset and dataset not in self.datasets:
                raise ValueError(f"{place} names unknown data set {dataset!r}")
        for dataset in self.metrics:
            if dataset not in self.datasets:
                raise ValueError(f"metrics name unknown data set {dataset!r}")
        return self

    def canonical(self) -> bytes:
        """RFC 8785 JSON of this manifest."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, in hex: the name of the package."""
        return hashlib.sha256(self.canonical()).hexdigest()


def check_model_name(name: str) -> str:
    """Returns `name`, or raises ValueError where it could not be a folder, a label and a resource name."""
    if not _MODEL_NAME.fullmatch(name):
        raise ValueError(
            f"model name {name!r} must be 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "start with a letter or digit and hold no '..'"
        )
    return name


def make_manifest(**entries: object) -> Manifest:
    """A manifest of these entries.

    Raises
    ------
    PackageError
        Where an entry is unknown, missing or ill-typed, or they contradict each other.
    """
    try:
        return Manifest.model_validate(entries)
    except ValidationError as error:
        raise explain(error, "manifest") from None


def parse_manifest(data: bytes) -> Manifest:
    """Reads manifest.json.

    Raises
    ------
    PackageError
        Where it is no JSON, has an unknown, missing or ill-typed entry, contradicts itself, or is not canonical.
    """
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise explain(error, MANIFEST_FILE) from None
    # Compared as JSON, not with `manifest.canonical()`: a later release may know entries that this package has not.
    if rfc8785.dumps(json.loads(data, parse_int=float)) != data:
        raise PackageError(
            f"{MANIFEST_FILE} is not in canonical form (RFC 8785): it was edited or damaged; build the package again",
            field=MANIFEST_FILE,
        )
    return manifest


def explain(error: ValidationError, what: str) -> PackageError:
    """The first fault that pydantic found in `what`, for people; `field` is the entry's path."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return PackageError(f"{what}: {place}: {message}" if place else f"{what}: {message}", field=place or what)


def feature_digest(names: Sequence[str]) -> bytes:
    """SHA-256 over the ordered feature names, each followed by a zero byte; 32 bytes."""
    return hashlib.sha256(b"".join(name.encode() + b"\0" for name in names)).digest()


def _require_unique(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name!r} appears twice")
        seen.add(name)
