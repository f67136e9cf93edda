"""Messages of the protocols that are not ours, in a private descriptor pool.

A process that also imports another package's stubs for the same protocol (tritonclient) would fail in the default
pool, where a symbol can be defined only once.
"""

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

_pool = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(
    resources.files(__name__).joinpath("descriptors.binpb").read_bytes()
).file:
    _pool.Add(_file)


def load_file(name: str) -> dict[str, object]:
    """The top-level messages, enums and enum values of one .proto file, by name."""
    file = _pool.FindFileByName(name)
    found: dict[str, object] = {"DESCRIPTOR": file}
    for message_name, message in file.message_types_by_name.items():
        found[message_name] = message_factory.GetMessageClass(message)
    for enum_name, enum in file.enum_types_by_name.items():
        found[enum_name] = EnumTypeWrapper(enum)
        found.update({value.name: value.number for value in enum.values})
    return found


def find_service(full_name: str) -> ServiceDescriptor:
    """The descriptor of one service, such as `inference.GRPCInferenceService`."""
    return _pool.FindServiceByName(full_name)
