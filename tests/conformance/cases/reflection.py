"""Server reflection in both versions: every service with all it needs, by service, method, message, file."""

from collections.abc import Iterator

from google.protobuf.descriptor import FileDescriptor

from server.engine import texts
from tests.conformance.case import Case, Expected, Reply, refused, told
from tests.conformance.cases.echo import ON_ECHO
from tests.conformance.requests import BROKEN
from tickserve.v1 import control_pb2, prediction_pb2
from tickserve.wire import find_service
from tickserve.wire import reflection_pb2 as pb

VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
SERVICES = (
    "grpc.health.v1.Health",
    *VERSIONS,
    "inference.GRPCInferenceService",
    "tickserve.v1.Control",
    "tickserve.v1.Prediction",
)
_FILES = (
    prediction_pb2.DESCRIPTOR,
    control_pb2.DESCRIPTOR,
    *(find_service(name).file for name in ("inference.GRPCInferenceService", "grpc.health.v1.Health", VERSIONS[0])),
)


def _answer(request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
    return pb.ServerReflectionResponse(valid_host=request.host, original_request=request)


def _described(file: FileDescriptor, **asked: str) -> tuple[pb.ServerReflectionRequest, Expected]:
    request = pb.ServerReflectionRequest(**asked)
    response = _answer(request)
    response.file_descriptor_response.file_descriptor_proto.extend(each.serialized_pb for each in _needed(file))
    return request, told(response)


def _needed(file: FileDescriptor) -> list[FileDescriptor]:
    """The file, and after it what it needs."""
    found = {file.name: file}
    for dependency in file.dependencies:
        found |= {each.name: each for each in _needed(dependency)}
    return list(found.values())


def _unknown(**asked: str) -> tuple[pb.ServerReflectionRequest, Expected]:
    request = pb.ServerReflectionRequest(**asked)
    response = _answer(request)
    (what,) = asked.values()
    response.error_response.error_code = texts.REFLECTION_UNKNOWN.code
    response.error_response.error_message = texts.REFLECTION_UNKNOWN.fill(what=what)
    return request, told(response, texts.REFLECTION_UNKNOWN)


def _services() -> tuple[pb.ServerReflectionRequest, Expected]:
    request = pb.ServerReflectionRequest(host="here", list_services="*")
    response = _answer(request)
    for name in sorted(SERVICES):
        response.list_services_response.service.add(name=name)
    return request, told(response)


def _nothing() -> tuple[pb.ServerReflectionRequest, Expected]:
    request = pb.ServerReflectionRequest()
    response = _answer(request)
    response.error_response.error_code = texts.REFLECTION_NOTHING.code
    response.error_response.error_message = texts.REFLECTION_NOTHING.fill()
    return request, told(response, texts.REFLECTION_NOTHING)


def _extension_numbers() -> tuple[pb.ServerReflectionRequest, Expected]:
    request = pb.ServerReflectionRequest(all_extension_numbers_of_type="tickserve.v1.Limits")
    response = _answer(request)
    response.all_extension_numbers_response.base_type_name = "tickserve.v1.Limits"
    return request, told(response)


def _extension() -> tuple[pb.ServerReflectionRequest, Expected]:
    request = pb.ServerReflectionRequest()
    request.file_containing_extension.containing_type = "tickserve.v1.Limits"
    response = _answer(request)
    response.error_response.error_code = texts.REFLECTION_UNKNOWN.code
    response.error_response.error_message = texts.REFLECTION_UNKNOWN.fill(what="tickserve.v1.Limits")
    return request, told(response)


QUESTIONS = {
    "services": _services(),
    "field": _described(prediction_pb2.DESCRIPTOR, file_containing_symbol="tickserve.v1.PredictRequest.rows"),
    "enum value": _described(prediction_pb2.DESCRIPTOR, file_containing_symbol="tickserve.v1.ROLE_STABLE"),
    "unknown symbol": _unknown(file_containing_symbol="no.Such"),
    "unknown file": _unknown(file_by_filename="etc/passwd"),
    "extensions of a message": _extension_numbers(),
    "unknown extension": _extension(),
    "nothing": _nothing(),
    **{f"file {file.name}": _described(file, file_by_filename=file.name) for file in _FILES},
    **{
        f"service {service.full_name}": _described(file, file_containing_symbol=service.full_name)
        for file in _FILES
        for service in file.services_by_name.values()
    },
    **{
        f"method {method.full_name}": _described(file, file_containing_symbol=method.full_name)
        for file in _FILES
        for service in file.services_by_name.values()
        for method in service.methods
    },
}


def _cases() -> Iterator[Case]:
    for version in VERSIONS:
        method = f"/{version}/ServerReflectionInfo"
        label = version.split(".")[2]
        messages = tuple(request.SerializeToString() for request, _ in QUESTIONS.values())
        replies: tuple[Reply, ...] = sum((expected.replies for _, expected in QUESTIONS.values()), ())
        table = (texts.REFLECTION_NOTHING, texts.REFLECTION_UNKNOWN)
        yield Case(f"{label}, everything in one stream", ON_ECHO, method, messages, Expected(replies, table=table))
        malformed = refused(texts.MALFORMED, by="", message="ServerReflectionRequest")
        yield Case(f"{label}, bytes that are no message", ON_ECHO, method, (BROKEN,), malformed)


CASES = tuple(_cases())
