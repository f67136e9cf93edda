"""What an import costs, and that the typed values cover the wire."""

import subprocess
import sys

import pytest

import tickserve
from tickserve.client.answer import ROLES
from tickserve.prediction import FindingKind, Role
from tickserve.v1 import prediction_pb2 as pb


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tickserve", {"numpy", "grpc", "google.protobuf"}),
        ("from tickserve import Prediction", {"grpc"}),
        ("from tickserve import Client", {"pandas", "onnxruntime", "rich", "typer"}),
    ],
)
def test_an_import_brings_only_what_it_needs(statement: str, absent: set[str]) -> None:
    code = f"{statement}; import sys; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert absent & set(loaded) == set()


def test_every_public_name_is_there() -> None:
    assert [name for name in tickserve.__all__ if getattr(tickserve, name, None) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        _ = tickserve.Klient  # type: ignore[attr-defined]


def test_every_role_and_finding_of_the_wire_has_its_value() -> None:
    assert set(ROLES.values()) == set(Role)
    assert {name.removeprefix("FINDING_KIND_").lower() for name in pb.FindingKind.keys()} == set(FindingKind)  # noqa: SIM118
