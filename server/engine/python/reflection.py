"""Server reflection: what is offered here, from the descriptors of the messages themselves."""

from collections.abc import Iterable, Iterator, Sequence

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor
from google.protobuf.message import DecodeError

from server.engine import texts
from tickserve.v1 import control_pb2, prediction_pb2
from tickserve.wire import find_service
from tickserve.wire import reflection_pb2 as pb

#: Both versions of the service have the same messages.
SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_OURS = (prediction_pb2.DESCRIPTOR, control_pb2.DESCRIPTOR)
_FOREIGN = ("inference.GRPCInferenceService", "grpc.health.v1.Health", SERVICES[0])


class Reflection:
    """Answers reflection requests about the services named."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = sorted(services)
        self._files: dict[str, FileDescriptor] = {}
        self._symbols: dict[str, FileDescriptor] = {}
        for file in (*_OURS, *(find_service(name).file for name in _FOREIGN), _alpha()):
            self._add(file)

    def answer(self, data: bytes) -> bytes:
        """Answers one ServerReflectionRequest. Raises PredictionError where the bytes are none."""
        try:
            request = pb.ServerReflectionRequest.FromString(data)
        except DecodeError:
            raise texts.MALFORMED.error(message="ServerReflectionRequest") from None
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                self._describe(response, self._files.get(request.file_by_filename), request.file_by_filename)
            case "file_containing_symbol":
                symbol = request.file_containing_symbol
                self._describe(response, self._symbols.get(symbol), symbol)
            case "all_extension_numbers_of_type":
                response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
            case "file_containing_extension":
                self._describe(response, None, request.file_containing_extension.containing_type)
            case _:
                response.error_response.error_code = texts.REFLECTION_NOTHING.code
                response.error_response.error_message = texts.REFLECTION_NOTHING.fill()
        return response.SerializeToString()

    def _add(self, file: FileDescriptor) -> None:
        self._files[file.name] = file
        self._symbols.update(dict.fromkeys(_symbols(file), file))
        for dependency in file.dependencies:
            self._add(dependency)

    def _describe(self, response: pb.ServerReflectionResponse, file: FileDescriptor | None, what: str) -> None:
        if file is None:
            response.error_response.error_code = texts.REFLECTION_UNKNOWN.code
            response.error_response.error_message = texts.REFLECTION_UNKNOWN.fill(what=what[:256])
            return
        response.file_descriptor_response.file_descriptor_proto.extend(
            each.serialized_pb for each in _with_dependencies(file)
        )


def descriptors() -> list[bytes]:
    """Every file that is described here, with all that it imports, serialized."""
    files = (*_OURS, *(find_service(name).file for name in _FOREIGN), _alpha())
    found = {each.name: each.serialized_pb for file in files for each in _with_dependencies(file)}
    return list(found.values())


def _alpha() -> FileDescriptor:
    """The file of v1alpha: that of v1 under the other package name."""
    stable, alpha = (name.rpartition(".")[0] for name in SERVICES)
    file = descriptor_pb2.FileDescriptorProto.FromString(find_service(SERVICES[0]).file.serialized_pb)
    file.name, file.package = f"{alpha.replace('.', '/')}/reflection.proto", alpha
    for message in file.message_type:
        for field in (each for each in message.field if each.type_name):
            field.type_name = field.type_name.replace(f".{stable}.", f".{alpha}.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(f".{stable}.", f".{alpha}.")
        method.output_type = method.output_type.replace(f".{stable}.", f".{alpha}.")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindFileByName(file.name)


def _symbols(file: FileDescriptor) -> Iterator[str]:
    """Full names of everything that a file defines."""
    yield from _enum_symbols(file.enum_types_by_name.values())
    yield from _message_symbols(file.message_types_by_name.values())
    for service in file.services_by_name.values():
        yield service.full_name
        yield from (method.full_name for method in service.methods)


def _message_symbols(messages: Iterable[Descriptor]) -> Iterator[str]:
    for message in messages:
        yield message.full_name
        yield from (field.full_name for field in message.fields)
        yield from (oneof.full_name for oneof in message.oneofs)
        yield from _enum_symbols(message.enum_types)
        yield from _message_symbols(message.nested_types)


def _enum_symbols(enums: Iterable[EnumDescriptor]) -> Iterator[str]:
    for enum in enums:
        yield enum.full_name
        # Values stand beside their enum, not in it.
        scope = enum.full_name.rpartition(".")[0]
        yield from (f"{scope}.{value.name}" for value in enum.values)


def _with_dependencies(file: FileDescriptor) -> list[FileDescriptor]:
    found = {file.name: file}
    for dependency in file.dependencies:
        found.update({each.name: each for each in _with_dependencies(dependency)})
    return list(found.values())
