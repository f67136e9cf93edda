"""Everything in protos/ says what it means: each definition has a comment of its own in front."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

PROTOS = Path(__file__).resolve().parents[2] / "protos"
FILES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))

#: Field numbers from the file down to a definition: what SourceCodeInfo names it by.
Place = tuple[int, ...]


class _Named(Protocol):
    name: str


def definitions(file: FileDescriptorProto) -> Iterator[tuple[str, Place]]:
    """Name and place of each message, field, oneof, enum, enum value, service and rpc that the file spells out."""
    yield from _messages("", (FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER,), file.message_type)
    yield from _enums("", (FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER,), file.enum_type)
    for index, service in enumerate(file.service):
        place = (FileDescriptorProto.SERVICE_FIELD_NUMBER, index)
        yield service.name, place
        yield from _members(service.name, (*place, ServiceDescriptorProto.METHOD_FIELD_NUMBER), service.method)


def _messages(scope: str, places: Place, messages: Iterable[DescriptorProto]) -> Iterator[tuple[str, Place]]:
    for index, message in enumerate(messages):
        if message.options.map_entry:
            continue
        name, place = f"{scope}{message.name}", (*places, index)
        yield name, place
        yield from _members(name, (*place, DescriptorProto.FIELD_FIELD_NUMBER), message.field)
        # What protoc makes of `optional` comes after the oneofs that the file spells out.
        hidden = sum(field.proto3_optional for field in message.field)
        oneofs = message.oneof_decl[: len(message.oneof_decl) - hidden]
        yield from _members(name, (*place, DescriptorProto.ONEOF_DECL_FIELD_NUMBER), oneofs)
        yield from _messages(f"{name}.", (*place, DescriptorProto.NESTED_TYPE_FIELD_NUMBER), message.nested_type)
        yield from _enums(f"{name}.", (*place, DescriptorProto.ENUM_TYPE_FIELD_NUMBER), message.enum_type)


def _enums(scope: str, places: Place, enums: Iterable[EnumDescriptorProto]) -> Iterator[tuple[str, Place]]:
    for index, enum in enumerate(enums):
        name, place = f"{scope}{enum.name}", (*places, index)
        yield name, place
        yield from _members(name, (*place, EnumDescriptorProto.VALUE_FIELD_NUMBER), enum.value)


def _members(scope: str, places: Place, members: Iterable[_Named]) -> Iterator[tuple[str, Place]]:
    for index, member in enumerate(members):
        yield f"{scope}.{member.name}", (*places, index)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    target = tmp_path_factory.mktemp("protos") / "described.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", "--include_source_info"]
    subprocess.run([*command, f"--descriptor_set_out={target}", *FILES], check=True, timeout=60)
    return {file.name: file for file in FileDescriptorSet.FromString(target.read_bytes()).file}


@pytest.mark.parametrize("path", FILES)
def test_every_definition_has_a_comment_in_front(described: dict[str, FileDescriptorProto], path: str) -> None:
    file = described[path]
    commented = {tuple(at.path) for at in file.source_code_info.location if at.leading_comments.strip()}
    names = dict(definitions(file))
    assert names
    assert [name for name, place in names.items() if place not in commented] == []
