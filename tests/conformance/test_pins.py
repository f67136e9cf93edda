"""Pins of some clients: by the certificate or the address, on calls and on streams that were open before."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import MappingProxyType

import grpc

from server.plan import Plan
from tests.conformance.conftest import Bench, outcome
from tests.conformance.requests import PREDICT, PREDICT_STREAM, predict
from tests.conformance.running import OWN_CONNECTION, Stream
from tests.conformance.test_clients import BOUND_S, Relay, authority, opened  # noqa: F401 - fixtures
from tests.support.certificates import Authority, Signed
from tests.support.models import echo_model, version_plan
from tickserve.listening.tls import Certificates, TlsFiles
from tickserve.v1 import prediction_pb2 as pb

Make = Callable[..., Bench]
PINNED = predict([1, 2, 3], version="1")
FRAMED = pb.PredictStreamRequest(sequence=1, predict=pb.PredictRequest.FromString(PINNED)).SerializeToString()


def check_pins(bench: Bench, allowed: str, first: grpc.Channel, other: grpc.Channel) -> None:
    """Only the client of `first` may pin, once a plan says so."""
    streams = [Stream(channel, PREDICT_STREAM) for channel in (first, other)]

    def answers() -> list[str]:
        found = [outcome(channel.unary_unary(PREDICT).future(PINNED, timeout=BOUND_S)) for channel in (first, other)]
        for stream in streams:
            stream.send(FRAMED)
        told = [pb.PredictStreamResponse.FromString(stream.receive()) for stream in streams]
        reasons = [pb.Reason.Name(each.error.reason) if each.HasField("error") else "REASON_OK" for each in told]
        return [each.reason or each.status for each in found] + [name.removeprefix("REASON_") for name in reasons]

    assert answers() == ["PIN_REFUSED"] * 4
    plan = replace(bench.models["echo"], client_pins={"1": frozenset({allowed, "subject:CN=nobody"})})
    bench.engine.install(Plan(bench.generation + 1, MappingProxyType({"echo": plan})))
    assert answers() == ["OK", "PIN_REFUSED"] * 2
    for stream in streams:
        stream.close()
        assert stream.ends_with() == ("OK", "")


def test_pins_go_by_the_subject_of_the_certificate(
    make_bench: Make,
    authority: Authority,  # noqa: F811
    opened: ExitStack,  # noqa: F811
) -> None:
    own = authority.sign("pinning-server")
    certificates = Certificates(TlsFiles(own.certificate, own.key, client_ca=authority.certificate))
    bench = make_bench(certificates=certificates)
    bench.install(version_plan(bench.folder, echo_model()))

    def connect(shown: Signed) -> grpc.Channel:
        files = (authority.certificate, shown.key, shown.certificate)
        credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))
        return opened.enter_context(grpc.secure_channel(bench.address, credentials, OWN_CONNECTION))

    check_pins(bench, "subject:CN=tester", connect(authority.sign("tester")), connect(authority.sign("desk")))


def test_pins_go_by_the_address_where_there_is_no_certificate(make_bench: Make, opened: ExitStack) -> None:  # noqa: F811
    bench = make_bench()
    bench.install(version_plan(bench.folder, echo_model()))

    def connect(source: str) -> grpc.Channel:
        address = opened.enter_context(Relay(bench.address, source)).address
        return opened.enter_context(grpc.insecure_channel(address, OWN_CONNECTION))

    check_pins(bench, "ipv4:127.0.0.2", connect("127.0.0.2"), connect("127.0.0.1"))
