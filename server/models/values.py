"""What a source says should be served, as frozen values that are the same for every source."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from mlops.routing import WHOLE_BP, Segment, following, layout
from server.plan import Halt, Role


@dataclass(frozen=True, slots=True)
class Share:
    """One version's part of the routing keys."""

    version: str
    role: Role
    weight_bp: int


@dataclass(frozen=True, slots=True)
class RuleChange:
    """Replaces one rule of the package; what is empty or None keeps the package's."""

    rule: str
    policy: str = ""
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class ShadowShare:
    """A version that gets copies of live requests and answers no client: of those of version `of`, else of all."""

    version: str
    fraction_bp: int
    salt: str = ""
    of: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What one model is to serve. Two equal ones need no change from one to the other.

    `pins` are the versions that any client may ask for by number, `client_pins` those that the named clients may;
    those without a share are loaded when they can be, and hold nothing up. `segments` say which routing hashes each
    version has; empty where they lie as they would without a history. `schema_override` names the version whose other
    schema is accepted. `latency_edge_ns` is what a rollout holds latencies against; 0 is nothing.
    """

    shares: tuple[Share, ...]
    pins: frozenset[str] = frozenset()
    salt: str = ""
    position_scale: float = 1.0
    rules: tuple[RuleChange, ...] = ()
    schema_override: str = field(default="", compare=False)
    shadow: ShadowShare | None = None
    fallback: str = ""
    client_pins: tuple[tuple[str, tuple[str, ...]], ...] = ()
    segments: tuple[Segment, ...] = ()
    latency_edge_ns: int = 0

    @property
    def stable(self) -> str:
        """The version of role stable."""
        return next((share.version for share in self.shares if share.role is Role.STABLE), "")

    @property
    def required(self) -> tuple[str, ...]:
        """The versions without which it cannot be served."""
        return tuple(dict.fromkeys(share.version for share in self.shares))

    @property
    def optional(self) -> tuple[str, ...]:
        """The versions that are loaded beside them."""
        named = self.pins | {version for version, _ in self.client_pins} | self.helpers
        return tuple(sorted(named - set(self.required), key=int))

    @property
    def helpers(self) -> frozenset[str]:
        """The shadow and the fallback, which clients do not ask for."""
        shadow = () if self.shadow is None else (self.shadow.version,)
        return frozenset((*shadow, *((self.fallback,) if self.fallback else ())))

    @property
    def weights(self) -> dict[str, int]:
        """The weight of each version of the split, in 1/10,000; the stable one last, from which others take."""
        ordered = sorted(self.shares, key=lambda share: share.role is Role.STABLE)
        return {share.version: share.weight_bp for share in ordered}

    @property
    def layout(self) -> tuple[Segment, ...]:
        """The segments of the split, which is not empty."""
        return layout(self.segments, self.weights)

    def following(self, before: "Target | None") -> "Target":
        """This target with the segments that come after those of `before`. Raises ValueError where they are too many.

        Another salt moves every key anyway, so it begins anew.
        """
        earlier = before.layout if before is not None and before.shares and before.salt == self.salt else ()
        return replace(self, segments=following(earlier, self.weights) if self.shares else ())


def only(version: str, *, pins: frozenset[str] = frozenset(), schema_override: str = "") -> Target:
    """One version that answers everything, and may be asked for by number."""
    shares = (Share(version, Role.STABLE, WHOLE_BP),)
    return Target(shares, frozenset({version}) | pins, schema_override=schema_override)


@dataclass(frozen=True, slots=True)
class VersionRef:
    """Where a version is found.

    Parameters
    ----------
    version : str
        A decimal integer.
    digest : str
        Of its package, in hex; empty where only reading it tells.
    place : str
        In the source's own terms.
    fingerprint : Hashable
        Changes whenever there is a reason to try again what failed.
    is_settled : bool
        Whether it may be read; False while it may still be written.
    """

    version: str
    digest: str = ""
    place: str = ""
    fingerprint: Hashable = ()
    is_settled: bool = True


@dataclass(frozen=True, slots=True)
class ModelDesired:
    """What one model should serve: the first of `targets` that can be, and who wanted it when and why."""

    name: str
    revision: int
    targets: tuple[Target, ...]
    versions: Mapping[str, VersionRef]
    halt: Halt | None = None
    actor: str = ""
    reason: str = ""
    at_unix_ns: int = 0

    @property
    def wanted(self) -> str:
        """The version that should answer most, or nothing."""
        return self.targets[0].stable if self.targets else ""


@dataclass(frozen=True, slots=True)
class Desired:
    """All that a source wants served. `revision` rises with every change where the source counts them."""

    models: Mapping[str, ModelDesired] = field(default_factory=lambda: MappingProxyType({}))
    revision: int = 0
