"""What is served: the frozen values that the control plane builds whole and the data plane swaps in with one store.

A request reads the installed plan once and uses it to its end, so nothing ever sees half a change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType

from mlops.package import ColumnMapping, Golden, InputRules, Limits, OutputRule, TensorSpec


class Role(IntEnum):
    """Why a version answers; numbered as `tickserve.v1.Role`."""

    STABLE = 1
    CANARY = 2
    SHADOW = 3
    PREVIOUS = 4
    FALLBACK = 5

    @property
    def label(self) -> str:
        """The role as metrics and logs name it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """One verified version of a model; the same package always gives an equal one."""

    model: str
    version: str
    digest: bytes
    model_sha256: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    feature_names: tuple[str, ...]
    feature_digest: bytes
    signal: ColumnMapping | None
    confidence: ColumnMapping | None
    input_rules: InputRules
    output_rules: tuple[OutputRule, ...]
    limits: Limits
    golden: Golden | None = field(repr=False, compare=False)

    @property
    def key(self) -> tuple[str, str, bytes, str]:
        """Names what an engine prepares: model, version, digest, and the rules, which desired state may replace."""
        rules = [self.input_rules.model_dump_json(), *(rule.model_dump_json() for rule in self.output_rules)]
        return self.model, self.version, self.digest, "\n".join(rules)


@dataclass(frozen=True, slots=True)
class Segment:
    """A share of the routing hashes: up to `upper_bound` (unsigned 64-bit, inclusive) and above the one before."""

    upper_bound: int
    version: str
    role: Role


@dataclass(frozen=True, slots=True)
class Split:
    """Which version answers which routing hash: ordered segments, the last one up to 2^64 - 1."""

    salt: bytes
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that gets copies of live requests, once they are answered, and answers nobody.

    `fraction_bp` of the request ids, in 1/10,000, are copied, chosen by a hash with a salt of its own. Copied are the
    requests that the split gave to version `of`; to any version but the shadow itself where that is empty.
    """

    version: str
    fraction_bp: int
    salt: bytes
    of: str = ""

    def copies(self, version: str) -> bool:
        """Whether requests that the split gave to this version may be copied."""
        return version != self.version and self.of in ("", version)


@dataclass(frozen=True, slots=True)
class ShadowBounds:
    """How much may wait for the shadow thread of a server: what comes beyond is dropped, and counted."""

    requests: int = 256
    size_bytes: int = 16 << 20


DEFAULT_SHADOW_BOUNDS = ShadowBounds()


@dataclass(frozen=True, slots=True)
class Halt:
    """A model stopped on purpose."""

    reason: str
    actor: str
    since_unix_ns: int


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model: its versions that are loaded, which of them answers what, and which any client may pin.

    `client_pins` are the versions that only the clients of the named identities may pin: `subject:` and the subject of
    the client's certificate, else the peer's address without its port, such as `ipv4:10.0.0.1` or `unix`. `previous`
    is the version kept warm to go back to; it answers nobody. `fallback` answers where another one breaks an output
    rule of that policy. Empty where there is none.
    """

    name: str
    versions: Mapping[str, VersionPlan]
    split: Split
    pins: frozenset[str] = frozenset()
    client_pins: Mapping[str, frozenset[str]] = field(default_factory=dict)
    halt: Halt | None = None
    position_scale: float = 1.0
    previous: str = ""
    #: What a rollout holds latencies against, in nanoseconds; 0 is nothing.
    latency_edge_ns: int = 0
    shadow: Shadow | None = None
    fallback: str = ""

    def role(self, version: str) -> Role:
        """What a version is here for: its place in the split first."""
        for segment in self.split.segments:
            if segment.version == version:
                return segment.role
        if self.shadow is not None and self.shadow.version == version:
            return Role.SHADOW
        return Role.FALLBACK if self.fallback == version else Role.PREVIOUS


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything served.

    `not_loaded` names the models that are known but have no version yet, with the reason where loading failed.
    """

    generation: int
    models: Mapping[str, ModelPlan]
    not_loaded: Mapping[str, str] = field(default_factory=dict)


EMPTY_PLAN = Plan(generation=0, models=MappingProxyType({}))
