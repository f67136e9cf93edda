"""Schema compatibility with the live version: would a client that runs now be understood."""

from mlops.package import Manifest
from mlops.registry.desired import schema_changes
from mlops.registry.gates.policy import GatePolicy
from mlops.registry.gates.report import GateResult

_NAME = "schema"


def schema_gate(candidate: Manifest, live: Manifest, policy: GatePolicy) -> GateResult:
    """Feature names and their order, tensors, and whether answers still have a signal and a confidence.

    Where neither version names its features, equal tensors may still mean other features: that cannot be decided.
    """
    changes = schema_changes(live, candidate)
    for what in ("signal", "confidence"):
        if getattr(live, what) is not None and getattr(candidate, what) is None:
            changes.append(f"answers have no {what} any more")
    figures = {"changes": len(changes), "features": len(candidate.feature_names)}
    if changes and policy.schema_override:
        return GateResult(_NAME, "pass", f"accepted by a named override: {'; '.join(changes)}", figures)
    if changes:
        return GateResult(
            _NAME, "fail", f"clients of the live version would be misread: {'; '.join(changes)}", figures, 0.0
        )
    if not candidate.feature_names:
        text = "tensors are equal, but neither version names its features, so their order cannot be compared"
        return GateResult(_NAME, "inconclusive", text, figures, 0.0)
    text = f"the same {len(candidate.feature_names)} features in the same order, and the same tensors"
    return GateResult(_NAME, "pass", text, figures, 0.0)
