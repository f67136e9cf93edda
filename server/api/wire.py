"""Between the messages of Control and the values of the control plane."""

import math

from server.models import Event, ModelDesired, ModelRecord, RuleChange, ShadowShare, Share, Snapshot, Target
from server.models.records import refused_versions
from server.plan import Halt, Role
from tickserve.errors import Code, ControlError
from tickserve.v1 import control_pb2 as pb
from tickserve.v1 import prediction_pb2

_WHOLE_BP = 10_000
#: As many as a registry takes.
_VERSION_DIGITS = 18
#: Of integers in JSON, in which the state is kept.
_LARGEST = (1 << 53) - 1


def model_status(record: ModelRecord, snapshot: Snapshot) -> pb.ModelStatus:
    """One model: meant, served and failed."""
    installed = snapshot.plan.models.get(record.name)
    halt = installed.halt if installed else None
    held = snapshot.overrides.held.get(record.name)
    status = pb.ModelStatus(
        name=record.name,
        state=f"MODEL_STATE_{_state(record, halt)}",
        halt=halt_info(halt),
        desired=_desired(record.desired),
        failed=[
            pb.FailedChange(
                version=change.version,
                digest=_digest(record, change.version),
                code=change.error.code,
                message=change.error.message,
                at_unix_ns=change.at_unix_ns,
                attempts=change.attempts,
            )
            for change in record.faults.values()
        ],
        is_following=held is None,
        previous=record.previous,
        loading=sorted((version for name, version in snapshot.loading if name == record.name), key=int),
    )
    if held is not None:
        status.overrides.add(kind="held", actor=held.actor, reason=held.reason, since_unix_ns=held.since_unix_ns)
    for refused, mark in refused_versions(record, snapshot.overrides).items():
        status.overrides.add(
            kind="taken_out",
            version=refused,
            actor=mark.actor,
            reason=mark.reason,
            since_unix_ns=mark.since_unix_ns,
        )
    if installed is None or record.target is None:
        return status
    shares = {share.version: share for share in record.target.shares}
    for number, version in installed.versions.items():
        prepared, share = record.prepared[number], shares.get(number)
        status.versions.add(
            version=number,
            digest=version.digest,
            role=prediction_pb2.Role.Name(installed.role(number)),
            weight_bp=share.weight_bp if share else 0,
            since_unix_ns=record.since_unix_ns[number],
            resident_bytes=prepared.resident_bytes,
            run_time_ns=prepared.run_time_ns,
            golden_max_error=prepared.golden_max_error or 0.0,
        )
    return status


def event(item: Event) -> pb.Event:
    """One event."""
    return pb.Event(
        sequence=item.sequence,
        at_unix_ns=item.at_unix_ns,
        kind=item.kind,
        model=item.model,
        version=item.version,
        actor=item.actor,
        message=item.message,
    )


def halt_info(halt: Halt | None) -> pb.HaltInfo | None:
    """Who stopped a model, when and why."""
    return None if halt is None else pb.HaltInfo(reason=halt.reason, actor=halt.actor, since_unix_ns=halt.since_unix_ns)


def read_target(desired: pb.DesiredState) -> Target:
    """What a desired state asks for. Raises ControlError naming the entry at fault."""
    shares = tuple(_share(share) for share in desired.split)
    if shares:
        if sum(share.weight_bp for share in shares) != _WHOLE_BP:
            raise _invalid("desired.split", f"weights sum to {sum(share.weight_bp for share in shares)}, not 10000")
        if [share.role for share in shares].count(Role.STABLE) != 1:
            raise _invalid("desired.split", "exactly one version has ROLE_STABLE")
        if len({share.version for share in shares}) != len(shares):
            raise _invalid("desired.split", "a version is named twice")
    scale = desired.position_scale if desired.HasField("position_scale") else 1.0
    if not 0.0 <= scale <= 1.0:
        raise _invalid("desired.position_scale", f"{scale} is not from 0 to 1")
    pins = {_version("desired.allowed_pins", pin.version): tuple(pin.clients) for pin in desired.allowed_pins}
    if len(pins) != len(desired.allowed_pins):
        raise _invalid("desired.allowed_pins", "a version is named twice")
    if desired.latency_edge_ns > _LARGEST:
        raise _invalid("desired.latency_edge_ns", f"{desired.latency_edge_ns} is more than {_LARGEST}")
    return Target(
        shares=shares,
        pins=frozenset(version for version, clients in pins.items() if not clients),
        salt=desired.salt,
        position_scale=scale,
        rules=tuple(_rule(change) for change in desired.rule_overrides),
        schema_override=_version("desired.schema_override", desired.schema_override) if desired.schema_override else "",
        shadow=_shadow(desired.shadow) if desired.HasField("shadow") else None,
        fallback=_version("desired.fallback_version", desired.fallback_version) if desired.fallback_version else "",
        client_pins=tuple((version, clients) for version, clients in sorted(pins.items()) if clients),
        latency_edge_ns=desired.latency_edge_ns,
    )


def read_halt(desired: pb.DesiredState) -> Halt | None:
    """The halt of a desired state."""
    if not desired.HasField("halt"):
        return None
    return Halt(desired.halt.reason, desired.halt.actor, desired.halt.since_unix_ns)


def _desired(desired: ModelDesired) -> pb.DesiredState:
    target = desired.targets[0] if desired.targets else Target(())
    shadow = target.shadow
    return pb.DesiredState(
        model=desired.name,
        revision=desired.revision,
        split=[
            pb.Share(version=share.version, role=prediction_pb2.Role.Name(share.role), weight_bp=share.weight_bp)
            for share in target.shares
        ],
        salt=target.salt,
        shadow=pb.Shadow(version=shadow.version, fraction_bp=shadow.fraction_bp, salt=shadow.salt, of=shadow.of)
        if shadow
        else None,
        fallback_version=target.fallback,
        position_scale=target.position_scale,
        halt=halt_info(desired.halt),
        allowed_pins=[pb.AllowedPin(version=version) for version in sorted(target.pins, key=int)]
        + [pb.AllowedPin(version=version, clients=clients) for version, clients in target.client_pins],
        rule_overrides=[
            pb.RuleOverride(rule=rule.rule, policy=rule.policy, minimum=rule.minimum, maximum=rule.maximum)
            for rule in target.rules
        ],
        actor=desired.actor,
        reason=desired.reason,
        at_unix_ns=desired.at_unix_ns,
        schema_override=target.schema_override,
        latency_edge_ns=target.latency_edge_ns,
    )


def _digest(record: ModelRecord, version: str) -> bytes:
    ref = record.desired.versions.get(version)
    return bytes.fromhex(ref.digest) if ref is not None else b""


def _state(record: ModelRecord, halt: Halt | None) -> str:
    if record.plan is None:
        return "FAILED" if record.failed else "LOADING"
    return "HALTED" if halt is not None else "SERVING"


def _share(share: pb.Share) -> Share:
    if int(share.role) not in (Role.STABLE, Role.CANARY):
        raise _invalid("desired.split", f"version {share.version} needs ROLE_STABLE or ROLE_CANARY")
    if not 1 <= share.weight_bp <= _WHOLE_BP:
        raise _invalid("desired.split", f"weight {share.weight_bp} is not from 1 to 10000")
    return Share(_version("desired.split", share.version), Role(share.role), share.weight_bp)


def _shadow(shadow: pb.Shadow) -> ShadowShare:
    if not 1 <= shadow.fraction_bp <= _WHOLE_BP:
        raise _invalid("desired.shadow", f"fraction {shadow.fraction_bp} is not from 1 to 10000")
    version, of = _version("desired.shadow", shadow.version), shadow.of and _version("desired.shadow", shadow.of)
    if of == version:
        raise _invalid("desired.shadow", f"version {version} cannot be the shadow of itself")
    return ShadowShare(version, shadow.fraction_bp, shadow.salt, of)


def _rule(change: pb.RuleOverride) -> RuleChange:
    low = change.minimum if change.HasField("minimum") else None
    high = change.maximum if change.HasField("maximum") else None
    if not all(bound is None or math.isfinite(bound) for bound in (low, high)):
        raise _invalid("desired.rule_overrides", f"a bound of rule {change.rule!r} is no finite number")
    if low is not None and high is not None and low > high:
        raise _invalid("desired.rule_overrides", f"minimum {low} of rule {change.rule!r} is above its maximum {high}")
    if change.policy not in ("", "reject", "clip", "flag", "fallback"):
        raise _invalid("desired.rule_overrides", f"policy {change.policy!r} is none of reject, clip, flag, fallback")
    return RuleChange(change.rule, change.policy, low, high)


def _version(field: str, version: str) -> str:
    if not version.isascii() or not version.isdecimal() or version.startswith("0") or len(version) > _VERSION_DIGITS:
        raise _invalid(
            field, f"version {version[:40]!r} is no positive decimal integer of at most {_VERSION_DIGITS} digits"
        )
    return version


def _invalid(field: str, text: str) -> ControlError:
    return ControlError(f"{field}: {text}", code=Code.INVALID_ARGUMENT, field=field)
