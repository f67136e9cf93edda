"""The arithmetic of plans: from a target and what is loaded to the plan of a model, without effects."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from mlops.package import Bounds, EventTimeRule, InputRules, OutputRule
from mlops.routing import upper_bound
from server.models.loading import Loaded
from server.models.values import RuleChange, Target
from server.plan import Halt, ModelPlan, Segment, Shadow, Split, VersionPlan
from tickserve.errors import PackageError


def segments(target: Target) -> tuple[Segment, ...]:
    """The split as parts of the routing hashes."""
    roles = {share.version: share.role for share in target.shares}
    return tuple(Segment(upper_bound(each.upto_bp), each.version, roles[each.version]) for each in target.layout)


def model_plan(name: str, target: Target, previous: str, loaded: Mapping[str, Loaded], halt: Halt | None) -> ModelPlan:
    """The plan of one model: what of the target is loaded, and the version that is kept warm."""
    wanted = (*target.required, *target.optional, *((previous,) if previous else ()))
    versions = {version: loaded[version].plan for version in dict.fromkeys(wanted) if version in loaded}
    usable = target.helpers & versions.keys() - misfits(target, loaded).keys()
    shadow = target.shadow
    return ModelPlan(
        name=name,
        versions=MappingProxyType(versions),
        split=Split(target.salt.encode(), segments(target)),
        pins=frozenset(target.pins & versions.keys()),
        client_pins=MappingProxyType(
            {version: frozenset(map(_identity, ids)) for version, ids in target.client_pins if version in versions}
        ),
        halt=halt,
        position_scale=target.position_scale,
        previous=previous,
        latency_edge_ns=target.latency_edge_ns,
        shadow=Shadow(shadow.version, shadow.fraction_bp, shadow.salt.encode(), shadow.of)
        if shadow is not None and shadow.version in usable
        else None,
        fallback=target.fallback if target.fallback in usable else "",
    )


def misfits(target: Target, loaded: Mapping[str, Loaded]) -> Mapping[str, str]:
    """Why shadow or fallback cannot be that: both get what was sent for the stable version, and answer in its place."""
    stable = loaded.get(target.stable)
    if stable is None:
        return {}
    found = {}
    for version in sorted(target.helpers & loaded.keys(), key=int):
        differences = schema_differences(stable.plan, loaded[version].plan)
        if differences:
            found[version] = (
                f"version {version} has other {differences} than version {target.stable}, which is stable: it can be "
                "neither its shadow nor its fallback"
            )
    return found


def _identity(client: str) -> str:
    """An identity as gRPC writes it: people write the brackets of IPv6 addresses as they are."""
    return client.replace("[", "%5B").replace("]", "%5D") if client.startswith("ipv6:") else client


def schema_differences(old: VersionPlan, new: VersionPlan) -> str:
    """What a running client would misread, in words; empty where nothing."""
    differences = [
        what
        for what, before, after in (
            ("feature names or their order", old.feature_names, new.feature_names),
            ("inputs", old.inputs, new.inputs),
            ("outputs", old.outputs, new.outputs),
        )
        if before != after
    ]
    return " and ".join(differences)


def require_schema(old: VersionPlan, new: VersionPlan, accepts: Callable[[], bool]) -> None:
    """Raises PackageError where a running client would misread the new version, and nobody accepted that."""
    differences = schema_differences(old, new)
    if differences and not accepts():
        raise PackageError(
            f"version {new.version} of model {new.model!r} has other {differences} than version {old.version}, which "
            f"clients use now; name it as schema override where they are ready for it, or serve it under another name",
            field="schema",
        )


def with_rules(plan: VersionPlan, changes: Iterable[RuleChange]) -> VersionPlan:
    """The version with some of its rules replaced; a change of a rule that it does not have changes nothing."""
    inputs, outputs = plan.input_rules, plan.output_rules
    for change in changes:
        inputs = _input_rules(inputs, change)
        outputs = tuple(_output_rule(rule, change) for rule in outputs)
    return replace(plan, input_rules=inputs, output_rules=outputs)


def _input_rules(rules: InputRules, change: RuleChange) -> InputRules:
    feature = change.rule.removeprefix("bounds:")
    bound = rules.bounds.get(feature)
    if feature != change.rule and bound is not None:
        return rules.model_copy(update={"bounds": {**rules.bounds, feature: _bounds(bound, change)}})
    if change.rule in ("max_age", "max_future") and change.policy:
        event_time: EventTimeRule = rules.event_time.model_copy(update={"policy": change.policy})
        return rules.model_copy(update={"event_time": event_time})
    return rules


def _bounds(bound: Bounds, change: RuleChange) -> Bounds:
    return bound.model_copy(update=_replaced(change))


def _output_rule(rule: OutputRule, change: RuleChange) -> OutputRule:
    return rule.model_copy(update=_replaced(change)) if rule.name == change.rule else rule


def _replaced(change: RuleChange) -> dict[str, object]:
    given = {"policy": change.policy or None, "minimum": change.minimum, "maximum": change.maximum}
    return {name: value for name, value in given.items() if value is not None}
