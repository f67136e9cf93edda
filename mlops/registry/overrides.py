"""Rule overrides: which rules of a package a desired state may replace, by the names that servers count them under."""

from collections.abc import Iterable

from mlops.package import Manifest
from mlops.registry.values import DesiredState, RuleOverride
from tickserve.errors import RegistryArgumentError

_OUTPUT = frozenset({"reject", "flag", "fallback"})
_BOUNDS = frozenset({"reject", "clip", "flag"})
_AGE = frozenset({"reject", "flag"})


def check_overrides(before: DesiredState | None, state: DesiredState, manifests: Iterable[Manifest]) -> None:
    """Raises RegistryArgumentError where a new override replaces no rule of any of these packages.

    Those that were there before stay, although the version that has the rule may be gone: a promotion must not fail
    for them.
    """
    known = before.rule_overrides if before else ()
    packages = list(manifests)
    for override in state.rule_overrides:
        if override not in known:
            _check(override, packages)


def _check(override: RuleOverride, packages: list[Manifest]) -> None:
    found = [rules[override.rule] for rules in map(_rules, packages) if override.rule in rules]
    if not found:
        names = sorted({name for manifest in packages for name in _rules(manifest)})
        raise RegistryArgumentError(
            f"no version named here has a rule {override.rule!r}; rules are {', '.join(names) or 'none'}",
            field="rule_overrides",
        )
    policies, has_bounds = found[0]
    if override.policy is not None and override.policy not in policies:
        raise RegistryArgumentError(
            f"rule {override.rule!r} can have the policies {', '.join(sorted(policies))}, not {override.policy}",
            field="rule_overrides",
        )
    if not has_bounds and (override.minimum, override.maximum) != (None, None):
        raise RegistryArgumentError(f"rule {override.rule!r} has no bounds to replace", field="rule_overrides")


def _rules(manifest: Manifest) -> dict[str, tuple[frozenset[str], bool]]:
    """The rules of a package by name: policies that each can have, and whether it has bounds."""
    event_time = manifest.input_rules.event_time
    ages = {"max_age": event_time.max_age_s, "max_future": event_time.max_future_s}
    return (
        {rule.name: (_OUTPUT, rule.kind != "finite") for rule in manifest.output_rules}
        | {f"bounds:{feature}": (_BOUNDS, True) for feature in manifest.input_rules.bounds}
        | {name: (_AGE, False) for name, bound in ages.items() if bound is not None}
    )
