"""The registry as the source of desired state and versions; what was read last, and every package, are kept here too.

While the registry is away the last good state is obeyed, and packages come from the cache.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from mlops.package import Package, read_package, require_signature, trusted_keys
from mlops.registry import AllowedPin, Author, DesiredState, HaltEntry, Registry, RuleOverride, Shadow
from mlops.registry import Desired as RegistryDesired
from mlops.registry import Share as RegistryShare
from mlops.registry.desired import make_state
from mlops.registry.opening import require_registry
from mlops.registry.wanted import Wanted
from mlops.routing import Segment
from server.models.cache import PackageCache
from server.models.codec import plain_halt, plain_target, read_halt, read_target
from server.models.directory import version_plan
from server.models.files import read_checked, write_checked
from server.models.values import Desired, ModelDesired, RuleChange, ShadowShare, Share, Target, VersionRef
from server.plan import Halt, Role, VersionPlan
from tickserve.errors import ConfigurationError, PackageError

_log = structlog.get_logger()
_ROLES = {"stable": Role.STABLE, "canary": Role.CANARY}


class RegistrySource:
    """Reads one registry.

    Parameters
    ----------
    connect : callable
        Opens the registry; called again after a failure. It must make none where there is none.
    cache : PackageCache
        Where packages are kept on this machine.
    state : Path
        File of the last good state.
    keys : Path
        Folder of trusted public keys.
    requires_signature : bool
        Whether this server asks for a signature even where the registry does not.
    """

    name = "registry"

    def __init__(
        self,
        connect: Callable[[], Registry],
        cache: PackageCache,
        state: Path,
        *,
        keys: Path,
        requires_signature: bool = False,
    ) -> None:
        self._connect = connect
        self._cache = cache
        self._state = state
        self._keys = keys
        self._always_signed = requires_signature
        self._is_signed = requires_signature
        self._lock = threading.Lock()
        self._registry: Registry | None = None
        self._desired: Desired | None = None
        self._is_kept = True

    def read(self) -> Desired:
        """What is desired now; one small query while nothing changes. Raises TickserveError."""
        registry = self.registry()
        before = self._desired
        if before is not None and registry.revision == before.revision:
            if not self._is_kept:
                self._keep(before)
            return before
        wanted = registry.wanted()
        self._is_signed = self._always_signed or wanted.requires_signature
        desired = _desired(wanted)
        self._desired = desired
        self._keep(desired)
        return desired

    def last_good(self) -> Desired | None:
        """What was read last by an earlier process; None where it is not there, or not as it was written."""
        try:
            body = read_checked(self._state)
            if body is None:
                return None
            # Never less than what was asked for already: it may be read meanwhile.
            self._is_signed = self._is_signed or body["requires_signature"]
            return _read_desired(body)
        except (ConfigurationError, KeyError, TypeError, ValueError, AttributeError) as error:
            _log.error("last_good_state_lost", file=str(self._state), error=str(error))
            return None

    def open(self, model: str, ref: VersionRef) -> VersionPlan:
        """The verified package, from the cache, else from the registry.

        Raises
        ------
        PackageError
            Where it is damaged, or not signed as required.
        UnreachableError
            Where it is not in the cache and the registry does not answer.
        """
        try:
            package = self._verified(self._cache.path(ref.digest))
        except PackageError:
            with self._cache.fetching(ref.digest):
                registry = self.registry()
                package = registry.fetch(registry.version(model, int(ref.version)))
                self._check(package)
        if package.digest != ref.digest or package.manifest.name != model:
            raise PackageError(
                f"version {ref.version} of model {model!r} has digest {package.digest} in the registry now, "
                f"desired is {ref.digest}",
                field="digest",
            )
        self._cache.touch(ref.digest)
        return version_plan(package, ref.version)

    def accepts_schema(self, target: Target, old: VersionPlan, new: VersionPlan) -> bool:
        """Whether desired state names the version, or named one since the old version was stable."""
        if target.schema_override == new.version:
            return True
        return self.registry().names_schema_since(new.model, int(old.version))

    def write(
        self, model: str, target: Target, halt: Halt | None, expected_revision: int | None, *, actor: str, reason: str
    ) -> int:
        """Writes the model's row in the registry. Raises TickserveError."""
        state = _state(target, halt)
        return self.registry().set_desired(model, state, Author(actor, reason), expected_revision).revision

    def registry(self) -> Registry:
        """The open registry; opened where it is not. Raises TickserveError."""
        with self._lock:
            if self._registry is None:
                self._registry = self._connect()
            return self._registry

    def _verified(self, path: Path) -> Package:
        package = read_package(path)
        self._check(package)
        return package

    def _check(self, package: Package) -> None:
        if self._is_signed:
            require_signature(package.digest, package.signature, trusted_keys(self._keys))

    def _keep(self, desired: Desired) -> None:
        body = {
            "revision": desired.revision,
            "requires_signature": self._is_signed,
            "models": {name: _plain(model) for name, model in desired.models.items()},
        }
        try:
            write_checked(self._state, body)
        except OSError as error:
            if self._is_kept:
                _log.error("last_good_state_not_written", file=str(self._state), error=error.strerror)
            self._is_kept = False
        else:
            self._is_kept = True


def connect(home: Path, url: str, artifacts: str, cache: Path, keys: Path) -> Registry:
    """Opens the registry of these settings, else the one in `home`; makes none. Raises TickserveError."""
    require_registry(home, url)
    folder = home.absolute() / "registry"
    return Registry(url or f"sqlite:///{folder / 'registry.db'}", artifacts or str(folder / "artifacts"), cache, keys)


def _desired(wanted: Wanted) -> Desired:
    models = {name: _model(found, wanted.digests[name]) for name, found in wanted.models.items()}
    return Desired(MappingProxyType(models), wanted.revision)


def _model(found: RegistryDesired, digests: Any) -> ModelDesired:
    state = found.state
    return ModelDesired(
        name=found.model,
        revision=found.revision,
        targets=(_target(state),) if state.split else (),
        versions={
            str(version): VersionRef(str(version), digest, fingerprint=(digest, found.revision))
            for version, digest in digests.items()
        },
        halt=None if state.halt is None else _halt(state.halt),
        actor=found.actor,
        reason=found.reason,
        at_unix_ns=_unix_ns(found.at),
    )


def _target(state: DesiredState) -> Target:
    return Target(
        shares=tuple(Share(str(share.version), _ROLES[share.role], share.weight_bp) for share in state.split),
        pins=frozenset(str(pin.version) for pin in state.allowed_pins if not pin.clients),
        salt=state.salt,
        position_scale=state.position_scale,
        rules=tuple(
            RuleChange(rule.rule, rule.policy or "", rule.minimum, rule.maximum) for rule in state.rule_overrides
        ),
        schema_override=str(state.schema_override or ""),
        shadow=_shadow(state.shadow),
        fallback=str(state.fallback_version or ""),
        client_pins=tuple((str(pin.version), pin.clients) for pin in state.allowed_pins if pin.clients),
        segments=tuple(Segment(str(each.version), each.upto_bp) for each in state.segments),
        latency_edge_ns=state.latency_edge_ns,
    )


def _shadow(shadow: Shadow | None) -> ShadowShare | None:
    if shadow is None:
        return None
    return ShadowShare(str(shadow.version), shadow.fraction_bp, shadow.salt, str(shadow.of or ""))


def _state(target: Target, halt: Halt | None) -> DesiredState:
    pins = [AllowedPin(version=int(version)) for version in sorted(target.pins, key=int)]
    pins += [AllowedPin(version=int(version), clients=clients) for version, clients in target.client_pins]
    shadow = target.shadow
    return make_state(
        split=tuple(
            RegistryShare(version=int(share.version), role=share.role.label, weight_bp=share.weight_bp)  # type: ignore[arg-type]
            for share in target.shares
        ),
        salt=target.salt,
        shadow=Shadow(
            version=int(shadow.version),
            fraction_bp=shadow.fraction_bp,
            salt=shadow.salt,
            of=int(shadow.of) if shadow.of else None,
        )
        if shadow
        else None,
        fallback_version=int(target.fallback) if target.fallback else None,
        position_scale=target.position_scale,
        halt=None
        if halt is None
        else HaltEntry(reason=halt.reason, actor=halt.actor, since=_time(halt.since_unix_ns).isoformat()),
        allowed_pins=tuple(pins),
        rule_overrides=tuple(
            RuleOverride(rule=rule.rule, policy=rule.policy or None, minimum=rule.minimum, maximum=rule.maximum)  # type: ignore[arg-type]
            for rule in target.rules
        ),
        schema_override=int(target.schema_override or 0),
        latency_edge_ns=target.latency_edge_ns,
    )


def _halt(entry: HaltEntry) -> Halt:
    try:
        since = _unix_ns(datetime.fromisoformat(entry.since))
    except ValueError:
        since = 0
    return Halt(entry.reason, entry.actor, since)


def _unix_ns(at: datetime) -> int:
    return int(at.timestamp() * 1e6) * 1000


def _time(unix_ns: int) -> datetime:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC)


def _plain(model: ModelDesired) -> dict[str, Any]:
    return {
        "revision": model.revision,
        "targets": [plain_target(target) for target in model.targets],
        "digests": {version: ref.digest for version, ref in model.versions.items()},
        "halt": None if model.halt is None else plain_halt(model.halt),
        "actor": model.actor,
        "reason": model.reason,
        # As text: JSON's numbers end at 2^53.
        "at_unix_ns": str(model.at_unix_ns),
    }


def _read_desired(body: Any) -> Desired:
    models = {}
    for name, plain in body["models"].items():
        revision = plain["revision"]
        models[name] = ModelDesired(
            name,
            revision,
            tuple(read_target(target) for target in plain["targets"]),
            {
                version: VersionRef(version, digest, fingerprint=(digest, revision))
                for version, digest in plain["digests"].items()
            },
            None if plain["halt"] is None else read_halt(plain["halt"]),
            plain["actor"],
            plain["reason"],
            int(plain["at_unix_ns"]),
        )
    return Desired(MappingProxyType(models), body["revision"])
