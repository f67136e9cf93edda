"""grpc.health.v1 Check, and what Watch refuses; what Watch tells over time is a test of its own."""

from server.engine import texts
from tests.conformance.case import Case, Expected, told
from tests.conformance.cases.describing import NOT_READY, uncounted
from tests.conformance.cases.echo import ON_ECHO
from tests.conformance.requests import BROKEN
from tests.conformance.served import Served
from tickserve.wire import health_pb2

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SERVICES = ("", "inference.GRPCInferenceService", "tickserve.v1.Prediction")


def _check(name: str, service: str, expected: Expected, served: Served = ON_ECHO) -> Case:
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return Case(name, served, CHECK, (request,), expected)


def _status(name: str) -> Expected:
    return told(health_pb2.HealthCheckResponse(status=name))


CASES = (
    *(_check(f"{service or 'the server'} serves", service, _status("SERVING")) for service in SERVICES),
    *(_check(f"{service or 'the server'} waits", service, _status("NOT_SERVING"), NOT_READY) for service in SERVICES),
    _check("unknown service", "nope", uncounted(texts.UNKNOWN_SERVICE, service="nope")),
    _check("unknown service with a long name", "n" * 999, uncounted(texts.UNKNOWN_SERVICE, service="n" * 64)),
    *(
        Case(
            "bytes that are no message",
            ON_ECHO,
            method,
            (BROKEN,),
            uncounted(texts.MALFORMED, message="HealthCheckRequest"),
        )
        for method in (CHECK, WATCH)
    ),
)
