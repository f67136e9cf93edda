"""grpcurl through reflection, with no .proto file at hand, and on health."""

import json
import subprocess
from collections.abc import Iterable

import pytest

from tests.e2e.conftest import Running
from tests.integration.programs import PROTOS, grpcurl, program

ROW = {"momentum": 1.0, "rsi": 2.0, "volume": 3.0}
REQUEST = json.dumps({"model": "demo", "named": [{"name": name, "value": value} for name, value in ROW.items()]})
PREDICT = "tickserve.v1.Prediction/Predict"


def next_object(lines: Iterable[str]) -> dict[str, object]:
    """The next JSON object of a stream, which grpcurl prints over several lines."""
    text = ""
    for line in lines:
        text += line
        if line.rstrip() == "}":
            return dict(json.loads(text))
    raise AssertionError(f"the stream ended after {text!r}")


def test_services_are_listed(served: Running) -> None:
    listed = grpcurl(served.address, "list").split()
    assert {"grpc.health.v1.Health", "inference.GRPCInferenceService", "tickserve.v1.Prediction"} <= set(listed)
    assert any(name.startswith("grpc.reflection.") for name in listed)


@pytest.mark.parametrize("name", ["grpcurl", "grpcurl-v1alpha"])
def test_everything_is_described_to_who_names_nothing(served: Running, name: str) -> None:
    listed = grpcurl(served.address, "list", name=name).split()
    described = grpcurl(served.address, "describe", name=name).splitlines()
    assert [line.split()[0] for line in described if line.endswith(" is a service:")] == listed
    assert "  rpc Predict ( .tickserve.v1.PredictRequest ) returns ( .tickserve.v1.PredictResponse );" in described
    for service in listed:
        assert f"{service} is a service:" in grpcurl(served.address, "describe", service, name=name)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_of_both_versions_can_be_called_by_name(served: Running, version: str) -> None:
    service = f"grpc.reflection.{version}.ServerReflection"
    request = json.dumps({"file_containing_symbol": service})
    answer = json.loads(grpcurl("-d", request, served.address, f"{service}/ServerReflectionInfo"))
    assert len(answer["fileDescriptorResponse"]["fileDescriptorProto"]) == 1


def test_messages_are_described(served: Running) -> None:
    assert "rpc ModelStreamInfer" in grpcurl(served.address, "describe", "inference.GRPCInferenceService")
    described = grpcurl(served.address, "describe", "tickserve.v1.PredictRequest")
    assert "bytes feature_digest = 6;" in described
    assert "repeated .inference.ModelInput input = 5" in grpcurl(served.address, "describe", "inference.ModelConfig")


def test_predicts_through_reflection(served: Running) -> None:
    answer = json.loads(grpcurl("-d", REQUEST, served.address, PREDICT))
    assert (answer["model"], answer["version"], answer["values"]) == ("demo", "1", [0.5])


def test_streams_through_reflection(served: Running) -> None:
    messages = [{"sequence": number, "predict": json.loads(REQUEST)} for number in (5, 6)]
    messages.insert(1, {"sequence": 9, "predict": {"model": "nope"}})
    sent = " ".join(json.dumps(message) for message in messages)
    printed = grpcurl("-d", sent, served.address, "tickserve.v1.Prediction/PredictStream").splitlines(keepends=True)
    lines = iter(printed)
    answers = [next_object(lines) for _ in messages]
    assert [answer["sequence"] for answer in answers] == ["5", "9", "6"]
    assert ["answer" in answer for answer in answers] == [True, False, True]
    assert answers[1]["error"]["reason"] == "REASON_NOT_FOUND"  # type: ignore[index]


def test_predicts_from_the_protos_alone(served: Running) -> None:
    protos = (*PROTOS, "-proto", "tickserve/v1/prediction.proto")
    assert json.loads(grpcurl(*protos, "-d", REQUEST, served.address, PREDICT))["values"] == [0.5]


def test_health_is_checked_by_service(served: Running) -> None:
    check = "grpc.health.v1.Health/Check"
    assert json.loads(grpcurl(served.address, check)) == {"status": "SERVING"}
    asked = '{"service": "inference.GRPCInferenceService"}'
    assert json.loads(grpcurl("-d", asked, served.address, check)) == {"status": "SERVING"}
    not_found = 64 + 5
    grpcurl("-d", '{"service": "nope"}', served.address, check, code=not_found)


def test_watch_sees_the_server_go_away(served: Running) -> None:
    command = [program("grpcurl"), "-plaintext", "-max-time", "20", served.address, "grpc.health.v1.Health/Watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as watching:
        assert watching.stdout is not None
        assert next_object(watching.stdout) == {"status": "SERVING"}
        served.control.drain(actor="test", reason="end of day")
        assert next_object(watching.stdout) == {"status": "NOT_SERVING"}
    assert served.process.wait(60) == 0
