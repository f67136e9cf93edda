"""Desired state off the wire: what no source could keep or obey is refused by name, before any of them sees it."""

import pytest

from server.api import wire
from tickserve.errors import Code, ControlError
from tickserve.v1 import control_pb2 as pb

STABLE = pb.Share(version="1", role="ROLE_STABLE", weight_bp=10_000)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            {"allowed_pins": [pb.AllowedPin(version="one", clients=["ipv4:10.0.0.1"])]},
            "desired.allowed_pins: version 'one'",
        ),
        ({"allowed_pins": [pb.AllowedPin(version="1"), pb.AllowedPin(version="1", clients=["a"])]}, "is named twice"),
        ({"schema_override": "latest"}, "desired.schema_override: version 'latest' is no positive decimal integer"),
        (
            {"fallback_version": "9" * 5000},
            "desired.fallback_version: version '9+' is no positive .* at most 18 digits",
        ),
        ({"latency_edge_ns": 1 << 60}, "desired.latency_edge_ns: 1152921504606846976 is more than"),
        ({"rule_overrides": [pb.RuleOverride(rule="limit", minimum=float("nan"))]}, "no finite number"),
        ({"rule_overrides": [pb.RuleOverride(rule="limit", maximum=float("inf"))]}, "no finite number"),
        ({"position_scale": float("nan")}, "desired.position_scale: nan is not from 0 to 1"),
    ],
)
def test_what_cannot_be_desired_is_refused_by_name(entry: dict[str, object], text: str) -> None:
    with pytest.raises(ControlError, match=text) as refused:
        wire.read_target(pb.DesiredState(model="demo", split=[STABLE], **entry))  # type: ignore[arg-type]
    assert refused.value.code is Code.INVALID_ARGUMENT
